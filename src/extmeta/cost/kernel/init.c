/* A program as /init of a virtual machine that has nothing but it.
 *
 * The initramfs holds /init, /programs (the input) and /dev. Answers go to the
 * first serial port, the kernel's words to the second.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

void init_put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return; /* a kernel without this knob */
	if (write(fd, text, strlen(text)) < 0)
		die("%s: %s", path, strerror(errno));
	close(fd);
}

void init_start(void)
{
	struct termios raw;
	int serial;

	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	if (mount("proc", "/proc", "proc", 0, "") ||
	    mount("sysfs", "/sys", "sysfs", 0, "") ||
	    mount("dev", "/dev", "devtmpfs", 0, ""))
		die("mount: %s", strerror(errno));
	serial = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
	if (serial < 0 || !freopen("/programs", "r", stdin))
		die("/dev/ttyS0 or /programs: %s", strerror(errno));
	tcgetattr(serial, &raw);
	cfmakeraw(&raw);
	cfsetspeed(&raw, B115200);
	tcsetattr(serial, TCSANOW, &raw);
	dup2(serial, STDOUT_FILENO);
	dup2(serial, STDERR_FILENO);
	init_put("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	/* What happens shall be what was asked for. */
	init_put("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
		 "4000000000");
}

void init_stop(void)
{
	fflush(stdout);
	tcdrain(STDOUT_FILENO);
	sync();
	/* Ends qemu, which was told not to reboot. To power off takes ACPI. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}
