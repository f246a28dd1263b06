/* The driver as /init of a virtual machine that has nothing but it.
 *
 * The initramfs holds /init (this program), /programs (the input), /loop.ko and
 * /dev. Answers go to the first serial port, the kernel's words to the second.
 * Swap is a loop device on a file in memory: like a disk it is asynchronous,
 * which zram and brd are not, and those take another path in do_swap_page().
 */
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define SWAP_BYTES (64UL << 20)

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return; /* a kernel without this knob */
	if (write(fd, text, strlen(text)) < 0)
		die("%s: %s", path, strerror(errno));
	close(fd);
}

/* Layout of the header: Linux v6.12 include/linux/swap.h union swap_header. */
static void write_swap_header(int fd)
{
	uint32_t header[PAGE / 4] = {0};

	header[1024 / 4] = 1;
	header[1024 / 4 + 1] = SWAP_BYTES / PAGE - 1;
	memcpy((char *)header + PAGE - 10, "SWAPSPACE2", 10);
	if (pwrite(fd, header, PAGE, 0) != PAGE || ftruncate(fd, SWAP_BYTES))
		die("/swap: %s", strerror(errno));
}

static void make_swap(void)
{
	int module = open("/loop.ko", O_RDONLY);
	int file = open("/swap", O_RDWR | O_CREAT, 0600), loop;

	if (module < 0)
		return;
	if (syscall(SYS_finit_module, module, "", 0))
		die("loop.ko: %s", strerror(errno));
	write_swap_header(file);
	loop = open("/dev/loop0", O_RDWR);
	if (loop < 0 || ioctl(loop, LOOP_SET_FD, file) || swapon("/dev/loop0", 0))
		die("swap on /dev/loop0: %s", strerror(errno));
}

void guest_start(void)
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
	put("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	/* What happens shall be what was asked for. */
	put("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
	    "4000000000");
	make_swap();
}

void guest_stop(void)
{
	fflush(stdout);
	tcdrain(STDOUT_FILENO);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
