/* The driver as /init of a virtual machine that has nothing but it.
 *
 * To what the package's init.c has, this adds swap: a loop device on a file in
 * memory. Its module is /loop.ko, unless the kernel has it built in. Like a disk it is asynchronous, which zram and brd are not,
 * and those take another path in do_swap_page().
 */
#include "driver.h"

#include "../../src/extmeta/cost/kernel/init.c"

#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/swap.h>
#include <sys/syscall.h>

#define SWAP_BYTES (64UL << 20)

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
	int file, loop;

	if (module >= 0 && syscall(SYS_finit_module, module, "", 0))
		die("loop.ko: %s", strerror(errno));
	loop = open("/dev/loop0", O_RDWR);
	if (loop < 0)
		return;
	file = open("/swap", O_RDWR | O_CREAT, 0600);
	write_swap_header(file);
	if (ioctl(loop, LOOP_SET_FD, file) || swapon("/dev/loop0", 0))
		die("swap on /dev/loop0: %s", strerror(errno));
}

void guest_start(void)
{
	init_start();
	make_swap();
}

void guest_stop(void)
{
	init_stop();
}
