// SPDX-License-Identifier: MIT OR GPL-2.0
/* Words stay with their PTEs through every operation, in every mode. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "checks.h"

#define FILLER	(256ul << 20)

struct count *count;
u64 expected[N], got[N];
static const u64 none[N];
struct extmeta_stat begun;
int swaps;
static int counted;

void set_all(char *at, u64 salt)
{
	for (int i = 0; i < N; i++)
		expected[i] = i % 3 ? salt * 1000003 + i + 1 : 0;
	words(EXTMETA_IOC_SET, at, N, expected);
}

static int differs_by(unsigned long request, char *at, const u64 *want)
{
	memset(got, 0xff, sizeof got);
	words(request, at, N, got);
	for (int i = 0; i < N; i++)
		if (got[i] != want[i]) {
			printf("  page %d: %llx, expected %llx\n", i,
			       (long long)got[i], (long long)want[i]);
			return 1;
		}
	return 0;
}

int differs(char *at, const u64 *want)
{
	return differs_by(EXTMETA_IOC_GET, at, want) ||
	       (begun.form != EXTMETA_MODULE && differs_by(EXTMETA_IOC_PEEK, at, want));
}

u64 entries[N];

void pagemap(char *at, long n)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (pread(fd, entries, n * 8, (uintptr_t)at / PAGE * 8) != n * 8)
		die("pagemap");
	close(fd);
}

long swapped(char *at, long n)
{
	long found = 0;

	pagemap(at, n);
	for (int i = 0; i < n; i++)
		found += entries[i] >> 62 & 1;
	return found;
}

static long number(const char *path, const char *name)
{
	static char text[8192];
	int fd = open(path, O_RDONLY), n = read(fd, text, sizeof text - 1);
	char *at;

	close(fd);
	if (n < 0)
		die(path);
	text[n] = 0;
	at = strstr(text, name);
	return at ? atol(at + strlen(name)) : -1;
}

void in_child(char *at, int (*check)(char *), const char *what)
{
	pid_t child;
	int status;

	fflush(stdout);
	child = fork();
	if (!child) {
		int failed = check(at);

		fflush(stdout);
		_exit(failed);
	}
	waitpid(child, &status, 0);
	OK(status == 0, "%s (status %x)", what, status);
}

int has_words(char *at)
{
	return differs(at, expected);
}

int changes_words(char *at)
{
	u64 *own = malloc(sizeof expected);

	memcpy(own, expected, sizeof expected);
	for (int i = 0; i < N; i += 7)
		own[i] = 0xabc000 + i;
	words(EXTMETA_IOC_SET, at, N, own);
	if (differs(at, own))
		return 1;
	touch(at, N, 9);	/* copies pages, not words */
	return differs(at, own);
}

/* 256 MiB that are freed later leave holes for compaction. */
static char *filler(void)
{
	char *at = map(FILLER, PMD, 0);

	madvise(at, FILLER, MADV_HUGEPAGE);
	touch(at, FILLER / PAGE, 1);
	return at;
}

static void forks(char *at)
{
	static u64 before[N];
	int gate[2], status;
	pid_t child;
	char c;

	in_child(at, has_words, "the child's words");
	in_child(at, changes_words, "a child that writes words");
	OK(!differs(at, expected), "the parent has the child's words");
	if (pipe(gate))
		die("pipe");
	fflush(stdout);
	child = fork();
	if (!child) {
		int failed = read(gate[0], &c, 1) != 1 || differs(at, expected);

		fflush(stdout);
		_exit(failed);
	}
	memcpy(before, expected, sizeof before);
	set_all(at, 2);
	OK(!differs(at, expected), "words that the parent wrote after fork");
	if (write(gate[1], "x", 1) != 1)
		die("gate");
	waitpid(child, &status, 0);
	OK(status == 0, "the child has words that the parent wrote later");
	close(gate[0]);
	close(gate[1]);
	touch(at, N, 3);
	OK(!differs(at, expected), "reuse after copy on write");
}

static void kept_in_place(char *at)
{
	int fd;

	mprotect(at, LENGTH, PROT_READ);
	mprotect(at, LENGTH, PROT_READ | PROT_WRITE);
	touch(at, N, 3);
	OK(!differs(at, expected), "mprotect");
	fd = uffd(at, LENGTH, UFFDIO_REGISTER_MODE_WP);
	write_protect(fd, at, LENGTH, 1);
	OK(!differs(at, expected), "write-protect");
	write_protect(fd, at, LENGTH, 0);
	touch(at, N, 4);
	OK(!differs(at, expected), "write-unprotect");
	close(fd);
	put("/proc/self/clear_refs", "4");
	touch(at, N, 5);
	OK(!differs(at, expected), "clear_refs");
}

