// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Threads and processes that fault, fork, swap, compact, move, split, collapse
 * and write words at once. Each slot of pages has one owner, who knows its words.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "guest.h"

#define OWNERS	4	/* the last one's pages are a file's */
#define N	1100l	/* pages of an owner: more than two tables */
#define FILLER	(256ul << 20)
#define RACE_SECONDS 5	/* in each mode */

static atomic_int stop;
static struct shared { atomic_long wrong, again, steps[16], peeks; } *shared;

struct owner {
	char *at, *other;	/* where the pages are, and room of the same size */
	u64 expected[N], got[N];
	unsigned int seed;
	int number, fd;		/* of a file that is mapped, or 0 */
};

static unsigned int draw(struct owner *o, unsigned int below)
{
	return rand_r(&o->seed) / 7 % below;
}

static int wrong(struct owner *o, unsigned long request)
{
	words(request, o->at, N, o->got);
	for (int i = 0; i < N; i++)
		if (o->got[i] != o->expected[i]) {
			printf("WRONG %s of owner %d page %d: %llx, expected %llx\n",
			       request == EXTMETA_IOC_PEEK ? "peek" : "get", o->number,
			       i, (long long)o->got[i], (long long)o->expected[i]);
			shared->wrong++;
			return 1;
		}
	return 0;
}

static void write_words(struct owner *o)
{
	u64 new[N], equal = (u64)o->number << 48 | rand_r(&o->seed);
	int first = draw(o, N), n = 1 + draw(o, N - first), kept = draw(o, 3);
	int differ = draw(o, 2), wanted = 0;

	if (!draw(o, 4)) {	/* whole tables, at first */
		first = 0;
		n = N;
	}
	for (int i = 0; i < n; i++)
		new[i] = !draw(o, 4) ? 0 : !differ ? equal :
			 (u64)o->number << 48 | rand_r(&o->seed);
	/* none, a quarter, or nearly all PTEs keep their words */
	for (int i = 0; i < n; i++)
		if (kept && (kept == 2 ? draw(o, 64) : !draw(o, 4)))
			new[i] = EXTMETA_KEEP;
	for (int i = 0; i < n; i++)
		wanted += new[i] && new[i] != EXTMETA_KEEP;
	/*
	 * A PTE that maps nothing gets no word. Compaction may split a huge page of the
	 * file after the touch, which unmaps it.
	 */
	if (o->fd)
		touch(o->at + first * PAGE, n, 4);
	while (words(EXTMETA_IOC_SET, o->at + first * PAGE, n, new) < wanted && o->fd) {
		shared->again++;
		touch(o->at + first * PAGE, n, 4);
	}
	for (int i = 0; i < n; i++)
		if (new[i] != EXTMETA_KEEP)
			o->expected[first + i] = new[i];
}

/* One word for all pages of a huge PMD. A table that has words does not become one. */
static void write_huge_word(struct owner *o)
{
	char *huge = (char *)(((uintptr_t)o->at + PMD - 1) / PMD * PMD);
	u64 *expected = o->expected + (huge - o->at) / PAGE;

	memset(expected, 0, 512 * 8);
	words(EXTMETA_IOC_SET, huge, 512, expected);
	madvise(o->at, N * PAGE, MADV_HUGEPAGE);
	madvise(huge, PMD, MADVISE_COLLAPSE);
	expected[0] = (u64)o->number << 48 | rand_r(&o->seed);
	for (int i = 1; i < 512; i++)
		expected[i] = expected[0];
	words(EXTMETA_IOC_SET, huge, 512, expected);
}

static void fork_and_check(struct owner *o)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		return;
	if (!child) {
		int failed = wrong(o, EXTMETA_IOC_GET);

		for (int i = 0; i < 3 && !failed; i++) {
			write_words(o);
			touch(o->at + draw(o, N) * PAGE, 1, 1);
			failed = wrong(o, EXTMETA_IOC_GET);
		}
		_exit(failed);
	}
	touch(o->at, N / 2, 2);
	write_words(o);
	waitpid(child, &status, 0);
	if (status) {
		shared->wrong++;
		printf("WRONG child of owner %d: %x\n", o->number, status);
	}
}

