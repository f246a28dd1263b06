/* /init of a guest whose memory is dumped: page tables with every kind of PTE.
 *
 * It loads /qemu_fw_cfg.ko, which hands VMCOREINFO to QEMU, maps memory at 1 TiB, and
 * prints the words of its pagemap there. Then it waits.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ul
#define AT (1ul << 40)
#define LEAF (2ul << 20)
#define PLACE ((char *)AT)

static char *put(unsigned long offset, unsigned long bytes, int flags)
{
	char *p = mmap(PLACE + offset, bytes, PROT_READ | PROT_WRITE,
		       MAP_ANONYMOUS | MAP_FIXED | flags, -1, 0);
	if (p == MAP_FAILED) { perror("mmap"); exit(1); }
	return p;
}

static void put_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		perror(path);
	close(fd);
}

static void touch(char *at, unsigned long first, unsigned long stop, unsigned long step)
{
	for (; first < stop; first += step)
		at[first * PAGE] = 1;
}

int main(void)
{
	mkdir("/proc", 0755); mkdir("/sys", 0755); mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, "");
	mount("sysfs", "/sys", "sysfs", 0, "");
	mount("dev", "/dev", "devtmpfs", 0, "");
	int tty = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
	dup2(tty, 1); dup2(tty, 2);
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	int ko = open("/qemu_fw_cfg.ko", O_RDONLY);
	if (syscall(SYS_finit_module, ko, "", 0)) perror("qemu_fw_cfg.ko");
	put_text("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	int pagemap = open("/proc/self/pagemap", O_RDONLY);

	char *plain = put(0, 16 * LEAF, MAP_PRIVATE);       /* every 7th of 1,000 pages */
	touch(plain, 0, 1000, 7);
	char *huge = put(16 * LEAF, 2 * LEAF, MAP_PRIVATE);
	madvise(huge, 2 * LEAF, MADV_HUGEPAGE);
	huge[0] = 1;                                        /* one leaf of 2 MiB */
	char *none = put(32 * LEAF, 64 * PAGE, MAP_PRIVATE);
	touch(none, 0, 32, 1);
	mprotect(none, 64 * PAGE, PROT_NONE);
	char *shared = put(48 * LEAF, 64 * PAGE, MAP_SHARED);
	touch(shared, 0, 64, 4);
	volatile char *zero = put(56 * LEAF, 16 * PAGE, MAP_PRIVATE);
	for (int i = 0; i < 16; i += 2) (void)zero[i * PAGE];   /* the page of zeros: special */
	put_text("/proc/self/clear_refs", "4");
	touch(plain, 0, 1000, 21);                          /* soft-dirty again */

	char *guarded = put(64 * LEAF, 64 * PAGE, MAP_PRIVATE);
	touch(guarded, 0, 16, 1);
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | (1 << 13) /* WP_UNPOPULATED */ };
	if (ioctl(uffd, UFFDIO_API, &api)) perror("UFFDIO_API");
	struct uffdio_register reg = { .range = { AT + 64 * LEAF, 64 * PAGE }, .mode = UFFDIO_REGISTER_MODE_WP };
	if (ioctl(uffd, UFFDIO_REGISTER, &reg)) perror("UFFDIO_REGISTER");
	struct uffdio_writeprotect wp = { .range = { AT + 64 * LEAF, 24 * PAGE }, .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp)) perror("UFFDIO_WRITEPROTECT");

	for (unsigned long vpn = AT / PAGE; vpn < AT / PAGE + 80 * LEAF / PAGE; vpn++) {
		uint64_t word;
		if (pread(pagemap, &word, 8, vpn * 8) == 8 && word >> 62)
			printf("%lx %lx\n", vpn, word);
	}
	printf("bye\n");
	fflush(stdout);
	for (;;) pause();
}