/* Returns where the pages are then: at a multiple of 2 MiB. */
static char *remapped(char *at)
{
	char *by_pte = map(LENGTH + PAGE, PMD, PAGE), *by_table = map(LENGTH, PMD, 0);

	move(at, LENGTH, by_pte);
	OK(!differs(by_pte, expected), "mremap by PTE");
	map_at(at, LENGTH);
	touch(at, N, 1);
	OK(!differs(at, none), "mremap left words behind");
	move(by_pte, LENGTH, at);
	OK(!differs(at, expected), "mremap back");
	move(at, LENGTH, by_table);
	OK(!differs(by_table, expected), "mremap by table");
	return by_table;
}

static void moved_within_a_table(void)
{
	char *at = map(LENGTH, PMD, 0);

	touch(at, N, 1);
	set_all(at, 4);
	move(at + 10 * PAGE, 5 * PAGE, at + 100 * PAGE);
	memcpy(expected + 100, expected + 10, 5 * 8);
	memset(expected + 10, 0, 5 * 8);
	map_at(at + 10 * PAGE, 5 * PAGE);
	touch(at, N, 1);
	OK(!differs(at, expected), "mremap within a table");
	munmap(at, LENGTH);
}

static void dropped(char *at)
{
	madvise(at + 100 * PAGE, 500 * PAGE, MADV_DONTNEED);
	touch(at, N, 1);
	memset(expected + 100, 0, 500 * 8);
	OK(!differs(at, expected), "MADV_DONTNEED");
}

static void migrated(char *at, char *filler[2])
{
	static u64 before[N];

	set_all(at, 3);
	pagemap(at, N);
	memcpy(before, entries, sizeof before);
	munmap(filler[0], FILLER);
	munmap(filler[1], FILLER);
	put("/proc/sys/vm/compact_memory", "1");
	pagemap(at, N);
	for (int i = 0; i < N; i++)
		count->moved += PFN(entries[i]) != PFN(before[i]);
	OK(!differs(at, expected), "migration");
}

static char *swapped_out(char *at)
{
	char *to = map(LENGTH + PAGE, PMD, PAGE);

	madvise(at, LENGTH, MADVISE_PAGEOUT);
	OK(swapped(at, N) > N / 2, "few pages were swapped out");
	OK(!differs(at, expected), "swap-out");
	in_child(at, has_words, "fork of swap entries");
	in_child(at, changes_words, "words of swap entries, swap-in");
	OK(!differs(at, expected), "swap, parent");
	move(at, LENGTH, to);
	OK(!differs(to, expected), "mremap of swap entries");
	madvise(to, LENGTH, MADVISE_PAGEOUT);
	madvise(to + N / 4 * PAGE, 8 * PAGE, MADV_DONTNEED);
	memset(expected + N / 4, 0, 8 * 8);
	touch(to, N / 2, 7);
	OK(!differs(to, expected), "swap-in");
	if (swapoff("/dev/ram0"))
		die("swapoff");
	OK(!swapped(to, N) && !differs(to, expected), "swapoff");
	if (swapon("/dev/ram0", 0))
		die("swapon");
	return to;
}

/* Present pages, a zero page and swap entries. */
static void moved_by_uffd(void)
{
	char *from = map(LENGTH, PMD, 0), *to = map(LENGTH, PMD, 3 * PAGE);
	volatile char *zero = from + 10 * PAGE;
	int fd;

	touch(from, 10, 1);
	(void)*zero;
	touch(from + 11 * PAGE, N - 11, 1);
	set_all(from, 6);
	madvise(from + 600 * PAGE, 100 * PAGE, MADVISE_PAGEOUT);
	OK(swapped(from, N) > 50, "few pages were swapped out");
	fd = uffd(to, LENGTH, UFFDIO_REGISTER_MODE_MISSING);
	OK(uffd_move(fd, to, from, LENGTH) == LENGTH, "UFFDIO_MOVE: %s", strerror(errno));
	close(fd);
	OK(!differs(to, expected), "UFFDIO_MOVE");
	touch(from, N, 1);
	OK(!differs(from, none), "UFFDIO_MOVE left words behind");
	munmap(from, LENGTH);
	munmap(to, LENGTH);
}

/* The bound of a table that is left again and again rises, and stays a bound. */
static void moved_again_and_again(void)
{
	char *from = map(LENGTH, PMD, 0);

	for (int round = 0; round < 16; round++) {
		char *to = map(LENGTH, PMD, 0);
		int fd = uffd(to, LENGTH, UFFDIO_REGISTER_MODE_MISSING);

		touch(from, N, 1);
		set_all(from, round);
		OK(!differs(from, expected), "words of round %d", round);
		OK(uffd_move(fd, to, from, LENGTH) == LENGTH, "UFFDIO_MOVE: %s",
		   strerror(errno));
		close(fd);
		OK(!differs(to, expected), "UFFDIO_MOVE of round %d", round);
		munmap(to, LENGTH);
	}
	munmap(from, LENGTH);
}