/* Page by page if the pages are of several VMAs. */
static void move_pages(char *from, long pages, char *to)
{
	size_t length = pages * PAGE;

	if (mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		for (long i = 0; i < pages; i++)
			move(from + i * PAGE, PAGE, to + i * PAGE);
	map_at(from, length);
}

static void swap_places(struct owner *o, long moved)
{
	char *from = o->at;

	if (moved < N)
		move_pages(from + moved * PAGE, N - moved, o->other + moved * PAGE);
	o->at = o->other;
	o->other = from;
}

/* What UFFDIO_MOVE can't move, mremap moves. */
static void move_by_uffd(struct owner *o)
{
	int fd = uffd(o->other, N * PAGE, UFFDIO_REGISTER_MODE_MISSING);
	size_t moved = uffd_move(fd, o->other, o->at, N * PAGE);

	close(fd);
	swap_places(o, moved / PAGE);
}

static void drop(struct owner *o)
{
	int first = draw(o, 3) ? draw(o, N) : 0, n = N - first;

	if (first) {
		madvise(o->at + first * PAGE, n * PAGE, MADV_DONTNEED);
	} else {
		map_at(o->at, N * PAGE);	/* one VMA again */
		map_at(o->other, N * PAGE);
	}
	memset(o->expected + first, 0, n * 8);
	touch(o->at + first * PAGE, n, 1);
}

static void protect(struct owner *o)
{
	mprotect(o->at, N * PAGE, PROT_READ);
	mprotect(o->at, N * PAGE, PROT_READ | PROT_WRITE);
}

static void split(struct owner *o)
{
	char text[64];

	madvise(o->at, N * PAGE, MADV_HUGEPAGE);
	madvise(o->at, N * PAGE, MADVISE_COLLAPSE);
	snprintf(text, sizeof text, "%d,0x%lx,0x%lx,0", getpid(), (long)o->at,
		 (long)o->at + N * PAGE);
	int fd = open("/sys/kernel/debug/split_huge_pages", O_WRONLY);

	if (write(fd, text, strlen(text)) < 0 && errno != EBUSY && errno != EINVAL &&
	    errno != EAGAIN)
		printf("split: %s\n", strerror(errno));
	close(fd);
}

static void *own(void *arg)
{
	struct owner *o = arg;

	touch(o->at, N, 1);
	while (!stop) {
		int step = draw(o, 12);

		switch (step) {
		case 0: fork_and_check(o); break;
		case 1: swap_places(o, 0); break;
		case 2: move_by_uffd(o); break;
		case 3: drop(o); break;
		case 4: madvise(o->at, N * PAGE, MADVISE_PAGEOUT); break;
		case 5: touch(o->at, N, 3); break;
		case 6: protect(o); break;
		case 7: split(o); break;
		case 8:
		case 9: write_huge_word(o); break;
		default: write_words(o);
		}
		shared->steps[step]++;
		if (wrong(o, EXTMETA_IOC_GET) || wrong(o, EXTMETA_IOC_PEEK))
			stop = 1;
	}
	return 0;
}

static void unmap_by_file(struct owner *o)
{
	long first = draw(o, N), n = 1 + draw(o, N - first);

	if (fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first * PAGE, n * PAGE))
		die("fallocate");
}

static void move_file(struct owner *o)
{
	char *from = o->at;

	move(from, N * PAGE, o->other);
	map_at(from, N * PAGE);
	o->at = o->other;
	o->other = from;
}

