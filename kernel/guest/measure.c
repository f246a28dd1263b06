// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Instructions a PTE of each operation. Under icount the time stamp counter
 * counts guest instructions. Each phase is also marked for the cache model by a
 * nop whose displacement names it.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "guest.h"

/* cachesim.c and measure.py number the phases in this order. */
#define PHASES(X) \
	X(touch_fault) X(set_words) X(get_words) X(peek_words) \
	X(fork_1st) X(child_exit1) X(fork_2nd) X(child_exit2) \
	X(cow_reuse_fault) X(mprotect_ro) X(mprotect_rw) X(uffd_wp_on) X(uffd_wp_off) \
	X(mremap_ptes) X(mremap_tables) X(fork_3rd) X(cow_copy_fault) X(child_exit3) \
	X(life_0) X(life_1) X(life_10) X(life_50) X(life_100) \
	X(life_pages_1) X(life_pages_10) X(life_pages_50) X(life_pages_100) \
	X(life_tables_1) X(life_tables_10) X(life_tables_50) \
	X(munmap) \
	X(huge_fault) X(huge_set) X(huge_get) X(huge_peek) X(huge_fork) X(huge_exit) \
	X(huge_mremap) X(huge_split) X(huge_munmap)
#define NAME(n) #n,
#define NUMBER(n) n##_,
enum { PHASES(NUMBER) NPHASES };
static const char *const names[] = { PHASES(NAME) };

/* Less than an interrupt of the clock takes, and more than two readings of it. */
#define TICK	1000
#define REFRESHES 60
#define FILL	(10ul << 20)	/* an idle processor keeps 7 MiB of 2 GiB */

/*
 * Where the pages are at first, and after each mremap(). A table of the second
 * place has other PTEs than one of the first. No mapping is left behind, so each
 * run finds the same VMAs.
 */
#define PLACE(n) ((char *)(((n) + 1ul) << 40) + ((n) ? PAGE : 0))

static double result[16][NPHASES], *row;
static double side_bytes;	/* of a table's words, once they are set */
static long pages;

static inline u64 ticks(void)
{
	uint32_t low, high;

	asm volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) :: "memory");
	return (u64)high << 32 | low;
}

/*
 * The machine at rest. The page allocator's lists of free pages are filled with
 * more than they keep on an idle machine, and each refresh takes an eighth of what
 * is too much. RCU's callbacks run while we sleep, in virtual time. An operation
 * begins after a tick of the clock.
 */
static void rest(void)
{
	char *taken = mmap(0, FILL, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	u64 before, now;

	if (taken == MAP_FAILED)
		die("fill");
	munmap(taken, FILL);
	usleep(50000);
	for (int i = 0; i < REFRESHES; i++)
		put("/proc/sys/vm/stat_refresh", "1");
	now = ticks();
	do {
		before = now;
		now = ticks();
	} while (now - before < TICK);
}

#define MARK(n) \
	asm volatile(".byte 0x0f, 0x1f, 0x80, %c0, 0x57, 0x4d, 0x45" :: "i"(n) : "memory")
#define PHASE(name, statement) do {					\
		rest();							\
		MARK(16 + name##_);					\
		u64 start = ticks();					\
		statement;						\
		u64 end = ticks();					\
		MARK(0);						\
		row[name##_] = (double)(end - start) / pages;		\
	} while (0)

/* A child that waits until the pipe is closed. */
static pid_t waiting_child(int gate[2])
{
	pid_t child = fork();
	char c;

	if (child < 0)
		die("fork");
	if (!child) {
		close(gate[1]);
		if (read(gate[0], &c, 1) < 0)
			_exit(1);
		_exit(0);
	}
	return child;
}

#define FORK(name)							\
	if (pipe(gate))							\
		die("pipe");						\
	PHASE(name, child = waiting_child(gate));			\
	usleep(20000);	/* virtual time: the child gets to its read() */	\
	close(gate[0])
#define EXIT(name)							\
	PHASE(name, { close(gate[1]); waitpid(child, &status, 0); })

enum what { NOTHING, WORDS, PAGES };

/* A child writes the words that are not KEEP, or a byte in the pages of those, and exits. */
static void life(char *at, u64 *written, enum what what)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		die("fork");
	if (!child) {
		if (what == WORDS && device >= 0)
			words(EXTMETA_IOC_SET, at, pages, written);
		for (long i = 0; what == PAGES && i < pages; i++)
			if (written[i] != EXTMETA_KEEP)
				at[i * PAGE] = 4;
		_exit(0);
	}
	waitpid(child, &status, 0);
}

static u64 state = 1;

static u64 drawn(void)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return state >> 33;
}

/*
 * New words for a share of the PTEs at random, or for one PTE in a share of the
 * tables. They are the same PTEs in each run.
 */
static void draw(u64 *written, const u64 *word, int percent, int tables)
{
	state = percent;
	memset(written, 0xff, pages * sizeof *written);
	if (tables) {
		long n = pages / 512, share = (n * percent + 99) / 100;

		for (long i = 0; i < share; i++)
			written[i * n / share * 512 + 7] = 3;
		return;
	}
	for (long i = 0; i < pages; i++)
		if ((long)(drawn() % 100) < percent)
			written[i] = word[i] + 1;
}

#define LIFE(name, percent, what)					\
	draw(written, word, percent, 0);				\
	PHASE(name, life(at, written, what))
#define LIFE_TABLES(name, percent)					\
	draw(written, word, percent, 1);				\
	PHASE(name, life(at, written, WORDS))