static void split_huge_pages(char *at, size_t length)
{
	char text[64];

	snprintf(text, sizeof text, "%d,0x%lx,0x%lx,0", getpid(), (long)at,
		 (long)at + length);
	put("/sys/kernel/debug/split_huge_pages", text);
}

static void huge(void)
{
	char *at = map(PMD, PMD, 0);
	u64 word = 77, back = 0;
	int failed;

	madvise(at, PMD, MADV_HUGEPAGE);
	touch(at, 512, 0);	/* zeros: a split maps the zero page */
	words(EXTMETA_IOC_SET, at + 5 * PAGE, 1, &word);
	words(EXTMETA_IOC_GET, at + 5 * PAGE, 1, &back);
	OK(back == 77, "a word in a huge page");
	OK(madvise(at, PMD, MADVISE_COLLAPSE), "a table with a word was collapsed");
	at[6 * PAGE] = 1;
	words(EXTMETA_IOC_SET, at + 6 * PAGE, 1, &word);
	split_huge_pages(at, PMD);
	for (int i = 5; i < 7; i++) {
		words(EXTMETA_IOC_GET, at + i * PAGE, 1, &back);
		OK(back == 77, "page %d of a split: %llx", i, (long long)back);
	}
	touch(at, 512, 1);
	words(EXTMETA_IOC_GET, at + 5 * PAGE, 1, &back);
	OK(back == 77, "copy on write of a zero page");
	madvise(at + 5 * PAGE, PAGE, MADVISE_PAGEOUT);
	OK(swapped(at + 5 * PAGE, 1), "not swapped out");
	OK(madvise(at, PMD, MADVISE_COLLAPSE), "a swapped word was collapsed");
	word = 0;
	words(EXTMETA_IOC_SET, at + 5 * PAGE, 1, &word);
	words(EXTMETA_IOC_SET, at + 6 * PAGE, 1, &word);
	touch(at, 512, 1);
	failed = madvise(at, PMD, MADVISE_COLLAPSE);
	OK(!failed, "collapse after the words are gone: %s", strerror(errno));
	words(EXTMETA_IOC_GET, at, 512, got);
	for (int i = 0; i < 512; i++)
		OK(!got[i], "page %d has a word after the collapse", i);
	/* the table that the split takes is the one that had words */
	for (int i = 0; i < 512; i++)
		expected[i] = 81;
	words(EXTMETA_IOC_SET, at, 512, expected);
	split_huge_pages(at, PMD);
	words(EXTMETA_IOC_GET, at, 512, got);
	OK(!memcmp(got, expected, PAGE), "split of what was collapsed");
	munmap(at, PMD);
}

/* KSM replaces pages by one with their contents, or by the zero page. */
static long huge_kilobytes(void)
{
	return number("/proc/self/smaps_rollup", "AnonHugePages:");
}

/* In a child: other words for whole huge PMDs, then for a part of one. */
static int changes_huge_words(char *at)
{
	u64 *own = malloc(sizeof expected);

	memcpy(own, expected, sizeof expected);
	for (int i = 0; i < 512; i++)
		own[i] = 78;
	memset(own + 512, 0, 512 * 8);
	words(EXTMETA_IOC_SET, at, N, own);
	if (differs(at, own))
		return 1;
	own[7] = 5;
	own[600] = 6;
	words(EXTMETA_IOC_SET, at, N, own);
	return differs(at, own);
}

/* In a child: a write copies a page, so the huge PMD is split. */
static int copies_huge(char *at)
{
	touch(at + 5 * PAGE, 1, 9);
	touch(at + 700 * PAGE, 1, 9);
	return differs(at, expected);
}

/* A block of memory goes offline, so its huge pages migrate. Some blocks can't. */
static void migrated_huge(void)
{
	char *at = map(FILLER, PMD, 0);
	long i, huge;
	u64 before;

	for (i = 0; i < 512; i++)
		expected[i] = 80;
	madvise(at, FILLER, MADV_HUGEPAGE);
	touch(at, FILLER / PAGE, 1);
	huge = huge_kilobytes();
	for (i = 0; i < FILLER / PMD; i++)
		words(EXTMETA_IOC_SET, at + i * PMD, 512, expected);
	for (i = 0; i < FILLER / PMD; i++) {
		pagemap(at + i * PMD, 1);
		before = PFN(entries[0]);
		if (!take_offline(at + i * PMD))
			continue;
		pagemap(at + i * PMD, 1);
		if (PFN(entries[0]) != before)
			break;
	}
	OK(i < FILLER / PMD, "no huge page migrated");
	OK(huge_kilobytes() == huge, "migration split a huge page");
	for (i = 0; i < FILLER / PMD; i++) {
		long has = words(i % 2 ? EXTMETA_IOC_GET : EXTMETA_IOC_PEEK, at + i * PMD,
				 512, got);

		OK(has == 512 && !memcmp(got, expected, PAGE), "huge page %ld", i);
	}
	munmap(at, FILLER);
}

