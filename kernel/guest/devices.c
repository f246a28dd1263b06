// SPDX-License-Identifier: MIT OR GPL-2.0
/* Words of pages that a processor can't use: they are poisoned, or a device has them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/uio.h>
#include "checks.h"

/* Linux 6.12 include/uapi/asm-generic/mman-common.h */
#define MADVISE_HWPOISON	100
#define MADVISE_SOFT_OFFLINE	101

static sigjmp_buf before;

static void on_bus_error(int signal)
{
	(void)signal;
	siglongjmp(before, 1);
}

/* Who poisons a dirty page gets SIGBUS at once. */
static void poison(char *page)
{
	if (!sigsetjmp(before, 1))
		madvise(page, PAGE, MADVISE_HWPOISON);
}

static int unusable(char *page)
{
	if (sigsetjmp(before, 1))
		return 1;
	(void)*(volatile char *)page;
	return 0;
}

/* Poison the pages from first to last. */
static void poison_all(char *at, int first, int last)
{
	for (int i = first; i <= last; i++) {
		poison(at + i * PAGE);
		OK(unusable(at + i * PAGE), "page %d is not poisoned", i);
	}
}

static void poisoned_memory(void)
{
	char *at = map(LENGTH, PMD, 0), *to = map(LENGTH + PAGE, PMD, PAGE);

	touch(at, N, 1);
	set_all(at, 12);
	poison_all(at, 3, 5);
	OK(!differs(at, expected), "words of poisoned pages");
	in_child(at, has_words, "fork of poisoned pages");
	mprotect(at, LENGTH, PROT_READ);
	mprotect(at, LENGTH, PROT_READ | PROT_WRITE);
	OK(!differs(at, expected), "mprotect of poisoned pages");
	move(at, LENGTH, to);
	OK(!differs(to, expected), "mremap of poisoned pages");
	set_all(to, 13);
	OK(!differs(to, expected), "words written to poisoned pages");
	OK(unusable(to + 4 * PAGE), "a word mends a poisoned page");
	madvise(to + 4 * PAGE, PAGE, MADV_DONTNEED);
	to[4 * PAGE] = 1;
	expected[4] = 0;
	OK(!differs(to, expected), "MADV_DONTNEED of a poisoned page");
	munmap(to, LENGTH);
}

/* A huge page is split first. */
static void poisoned_huge(void)
{
	char *at = map(PMD, PMD, 0);
	u64 word = 77, back = 0;

	madvise(at, PMD, MADV_HUGEPAGE);
	touch(at, 512, 1);
	words(EXTMETA_IOC_SET, at + 5 * PAGE, 1, &word);
	poison_all(at, 5, 5);
	words(EXTMETA_IOC_GET, at + 5 * PAGE, 1, &back);
	OK(back == 77, "a poisoned page of a huge page: %llx", (long long)back);
	munmap(at, PMD);
}

/* A truncation takes the poisoned page, but not its word. */
static void poisoned_file(void)
{
	int fd = file_on_tmpfs();
	char *at = map(LENGTH, PMD, 0);

	if (ftruncate(fd, LENGTH))
		die("ftruncate");
	map_file(at, LENGTH, MAP_SHARED, fd);
	touch(at, N, 1);
	set_all(at, 14);
	poison_all(at, 3, 5);
	OK(!differs(at, expected), "words of a file's poisoned pages");
	in_child(at, has_words, "fork of a file's poisoned pages");
	if (ftruncate(fd, 0) || ftruncate(fd, LENGTH))
		die("ftruncate");
	OK(!differs(at, expected), "truncation of poisoned pages");
	touch(at, N, 2);
	OK(!differs(at, expected), "faults after poisoned pages");
	munmap(at, LENGTH);
	close(fd);
}

/*
 * A pipe's reference keeps the page in the swap cache, and dirty. Its entry is
 * one of swap, until swapoff finds that the page is poisoned.
 */
static void poisoned_swap(void)
{
	char *at = map(LENGTH, PMD, 0), *page = at + 4 * PAGE;
	struct iovec part = { page, PAGE };
	int held[2];

	touch(at, N, 1);
	set_all(at, 15);
	if (pipe(held) || vmsplice(held[1], &part, 1, 0) != (ssize_t)PAGE)
		die("vmsplice");
	madvise(page, PAGE, MADVISE_PAGEOUT);
	OK(swapped(page, 1), "not swapped out");
	(void)*(volatile char *)page;
	poison_all(at, 4, 4);
	OK(swapped(page, 1) && !differs(at, expected), "a poisoned page of the swap cache");
	close(held[0]);
	close(held[1]);
	if (swapoff("/dev/ram0"))
		die("swapoff");
	OK(!differs(at, expected), "swapoff of a poisoned page");
	OK(unusable(page), "swapoff mends a poisoned page");
	if (swapon("/dev/ram0", 0))
		die("swapon");
	munmap(at, LENGTH);
}

/* The page is moved away, and its frame is not used again. */
static void offlined(void)
{
	char *at = map(LENGTH, PMD, 0), *page = at + 4 * PAGE;
	int failed = 1;
	u64 frame;

	touch(at, N, 1);
	set_all(at, 16);
	pagemap(page, 1);
	frame = PFN(entries[0]);
	for (int tries = 0; failed && tries < 10; tries++)
		failed = madvise(page, PAGE, MADVISE_SOFT_OFFLINE);
	pagemap(page, 1);
	OK(PFN(entries[0]) != frame, "MADV_SOFT_OFFLINE: %s", strerror(errno));
	OK(!differs(at, expected), "MADV_SOFT_OFFLINE");
	munmap(at, LENGTH);
}

