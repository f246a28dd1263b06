// SPDX-License-Identifier: MIT OR GPL-2.0
/* /init: do=check, do=stress or do=measure of the kernel's command line. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include "guest.h"

int device = -1;
static char line[4096];

static void power_off(void)
{
	fflush(stdout);
	sync();
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

void die(const char *what)
{
	printf("FAIL %s: %s\n", what, strerror(errno));
	power_off();
}

long parameter(const char *name, long otherwise)
{
	char *at = strstr(line, name);

	return at ? atol(at + strlen(name)) : otherwise;
}

long words(unsigned long request, void *at, u64 n, u64 *buffer)
{
	struct extmeta_io io = { (uintptr_t)at, n, (uintptr_t)buffer, 0 };

	if (ioctl(device, request, &io))
		die("words");
	return io.done;
}

struct extmeta_stat side_pages(void)
{
	struct extmeta_stat s;

	if (ioctl(device, EXTMETA_IOC_STAT, &s))
		die("STAT");
	return s;
}

void set_mode(int mode)
{
	if (ioctl(device, EXTMETA_IOC_MODE, mode))
		die("MODE");
}

void map_at(char *at, size_t length)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;

	if (mmap(at, length, PROT_READ | PROT_WRITE, flags, -1, 0) != at)
		die("mmap");
	madvise(at, length, MADV_NOHUGEPAGE);
}

char *map(size_t length, size_t align, size_t shift)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	char *room = mmap(0, length + align + shift, PROT_NONE, flags, -1, 0);
	char *at;

	if (room == MAP_FAILED)
		die("reserve");
	at = (char *)(((uintptr_t)room + align - 1) / align * align) + shift;
	map_at(at, length);
	return at;
}

void touch(char *at, long pages, char value)
{
	for (long i = 0; i < pages; i++)
		at[i * PAGE] = value;
}

void move(char *from, size_t length, char *to)
{
	if (mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		die("mremap");
}

int uffd(void *at, size_t length, int mode)
{
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { { (uintptr_t)at, length }, mode, 0 };

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
		die("userfaultfd");
	return fd;
}

void write_protect(int fd, void *at, size_t length, int on)
{
	struct uffdio_writeprotect range = {
		{ (uintptr_t)at, length }, on ? UFFDIO_WRITEPROTECT_MODE_WP : 0
	};

	if (ioctl(fd, UFFDIO_WRITEPROTECT, &range))
		die("write-protect");
}

size_t uffd_move(int fd, char *to, char *from, size_t length)
{
	size_t done = 0;

	for (int tries = 0; tries < 1000 && done < length; tries++) {
		struct move_range range = {
			(uintptr_t)to + done, (uintptr_t)from + done, length - done, 0, 0
		};
		int failed = ioctl(fd, UFFD_MOVE, &range);

		done += range.moved > 0 ? range.moved : 0;
		if (failed && errno != EAGAIN)
			break;
	}
	return done;
}

void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		printf("cannot write %s to %s: %s\n", text, path, strerror(errno));
	close(fd);
}

static int memory_block(u64 pfn, const char *state)
{
	static u64 pages;
	char text[80];
	int fd, done;

	if (!pages) {
		FILE *size = fopen("/sys/devices/system/memory/block_size_bytes", "r");

		if (!size || !fgets(text, sizeof text, size))
			die("block_size_bytes");
		fclose(size);
		pages = strtoull(text, 0, 16) / PAGE;
	}
	snprintf(text, sizeof text, "/sys/devices/system/memory/memory%llu/state",
		 (long long)(pfn / pages));
	fd = open(text, O_WRONLY);
	done = fd >= 0 && write(fd, state, strlen(state)) > 0;
	close(fd);
	return done;
}

int take_offline(void *at)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	u64 entry;
	int done;

	if (pread(fd, &entry, 8, (uintptr_t)at / PAGE * 8) != 8)
		die("pagemap");
	close(fd);
	done = memory_block(PFN(entry), "offline");
	return done && memory_block(PFN(entry), "online_movable");
}

int swap_on(void)
{
	static char header[4096];
	uint32_t version = 1, last = 128 * 256 - 1;
	int fd = open("/dev/ram0", O_RDWR);

	if (fd < 0)
		return 0;
	memcpy(header + 1024, &version, 4);
	memcpy(header + 1028, &last, 4);
	memcpy(header + 4086, "SWAPSPACE2", 10);
	if (write(fd, header, 4096) != 4096)
		die("/dev/ram0");
	close(fd);
	if (swapon("/dev/ram0", 0))
		die("swapon");
	return 1;
}

/* Print what kmemleak found, if the kernel has it. */
static void print_leaks(void)
{
	char text[4096];
	int fd = open("/sys/kernel/debug/kmemleak", O_RDWR);
	ssize_t n;

	if (fd < 0)
		return;
	/* an object counts once it has been unreferenced in two scans */
	for (int i = 0; i < 2; i++) {
		sleep(6);
		if (write(fd, "scan", 4) != 4)
			die("kmemleak");
	}
	while ((n = read(fd, text, sizeof text)) > 0)
		fwrite(text, 1, n, stdout);
	close(fd);
	printf("LEAKS read\n");
}

static void load_module(void)
{
	int fd = open("/em.ko", O_RDONLY);

	if (fd >= 0 && syscall(SYS_finit_module, fd, "", 0))
		die("em.ko");
}

int main(void)
{
	struct utsname name;
	int fd;

	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, 0);
	mount("sysfs", "/sys", "sysfs", 0, 0);
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, 0);
	mount("devtmpfs", "/dev", "devtmpfs", 0, 0);
	mount("tmpfs", "/tmp", "tmpfs", 0, 0);
	setvbuf(stdout, 0, _IOLBF, 0);
	uname(&name);
	printf("KERNEL %s\n", name.release);
	fd = open("/proc/cmdline", O_RDONLY);
	if (read(fd, line, sizeof line - 1) < 0)
		die("cmdline");
	close(fd);
	load_module();
	device = open("/dev/extmeta", O_RDWR);
	if (strstr(line, "do=check"))
		printf("%s\n", check_all() ? "BAD" : "GOOD");
	else if (strstr(line, "do=stress"))
		printf("%s\n", stress() ? "BAD" : "GOOD");
	else
		measure();
	if (strstr(line, "leaks"))
		print_leaks();
	printf("DONE\n");
	power_off();
}