/* All pages of a huge PMD have one word. A split gives it to the PTEs, and allocates nothing. */
static void huge_words(void)
{
	char *at = map(LENGTH, PMD, 0), *to = map(LENGTH, PMD, 0);
	u64 alloced;
	long huge;
	int fd;

	madvise(at, LENGTH, MADV_HUGEPAGE);
	touch(at, N, 1);
	huge = huge_kilobytes();
	OK(huge == 4096, "%ld kB of huge pages", huge);
	for (int i = 0; i < N; i++)
		expected[i] = i < 512 ? 77 : i < 1024 ? 1ull << 60 : 0;
	words(EXTMETA_IOC_SET, at, N, expected);
	OK(!differs(at, expected), "words of huge PMDs");
	in_child(at, has_words, "a child of huge PMDs");
	in_child(at, changes_huge_words, "a child that changes words of huge PMDs");
	in_child(at, copies_huge, "a child that splits huge PMDs");
	OK(!differs(at, expected), "words of huge PMDs after children");
	kept_in_place(at);
	OK(huge_kilobytes() == huge, "a huge PMD was split");
	move(at, LENGTH, to);
	OK(!differs(to, expected), "mremap of huge PMDs");
	OK(huge_kilobytes() == huge, "mremap split a huge PMD");
	move(to, LENGTH, at);
	OK(!differs(at, expected), "mremap of huge PMDs, back");
	alloced = side_pages().alloced;
	split_huge_pages(at, PMD);
	OK(huge_kilobytes() == huge - 2048, "a huge page was not split");
	OK(!differs(at, expected), "split of a huge page with a word");
	madvise(at + 530 * PAGE, PAGE, MADV_DONTNEED);
	expected[530] = 0;
	OK(!differs(at, expected), "split of a huge PMD with a word");
	OK(side_pages().alloced == alloced, "a split allocated side memory");
	in_child(at, changes_words, "a child of split huge PMDs");
	OK(!differs(at, expected), "the child's words in the parent");
	map_at(at, LENGTH);

	madvise(at, LENGTH, MADV_HUGEPAGE);
	touch(at, N, 1);
	OK(!differs(at, none), "words of huge PMDs survive munmap");
	for (int i = 0; i < N; i++)
		expected[i] = i < 1024 ? 79 : 0;
	words(EXTMETA_IOC_SET, at, N, expected);
	map_at(to, LENGTH);
	fd = uffd(to, LENGTH, UFFDIO_REGISTER_MODE_MISSING);
	OK(uffd_move(fd, to, at, 2 * PMD) == 2 * PMD, "UFFDIO_MOVE of huge PMDs");
	OK(!differs(to, expected), "words after UFFDIO_MOVE of huge PMDs");
	close(fd);
	map_at(to, LENGTH);

	map_at(at, LENGTH);
	madvise(at, LENGTH, MADV_HUGEPAGE);
	touch(at, N, 1);
	words(EXTMETA_IOC_SET, at, N, expected);
	madvise(at, PMD, MADV_DONTNEED);
	madvise(at + PMD, PMD, MADV_FREE);
	madvise(at + PMD, PMD, MADVISE_PAGEOUT);
	touch(at, N, 1);
	OK(!differs(at, none), "words of huge pages that are gone");
	munmap(at, LENGTH);
	munmap(to, LENGTH);
}

static void merged(int zero)
{
	char *at = map(LENGTH, PMD, 0);
	long same = 0;

	for (int i = 0; i < N; i++)
		memset(at + i * PAGE, zero ? 0 : 1 + i / 2 % 4, PAGE);
	set_all(at, 8);
	put("/sys/kernel/mm/ksm/use_zero_pages", zero ? "1" : "0");
	put("/sys/kernel/mm/ksm/pages_to_scan", "100000");
	put("/sys/kernel/mm/ksm/sleep_millisecs", "1");
	madvise(at, LENGTH, MADV_MERGEABLE);
	put("/sys/kernel/mm/ksm/run", "1");
	for (int tries = 0; tries < 100 && same < N / 2; tries++) {
		usleep(100000);
		pagemap(at, N);
		same = 0;
		for (int i = 0; i < N; i++)
			same += PFN(entries[i]) == PFN(entries[0]);
		same *= zero ? 1 : 4;
	}
	put("/sys/kernel/mm/ksm/run", "0");
	OK(same >= N / 2, "KSM merged %ld pages", same);
	OK(!differs(at, expected), "KSM%s", zero ? ", zero pages" : "");
	touch(at, N, 5);
	OK(!differs(at, expected), "copy on write of KSM pages");
	munmap(at, LENGTH);
}