/* The same for a file: its pages go, and its PTEs keep their words. */
static void *own_file(void *arg)
{
	struct owner *o = arg;

	while (!stop) {
		int step = draw(o, 9);

		switch (step) {
		case 0: fork_and_check(o); break;
		case 1: move_file(o); break;
		case 2: unmap_by_file(o); break;
		case 3: madvise(o->at, N * PAGE, MADVISE_COLLAPSE); break;
		case 4: madvise(o->at, N * PAGE, MADVISE_PAGEOUT); break;
		case 5: touch(o->at, N, 3); break;
		case 6: protect(o); break;
		default: write_words(o);
		}
		shared->steps[12]++;
		if (wrong(o, EXTMETA_IOC_GET) || wrong(o, EXTMETA_IOC_PEEK))
			stop = 1;
	}
	return 0;
}

/* Reads others' words without the lock: each is 0 or its owner's. */
static void *peek(void *arg)
{
	struct owner *owners = arg;
	u64 got[N];

	while (!stop)
		for (int i = 0; i < OWNERS; i++) {
			words(EXTMETA_IOC_PEEK, owners[i].at, N, got);
			for (int k = 0; k < N; k++)
				if (got[k] && got[k] >> 48 != owners[i].number) {
					printf("WRONG peek: %llx\n", (long long)got[k]);
					shared->wrong++;
					stop = 1;
				}
			shared->peeks++;
		}
	return 0;
}

static void *compact(void *unused)
{
	(void)unused;
	while (!stop) {
		put("/proc/sys/vm/compact_memory", "1");
		put("/proc/self/clear_refs", "4");
	}
	return 0;
}

/* Huge PMDs migrate too. */
static void *go_offline(void *arg)
{
	struct owner *owners = arg;

	while (!stop)
		for (int i = 0; i < OWNERS; i++)
			take_offline(owners[i].at + N / 2 * PAGE);
	return 0;
}

/* Changes protection while pages migrate, and leaves them writable. */
static void *protect_all(void *arg)
{
	struct owner *owners = arg;

	for (int exec = PROT_EXEC; !stop; exec ^= PROT_EXEC)
		for (int i = 0; i < OWNERS; i++)
			mprotect(owners[i].at, N * PAGE, PROT_READ | PROT_WRITE | exec);
	return 0;
}

/* A word is set while its table is collapsed again and again. */
static void *collapse(void *at)
{
	while (!stop)
		madvise(at, PMD, MADVISE_COLLAPSE);
	return 0;
}

static void spin(long microseconds)
{
	struct timespec now, end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_nsec += microseconds * 1000;
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
		now.tv_nsec += (now.tv_sec - end.tv_sec) * 1000000000l;
	} while (now.tv_nsec < end.tv_nsec);
}

static void *race(void *at)
{
	for (u64 word = 1; !stop; word++) {
		u64 got = 0, zero = 0;

		words(EXTMETA_IOC_SET, (char *)at + 300 * PAGE, 1, &word);
		words(EXTMETA_IOC_GET, (char *)at + 300 * PAGE, 1, &got);
		if (got != word) {
			printf("WRONG race: %llx\n", (long long)got);
			shared->wrong++;
			stop = 1;
		}
		words(EXTMETA_IOC_SET, (char *)at + 300 * PAGE, 1, &zero);
		spin(word % 64 * 32);	/* a collapse may begin */
	}
	return 0;
}

/*
 * Only these two run. While a collapse scans the table, the other waits for its
 * lock; it sets the word before the collapse has mmap_lock for write, so that
 * __collapse_huge_page_isolate() finds the word. EXTMETA_SITES makes the scan slow.
 */
static void collapse_and_race(long seconds)
{
	char *huge = map(PMD, PMD, 0);
	pthread_t threads[2];

	madvise(huge, PMD, MADV_HUGEPAGE);
	touch(huge, 512, 1);
	pthread_create(&threads[0], 0, collapse, huge);
	pthread_create(&threads[1], 0, race, huge);
	sleep(seconds);
	stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], 0);
	stop = 0;
	munmap(huge, PMD);
}

static atomic_int goes_offline;

static void *offline_one(void *at)
{
	take_offline(at);
	goes_offline = 0;
	return 0;
}

static void nothing(int signal)
{
	(void)signal;
}