void poisoned(void)
{
	signal(SIGBUS, on_bus_error);
	poisoned_memory();
	poisoned_huge();
	poisoned_file();
	poisoned_swap();
	offlined();
	signal(SIGBUS, SIG_DFL);
}

/* Linux 6.12 lib/test_hmm_uapi.h: a device that mirrors the process that opens it */
struct mirror { u64 start, buffer, npages, copied, faults; };
#define TO_DEVICE	_IOWR('H', 2, struct mirror)
#define TO_MEMORY	_IOWR('H', 3, struct mirror)
#define EXCLUSIVE	_IOWR('H', 5, struct mirror)
#define RELEASE		_IOWR('H', 7, struct mirror)

static int mirror;

/* All pages of `at`; their contents are copied to the buffer. */
static void mirrored(unsigned long request, char *at, const char *what)
{
	char *buffer = map(LENGTH, PAGE, 0);
	struct mirror range = { (uintptr_t)at, (uintptr_t)buffer, N, 0, 0 };
	int failed = 1;

	for (int tries = 0; failed && tries < 10; tries++)
		failed = ioctl(mirror, request, &range);
	OK(!failed, "%s: %s", what, strerror(errno));
	munmap(buffer, LENGTH);
}

static void protected_and_moved(char *at, char *to, const char *what)
{
	mprotect(at, LENGTH, PROT_READ);
	mprotect(at, LENGTH, PROT_READ | PROT_WRITE);
	OK(swapped(at, N) == N && !differs(at, expected), "mprotect, %s", what);
	move(at, LENGTH, to);
	OK(swapped(to, N) == N && !differs(to, expected), "mremap, %s", what);
}

/* UFFDIO_MOVE refuses them. */
static void not_moved(char *at, const char *what)
{
	char *to = map(LENGTH, PMD, 0);
	int fd = uffd(to, LENGTH, UFFDIO_REGISTER_MODE_MISSING);

	OK(!uffd_move(fd, to, at, LENGTH) && errno == EFAULT, "UFFDIO_MOVE, %s", what);
	close(fd);
	OK(!differs(at, expected), "after UFFDIO_MOVE, %s", what);
	munmap(to, LENGTH);
}

static void dropped_in_part(char *at, const char *what)
{
	madvise(at + 100 * PAGE, 100 * PAGE, MADV_DONTNEED);
	memset(expected + 100, 0, 100 * sizeof *expected);
	OK(!differs(at, expected), "MADV_DONTNEED, %s", what);
}

/* Pages, and zero pages, that are on the device and come back by a fault. */
static void private_pages(void)
{
	char *at = map(LENGTH, PMD, 0), *to = map(LENGTH + PAGE, PMD, PAGE);
	const char *what = "device memory";

	touch(at, N / 2, 1);
	for (int i = N / 2; i < N; i++)
		(void)*(volatile char *)(at + i * PAGE);
	set_all(at, 17);
	mirrored(TO_DEVICE, at, "to device memory");
	OK(swapped(at, N) == N, "%ld pages are on the device", swapped(at, N));
	OK(!differs(at, expected), "device memory");
	in_child(at, has_words, "fork of device memory");
	in_child(at, changes_words, "words of device memory, faults");
	OK(!differs(at, expected), "device memory, parent");
	touch(at, N, 2);
	OK(!swapped(at, N) && !differs(at, expected), "faults on device memory");
	mirrored(TO_DEVICE, at, "to device memory again");
	protected_and_moved(at, to, what);
	not_moved(to, what);
	dropped_in_part(to, what);
	mirrored(TO_MEMORY, to, "from device memory");
	OK(!swapped(to, N) && !differs(to, expected), "from device memory");
	mirrored(TO_DEVICE, to, "to device memory at last");
	mirrored(RELEASE, to, "device memory is gone");
	OK(!swapped(to, N) && !differs(to, expected), "device memory is gone");
	munmap(to, LENGTH);
}

/* Pages in memory that only the device may use, until a fault or fork. */
static void exclusive_pages(void)
{
	char *at = map(LENGTH, PMD, 0), *to = map(LENGTH + PAGE, PMD, PAGE);
	const char *what = "exclusive";

	touch(at, N, 1);
	set_all(at, 18);
	mirrored(EXCLUSIVE, at, what);
	OK(swapped(at, N) == N && !differs(at, expected), "exclusive");
	protected_and_moved(at, to, what);
	not_moved(to, what);
	in_child(to, has_words, "fork of exclusive pages");
	OK(!differs(to, expected), "exclusive, parent");
	mirrored(EXCLUSIVE, to, "exclusive again");
	touch(to, N, 2);
	OK(!swapped(to, N) && !differs(to, expected), "faults on exclusive pages");
	mirrored(EXCLUSIVE, to, "exclusive at last");
	dropped_in_part(to, what);
	munmap(to, LENGTH);
}

void on_device(void)
{
	mirror = open("/dev/hmm_dmirror0", O_RDWR);
	if (mirror < 0)
		die("/dev/hmm_dmirror0");
	private_pages();
	exclusive_pages();
	close(mirror);
}