/* Linux 6.12 mm/gup_test.h */
struct pin { u64 address, size; uint32_t flags; };
#define PIN_START	_IOW('g', 7, struct pin)
#define PIN_STOP	_IO('g', 8)

/* Fork copies a pinned page at once. */
static void pinned(void)
{
	char *at = map(LENGTH, PMD, 0);
	struct pin pin = { (uintptr_t)at, 16 * PAGE, 1 };
	int fd = open("/sys/kernel/debug/gup_test", O_RDWR);

	touch(at, N, 1);
	set_all(at, 9);
	if (fd < 0 || ioctl(fd, PIN_START, &pin))
		die("gup_test");
	in_child(at, has_words, "a pinned page in the child");
	OK(!differs(at, expected), "a pinned page in the parent");
	if (ioctl(fd, PIN_STOP))
		die("gup_test");
	close(fd);
	munmap(at, LENGTH);
}

void map_file(char *at, size_t length, int flags, int fd)
{
	if (mmap(at, length, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) != at)
		die("mmap of a file");
}

/* Only a PTE that maps something, or has a word, can get another. */
static int changes_markers(char *at)
{
	u64 *own = malloc(sizeof expected);

	memcpy(own, expected, sizeof expected);
	for (int i = 0; i < N; i += 7)
		if (own[i])
			own[i] = i % 2 ? 0xdef000 + i : 0;
	words(EXTMETA_IOC_SET, at, N, own);
	if (differs(at, own))
		return 1;
	touch(at, N, 9);
	return differs(at, own);
}

static void paged_out(char *at)
{
	madvise(at, LENGTH, MADVISE_PAGEOUT);
	OK(swapped(at, N) > N / 2, "few PTEs of a file have markers");
	OK(!differs(at, expected), "page-out of a file");
}

/* UFFDIO_CONTINUE replaces a marker. */
static void continued(int fd, char *at)
{
	long done = 0;

	for (int i = 0; i < N; i++) {
		struct uffdio_continue range = { { (uintptr_t)at + i * PAGE, PAGE }, 0, 0 };

		done += !ioctl(fd, UFFDIO_CONTINUE, &range);
	}
	OK(done > N / 2, "UFFDIO_CONTINUE of %ld pages", done);
	OK(!differs(at, expected), "UFFDIO_CONTINUE");
}

/* What others do to a file keeps a mapping's words; what unmaps them drops them. */
static void mapped_file(int fd, int flags)
{
	char *at = map(LENGTH, PMD, 0), *to = map(LENGTH + PAGE, PMD, PAGE);
	volatile char *read_only = at;
	int wp;

	if (ftruncate(fd, LENGTH))
		die("ftruncate");
	map_file(at, LENGTH, flags, fd);
	touch(at, N / 2, 1);
	for (int i = N / 2; i < N; i++)
		(void)read_only[i * PAGE];
	set_all(at, 10);
	OK(!differs(at, expected), "words of a file");
	in_child(at, has_words, "a file's words in the child");
	in_child(at, changes_words, "a child that writes a file's words");
	OK(!differs(at, expected), "the parent has the child's words of a file");
	paged_out(at);
	in_child(at, has_words, "fork of markers");
	in_child(at, changes_markers, "words of markers");
	OK(!differs(at, expected), "markers, parent");
	for (int i = 0; i < N; i += 2)
		(void)read_only[i * PAGE];
	OK(!differs(at, expected), "read faults at markers");
	touch(at, N, 2);
	OK(!differs(at, expected), "write faults at markers");
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100 * PAGE, 500 * PAGE))
		die("fallocate");
	OK(!differs(at, expected), "a hole in a file");
	in_child(at, has_words, "fork of a hole");
	if (ftruncate(fd, 300 * PAGE) || ftruncate(fd, LENGTH))
		die("ftruncate");
	OK(!differs(at, expected), "truncation");
	touch(at, N, 3);
	OK(!differs(at, expected), "faults after truncation");

	paged_out(at);
	wp = uffd(at, LENGTH, UFFDIO_REGISTER_MODE_WP);
	write_protect(wp, at, LENGTH, 1);
	OK(!differs(at, expected), "write-protected markers");
	in_child(at, has_words, "fork of write-protected markers");
	move(at, LENGTH, to);
	OK(!differs(to, expected), "mremap of write-protected markers");
	close(wp);
	move(to, LENGTH, at);
	OK(!differs(at, expected), "mremap of markers");
	wp = uffd(at, LENGTH, UFFDIO_REGISTER_MODE_WP);
	write_protect(wp, at, LENGTH, 1);
	write_protect(wp, at, LENGTH, 0);
	OK(!differs(at, expected), "markers, no longer write-protected");
	close(wp);
	if (flags & MAP_SHARED) {
		wp = uffd(at, LENGTH, UFFDIO_REGISTER_MODE_MINOR);
		continued(wp, at);
		close(wp);
	}
	touch(at, N, 4);
	OK(!differs(at, expected), "faults after userfaultfd");

	madvise(at + 600 * PAGE, 100 * PAGE, MADVISE_PAGEOUT);
	madvise(at + 550 * PAGE, 100 * PAGE, MADV_DONTNEED);
	memset(expected + 550, 0, 100 * 8);
	OK(!differs(at, expected), "MADV_DONTNEED of a file");
	munmap(at, LENGTH);
	map_file(at, LENGTH, flags, fd);
	touch(at, N, 5);
	OK(!differs(at, none), "a file's words survive munmap");
	munmap(at, LENGTH);
	munmap(to, LENGTH);
	close(fd);
}