static void once(u64 *word, u64 *got, u64 *written, long percent)
{
	size_t length = pages * PAGE;
	struct uffdio_range range;
	int gate[2], status, fd;
	pid_t child;
	char *at = PLACE(0), *to;

	map_at(at, length);

	PHASE(touch_fault, touch(at, pages, 1));
	if (percent) {
		u64 before = side_pages().bytes;

		PHASE(set_words, words(EXTMETA_IOC_SET, at, pages, word));
		side_bytes = (side_pages().bytes - before) * 512.0 / pages;
		PHASE(get_words, words(EXTMETA_IOC_GET, at, pages, got));
		if (memcmp(word, got, length / 512))
			die("words differ");
		PHASE(peek_words, words(EXTMETA_IOC_PEEK, at, pages, got));
		if (memcmp(word, got, length / 512))
			die("peeked words differ");
	}
	FORK(fork_1st);
	EXIT(child_exit1);
	FORK(fork_2nd);
	EXIT(child_exit2);
	PHASE(cow_reuse_fault, touch(at, pages, 2));
	PHASE(mprotect_ro, mprotect(at, length, PROT_READ));
	PHASE(mprotect_rw, mprotect(at, length, PROT_READ | PROT_WRITE));
	touch(at, pages, 2);
	fd = uffd(at, length, UFFDIO_REGISTER_MODE_WP);
	PHASE(uffd_wp_on, write_protect(fd, at, length, 1));
	PHASE(uffd_wp_off, write_protect(fd, at, length, 0));
	range = (struct uffdio_range){ (uintptr_t)at, length };
	if (ioctl(fd, UFFDIO_UNREGISTER, &range))
		die("unregister");
	close(fd);
	to = PLACE(1);
	PHASE(mremap_ptes, move(at, length, to));
	at = PLACE(2);
	PHASE(mremap_tables, move(to, length, at));
	FORK(fork_3rd);
	PHASE(cow_copy_fault, touch(at, pages, 3));
	EXIT(child_exit3);
	LIFE(life_0, 0, NOTHING);
	LIFE(life_1, 1, WORDS);
	LIFE(life_10, 10, WORDS);
	LIFE(life_50, 50, WORDS);
	LIFE(life_100, 100, WORDS);
	LIFE(life_pages_1, 1, PAGES);
	LIFE(life_pages_10, 10, PAGES);
	LIFE(life_pages_50, 50, PAGES);
	LIFE(life_pages_100, 100, PAGES);
	LIFE_TABLES(life_tables_1, 1);
	LIFE_TABLES(life_tables_10, 10);
	LIFE_TABLES(life_tables_50, 50);
	if (percent) {
		words(EXTMETA_IOC_GET, at, pages, got);
		if (memcmp(word, got, length / 512))
			die("words differ at the end");
	}
	PHASE(munmap, munmap(at, length));
}

/* The same pages as huge pages, each of which has one word or none. */
static void once_huge(u64 *word, u64 *got, int flagged)
{
	size_t length = pages * PAGE;
	char *at = PLACE(0), *to = PLACE(3) - PAGE;
	int gate[2], status;
	pid_t child;

	map_at(at, length);
	madvise(at, length, MADV_HUGEPAGE);
	PHASE(huge_fault, touch(at, pages, 1));
	if (flagged) {
		PHASE(huge_set, words(EXTMETA_IOC_SET, at, pages, word));
		PHASE(huge_get, words(EXTMETA_IOC_GET, at, pages, got));
		if (memcmp(word, got, length / 512))
			die("words of huge pages differ");
		PHASE(huge_peek, words(EXTMETA_IOC_PEEK, at, pages, got));
	}
	FORK(huge_fork);
	EXIT(huge_exit);
	PHASE(huge_mremap, move(at, length, to));
	PHASE(huge_split, for (size_t i = 0; i < length; i += PMD)
				  madvise(to + i, PAGE, MADV_DONTNEED));
	if (flagged) {
		words(EXTMETA_IOC_GET, to, pages, got);
		if (got[0] || memcmp(word + 1, got + 1, 511 * sizeof *got))
			die("words of split pages differ");
	}
	PHASE(huge_munmap, munmap(to, length));
}

void measure(void)
{
	long mib = parameter("mib=", 64), runs = parameter("runs=", 2);
	long percent = device < 0 ? 0 : parameter("pct=", 0);
	long equal = parameter("equal=", 0);
	u64 *word, *one, *got, *written;

	pages = mib * 256;
	word = calloc(pages, sizeof *word);
	one = malloc(pages * sizeof *one);
	got = malloc(pages * sizeof *got);
	written = malloc(pages * sizeof *written);
	/* present before anything is counted */
	memset(got, 0, pages * sizeof *got);
	memset(written, 0xff, pages * sizeof *written);
	for (long i = 0; i < pages; i++)
		one[i] = i / 512 + 1;
	if (device >= 0)
		set_mode(parameter("mode=", 0));
	for (long i = 0; i < pages; i++)
		word[i] = (long)(drawn() % 100) < percent ? (equal ? 1 : i + 1) : 0;
	sleep(5);	/* virtual time, so it is free: the boot's work ends */
	for (int i = 0; i < runs; i++) {
		row = result[i];
		once(word, got, written, percent);
		once_huge(one, got, percent == 100);
	}
	printf("PTES %ld\n", pages);
	for (int phase = 0; phase < NPHASES; phase++) {
		printf("RESULT %s", names[phase]);
		for (int i = 0; i < runs; i++)
			printf(" %.3f", result[i][phase]);
		printf("\n");
	}
	if (device >= 0) {
		struct extmeta_stat s = side_pages();

		printf("RESULT side_bytes %.1f\n", side_bytes);
		printf("STAT live %llu alloced %llu copied %llu shared %llu\n",
		       s.live, s.alloced, s.copied, s.shared);
	}
}