/* Wait until pagemap shows a migration entry, which it calls swapped. */
static void wait_for_migration(void *at)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	u64 entry = 0;

	while (goes_offline && !(entry >> 62 & 1))
		if (pread(fd, &entry, 8, (uintptr_t)at / PAGE * 8) != 8)
			die("pagemap");
	close(fd);
}

/*
 * A page that a pipe holds can't migrate. The kernel tries again and again, so fork
 * or mprotect meets the huge PMD's migration entry. The page is new each time, since
 * only then it is writable.
 */
static int change_while_migrating(char *huge, int forks)
{
	struct iovec page = { huge, PAGE };
	u64 word[512], got[512];
	pid_t child = 1;
	pthread_t thread;
	int fds[2], status = 0;

	for (int i = 0; i < 512; i++)
		word[i] = 1ull << 50;
	map_at(huge, PMD);
	madvise(huge, PMD, MADV_HUGEPAGE);
	touch(huge, 512, 1);
	words(EXTMETA_IOC_SET, huge, 512, word);
	if (pipe(fds) || vmsplice(fds[1], &page, 1, 0) != PAGE)
		die("vmsplice");
	goes_offline = 1;
	pthread_create(&thread, 0, offline_one, huge);
	wait_for_migration(huge);
	if (forks)
		child = fork();
	else
		mprotect(huge, PMD, PROT_READ);
	words(EXTMETA_IOC_GET, huge, 512, got);
	if (!child)
		_exit(!!memcmp(got, word, sizeof word));
	if (forks)
		waitpid(child, &status, 0);
	while (goes_offline) {
		pthread_kill(thread, SIGUSR1);
		usleep(1000);
	}
	pthread_join(thread, 0);
	close(fds[0]);
	close(fds[1]);
	return status || memcmp(got, word, sizeof word);
}

static void migrate_and_change(long seconds)
{
	char *huge = map(PMD, PMD, 0);

	signal(SIGUSR1, nothing);
	for (time_t end = time(0) + seconds; time(0) < end;)
		for (int forks = 0; forks < 2; forks++)
			if (change_while_migrating(huge, forks)) {
				printf("WRONG words of a huge page that migrates\n");
				shared->wrong++;
			}
	munmap(huge, PMD);
}

/* KSM merges pages of the owners that have the same contents. */
static void ksm(struct owner *owners)
{
	put("/sys/kernel/mm/ksm/use_zero_pages", "1");
	put("/sys/kernel/mm/ksm/pages_to_scan", "2000");
	put("/sys/kernel/mm/ksm/sleep_millisecs", "20");
	madvise(owners[0].at, N * PAGE, MADV_MERGEABLE);
	put("/sys/kernel/mm/ksm/run", "1");
}

/* Takes the huge pages that the kernel's own memory lies between, which can't go offline. */
static char *filler(void)
{
	char *at = map(FILLER, PMD, 0);

	madvise(at, FILLER, MADV_HUGEPAGE);
	touch(at, FILLER / PAGE, 1);
	return at;
}

static void run(int mode, long seconds)
{
	struct owner owners[OWNERS] = { 0 };
	char *filled = filler();
	struct owner *file = &owners[OWNERS - 1];
	pthread_t threads[OWNERS + 4];

	set_mode(mode);
	stop = 0;
	collapse_and_race(RACE_SECONDS);
	migrate_and_change(RACE_SECONDS);
	for (int i = 0; i < OWNERS; i++) {
		owners[i].at = map(N * PAGE, PMD, (OWNERS - 1 - i) * PAGE);
		/* the first one's huge PMDs stay whole when they move */
		owners[i].other = map(N * PAGE, PMD, (OWNERS - 1 - i + !!i) * PAGE);
		owners[i].number = i + 1;
		owners[i].seed = mode * 100 + i;
	}
	file->fd = memfd_create("words", 0);
	if (file->fd < 0 || ftruncate(file->fd, N * PAGE) ||
	    mmap(file->at, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 file->fd, 0) != file->at)
		die("memfd");
	ksm(owners);
	for (int i = 0; i < OWNERS; i++)
		pthread_create(&threads[i], 0, i == OWNERS - 1 ? own_file : own, &owners[i]);
	pthread_create(&threads[OWNERS], 0, peek, owners);
	pthread_create(&threads[OWNERS + 1], 0, protect_all, owners);
	pthread_create(&threads[OWNERS + 2], 0, compact, 0);
	pthread_create(&threads[OWNERS + 3], 0, go_offline, owners);
	for (long i = 0; i < seconds && !stop; i++)
		sleep(1);
	stop = 1;
	for (int i = 0; i < OWNERS + 4; i++)
		pthread_join(threads[i], 0);
	munmap(filled, FILLER);
}