int file_on_tmpfs(void)
{
	int fd = open("/tmp/file", O_RDWR | O_CREAT, 0600);

	unlink("/tmp/file");
	if (fd < 0)
		die("/tmp/file");
	return fd;
}

/* Linux 6.12 include/uapi/linux/fs.h and userfaultfd.h */
struct scan {
	u64 size, flags, start, end, walk_end, regions, nr_regions, max_pages;
	u64 inverted, mask, any_of, returned;
};
struct region { u64 start, end, categories; };
#define PAGEMAP_SCAN		_IOWR('f', 16, struct scan)
#define SCAN_PROTECT		1	/* the pages that are found */
#define IS_WRITTEN		2
#define UFFD_WP_ASYNC		(1 << 15)

static long written(char *at, int flags)
{
	static struct region regions[N];
	struct scan scan = {
		sizeof scan, flags, (uintptr_t)at, (uintptr_t)at + LENGTH, 0,
		(uintptr_t)regions, N, 0, 0, IS_WRITTEN, 0, IS_WRITTEN
	};
	int fd = open("/proc/self/pagemap", O_RDONLY), n = ioctl(fd, PAGEMAP_SCAN, &scan);
	long pages = 0;

	if (n < 0)
		die("PAGEMAP_SCAN");
	close(fd);
	for (int i = 0; i < n; i++)
		pages += (regions[i].end - regions[i].start) / PAGE;
	return pages;
}

/* PAGEMAP_SCAN protects markers with words as it does other PTEs. */
static void scanned_file(void)
{
	int fd = file_on_tmpfs(), wp = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_WP_ASYNC };
	char *at = map(LENGTH, PMD, 0);
	volatile char *read_only = at;
	struct uffdio_register range = {
		{ (uintptr_t)at, LENGTH }, UFFDIO_REGISTER_MODE_WP, 0
	};

	if (ftruncate(fd, LENGTH))
		die("ftruncate");
	map_file(at, LENGTH, MAP_SHARED, fd);
	touch(at, N, 1);
	set_all(at, 11);
	paged_out(at);
	if (wp < 0 || ioctl(wp, UFFDIO_API, &api) || ioctl(wp, UFFDIO_REGISTER, &range))
		die("userfaultfd");
	OK(written(at, SCAN_PROTECT) == N, "PAGEMAP_SCAN of markers");
	OK(written(at, 0) == 0, "markers that PAGEMAP_SCAN did not protect");
	OK(!differs(at, expected), "PAGEMAP_SCAN");
	for (int i = 0; i < N / 2; i++)
		(void)read_only[i * PAGE];
	OK(written(at, 0) == 0, "read faults lose the protection of markers");
	touch(at, N / 4, 2);
	OK(written(at, 0) == N / 4, "%ld pages are written", written(at, 0));
	OK(!differs(at, expected), "faults after PAGEMAP_SCAN");
	close(wp);
	munmap(at, LENGTH);
	close(fd);
}

/* A collapse of a file's pages keeps the words, and a huge page of a file is split. */
static void collapsed_file(void)
{
	int fd = file_on_tmpfs();
	char *at = map(PMD, PMD, 0), *again = map(PMD, PMD, 0);
	u64 word[512];

	if (ftruncate(fd, PMD))
		die("ftruncate");
	map_file(at, PMD, MAP_SHARED, fd);
	for (int i = 0; i < 512; i++)
		word[i] = i + 1;
	touch(at, 512, 1);
	words(EXTMETA_IOC_SET, at, 512, word);
	madvise(at, PMD, MADVISE_COLLAPSE);
	OK(words(EXTMETA_IOC_GET, at, 512, got) == 512, "words after a collapse");
	OK(!memcmp(got, word, sizeof word), "the words after a collapse");
	map_file(again, PMD, MAP_SHARED, fd);
	again[0] = 1;
	OK(words(EXTMETA_IOC_SET, again, 512, word) == 512, "a file's huge page is not split");
	touch(at, 512, 2);
	touch(again, 512, 2);
	for (char *one = at; one; one = one == at ? again : 0) {
		OK(words(EXTMETA_IOC_GET, one, 512, got) == 512, "words of a huge page");
		OK(!memcmp(got, word, sizeof word), "the words of a huge page");
	}
	munmap(at, PMD);
	munmap(again, PMD);
	close(fd);
}

/* A file takes over a table that has words of memory that is gone. */
static void collapsed_table(void)
{
	int fd = file_on_tmpfs();
	char *at = map(PMD, PMD, 0), *half = at + PMD / 2;
	int flags = MAP_SHARED | MAP_FIXED;
	u64 word = 1;

	if (ftruncate(fd, PMD))
		die("ftruncate");
	map_file(at, PMD / 2, MAP_SHARED, fd);
	touch(half, 256, 1);
	words(EXTMETA_IOC_SET, half, 1, &word);
	if (mmap(half, PMD / 2, PROT_READ | PROT_WRITE, flags, fd, PMD / 2) != half)
		die("mmap of a file");
	touch(at, 512, 1);
	OK(!madvise(at, PMD, MADVISE_COLLAPSE), "collapse: %s", strerror(errno));
	OK(words(EXTMETA_IOC_GET, at, 512, got) == 0, "words of memory that is gone");
	munmap(at, PMD);
	close(fd);
}

/* VmPTE has the side pages of a process; a table without words has none if counted. */
static void accounted(void)
{
	char *at = map(512 * PAGE, PMD, 0);
	u64 word[512], live = side_pages().live;
	long before;

	for (int i = 0; i < 512; i++)
		word[i] = i + 1;
	touch(at, 512, 1);
	before = number("/proc/self/status", "VmPTE:");
	words(EXTMETA_IOC_SET, at, 512, word);
	if (begun.form != EXTMETA_IS_ADJACENT) {
		OK(number("/proc/self/status", "VmPTE:") == before + 4, "VmPTE");
		OK(side_pages().live == live + 1, "side pages");
	}
	memset(word, 0xff, sizeof word);
	word[5] = 0;
	words(EXTMETA_IOC_SET, at, 512, word);
	words(EXTMETA_IOC_GET, at, 512, got);
	OK(got[4] == 5 && !got[5] && got[6] == 7, "PTEs that SET keeps");
	madvise(at, 511 * PAGE, MADV_DONTNEED);
	OK(!counted || side_pages().live == live + 1, "a side page with one word left");
	madvise(at + 511 * PAGE, PAGE, MADV_DONTNEED);
	if (counted) {
		OK(side_pages().live == live, "an empty side page was kept");
		OK(number("/proc/self/status", "VmPTE:") == before, "VmPTE of no words");
	}
	munmap(at, 512 * PAGE);
}

#define ENTRIES	512	/* of a table */

static u64 bytes_before;

/* The adaptive form has side memory of that many bytes at most. */
static void takes(u64 most, const char *what)
{
	u64 bytes = side_pages().bytes - bytes_before;

	if (begun.form == EXTMETA_IS_ADAPTIVE)
		OK(bytes <= most, "%s: %llu bytes", what, (long long)bytes);
}

/* Words for n PTEs of a table, the others have none. */
static void fill(int n, u64 word, u64 step)
{
	memset(expected, 0, sizeof expected);
	for (int i = 0; i < n; i++, word += step)
		expected[i * 211 % ENTRIES] = word;
}

static void writes(char *at, u64 most, const char *what)
{
	words(EXTMETA_IOC_SET, at, ENTRIES, expected);
	OK(!differs(at, expected), "%s", what);
	takes(most, what);
	in_child(at, has_words, what);
	in_child(at, changes_words, what);
	OK(!differs(at, expected), "%s: the child's words in the parent", what);
}