#define SCATTERED (200l * 256)	/* 200 MiB */

/* Frees pages at random, lets compaction fill the holes, and takes pages again. */
static void *scatter(void *arg)
{
	char *scattered = arg;

	for (unsigned int seed = 0; !stop; seed++) {
		for (long i = 0; i < SCATTERED && !stop; i++)
			if (rand_r(&seed) & 1)
				madvise(scattered + i * PAGE, PAGE, MADV_DONTNEED);
		put("/proc/sys/vm/compact_memory", "1");
		touch(scattered, SCATTERED, 1);
	}
	return 0;
}

/* Words that nobody writes, of pages that compaction moves: both reads find all. */
static int migrated(long seconds)
{
	char *scattered = map(SCATTERED * PAGE, PMD, PAGE), *at = map(N * PAGE, PMD, PAGE);
	unsigned long requests[] = { EXTMETA_IOC_GET, EXTMETA_IOC_PEEK };
	static u64 expected[N], got[N];
	long none[2] = { 0 }, wrong = 0, rounds = 0;
	pthread_t thread;

	madvise(scattered, SCATTERED * PAGE, MADV_NOHUGEPAGE);
	madvise(at, N * PAGE, MADV_NOHUGEPAGE);
	for (long i = 0; i < N; i++) {
		touch(scattered + i * (SCATTERED / N) * PAGE, SCATTERED / N, 1);
		touch(at + i * PAGE, 1, 1);
		expected[i] = i + 1;
	}
	words(EXTMETA_IOC_SET, at, N, expected);
	pthread_create(&thread, 0, scatter, scattered);
	for (time_t end = time(0) + seconds; time(0) < end; rounds++)
		for (int request = 0; request < 2; request++) {
			words(requests[request], at, N, got);
			for (int i = 0; i < N; i++) {
				none[request] += !got[i];
				wrong += got[i] && got[i] != expected[i];
			}
		}
	stop = 1;
	pthread_join(thread, 0);
	printf("STRESS %ld rounds of %ld words: none %ld times under the PTL, %ld without; "
	       "%ld wrong\n", rounds, N, none[0], none[1], wrong);
	return wrong || none[0] || none[1];
}

int stress(void)
{
	int modes = modes_of(side_pages().form);
	long seconds = parameter("seconds=", 60), steps = 0;
	u64 live = side_pages().live;

	if (parameter("migrate=", 0))
		return migrated(seconds);
	if (!swap_on())
		die("no /dev/ram0");
	shared = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int mode = 0; mode < modes; mode++) {
		pid_t child;
		int status;

		fflush(stdout);
		child = fork();
		if (!child) {
			run(mode, seconds / modes);
			fflush(stdout);
			_exit(0);
		}
		waitpid(child, &status, 0);
		if (status || side_pages().live != live) {
			printf("WRONG mode %d: status %x, %llu side pages left\n", mode,
			       status, side_pages().live - live);
			shared->wrong++;
		}
	}
	for (int i = 0; i < 13; i++)
		steps += shared->steps[i];
	put("/sys/kernel/mm/ksm/run", "0");
	printf("STRESS %ld seconds, %ld steps, %ld lockless reads of %ld words, %ld wrong; "
	       "%ld writes tried again\n",
	       seconds, steps, (long)shared->peeks, N, (long)shared->wrong,
	       (long)shared->again);
	return shared->wrong;
}