/* The words of one table: equal, few, many, from one to the next and back. */
static void contained(void)
{
	char *at = map(LENGTH, PMD, 0), *to = map(LENGTH, PMD, PAGE);
	u64 word;

	touch(at, N, 1);
	bytes_before = side_pages().bytes;
	fill(ENTRIES, 5, 0);
	writes(at, 0, "equal words");
	fill(ENTRIES, 1ull << 60, 0);
	writes(at, 32, "wide equal words");
	fill(ENTRIES, 6, 0);
	writes(at, 0, "other equal words");
	expected[77] = 9;
	writes(at, PAGE, "equal words but one");
	fill(ENTRIES, 1ull << 60, 0);
	writes(at, 32, "equal words in place of others");
	fill(0, 0, 0);
	writes(at, 32, "no words");
	fill(5, 100, 1);
	writes(at, 96, "five words");
	move(at, LENGTH, to);
	OK(!differs(to, expected), "mremap of five words");
	takes(2 * 96, "mremap of five words");
	move(to, LENGTH, at);
	OK(!differs(at, expected), "mremap of five words, back");
	map_at(at, LENGTH);
	touch(at, N, 1);
	map_at(to, LENGTH);
	fill(0, 0, 0);
	/* one by one, and at last all PTEs of the table have one */
	for (int i = 0; i < ENTRIES; i++) {
		int place = i * 211 % ENTRIES;

		word = expected[place] = i < 2 ? 7 : 1000 + i;
		words(EXTMETA_IOC_SET, at + place * PAGE, 1, &word);
		OK(!differs(at, expected), "%d words, one by one", i + 1);
		if (i % 37 == 0)
			in_child(at, changes_words, "words one by one, child");
	}
	for (int i = 0; i < ENTRIES; i++)
		if (i % 100)
			expected[i] = 0;
	madvise(at + PAGE, 99 * PAGE, MADV_DONTNEED);
	touch(at, N, 1);
	words(EXTMETA_IOC_SET, at, ENTRIES, expected);
	for (int i = 0; i < ENTRIES; i++)
		expected[i] += expected[i] != 0;
	/* a list of words that were moved away may be left at `to` */
	writes(at, 2 * 96, "six words are left");
	move(at, LENGTH, to);
	OK(!differs(to, expected), "mremap of six words");
	munmap(to, LENGTH);
	munmap(at, LENGTH);
}

static void check(int mode)
{
	char *at, *holes[2];

	set_mode(mode);
	begun = side_pages();
	counted = mode & EXTMETA_COUNT;
	holes[0] = filler();
	at = map(LENGTH, PMD, 0);
	touch(at, N, 1);
	holes[1] = filler();
	OK(!differs(at, none), "a fresh page has a word");
	set_all(at, 1);
	OK(!differs(at, expected), "set and get");
	forks(at);
	kept_in_place(at);
	at = remapped(at);
	dropped(at);
	migrated(at, holes);
	if (swaps)
		at = swapped_out(at);
	munmap(at, LENGTH);
	map_at(at, LENGTH);
	touch(at, N, 1);
	OK(!differs(at, none), "words survive munmap");
	munmap(at, LENGTH);
	moved_within_a_table();
	OK(!counted || side_pages().live == begun.live, "side pages without words are left");
	if (begun.form != EXTMETA_MODULE) {
		moved_by_uffd();
		moved_again_and_again();
		huge();
		huge_words();
		migrated_huge();
		merged(0);
		merged(1);
		pinned();
		mapped_file(file_on_tmpfs(), MAP_SHARED);
		mapped_file(memfd_create("words", 0), MAP_SHARED);
		mapped_file(file_on_tmpfs(), MAP_PRIVATE);
		collapsed_file();
		collapsed_table();
		scanned_file();
		poisoned();
		if (parameter("devices=", 1))
			on_device();
		accounted();
		contained();
	}
}

int check_all(void)
{
	int form = side_pages().form, modes = modes_of(form);

	swaps = swap_on();
	if (!swaps && form != EXTMETA_MODULE)
		die("no /dev/ram0");
	if (parameter("modes=", modes) < modes)
		modes = parameter("modes=", modes);
	count = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int mode = 0; mode < modes; mode++) {
		u64 live = side_pages().live;
		int bad = count->bad, status;
		pid_t child;

		fflush(stdout);
		child = fork();
		if (!child) {
			check(mode);
			fflush(stdout);
			_exit(0);
		}
		waitpid(child, &status, 0);
		OK(status == 0, "the process of mode %d ended with %x", mode, status);
		OK(side_pages().live == live, "side pages leaked in mode %d", mode);
		printf("MODE %d %s\n", mode, count->bad > bad ? "bad" : "good");
	}
	OK(count->moved, "compaction moved no page");
	printf("CHECKS %d good, %d bad\n", count->good, count->bad);
	return count->bad;
}
