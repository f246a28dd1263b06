/* Ticks of the kernel's operations on a range of written anonymous pages.
 *
 * One line `t OPERATION PAGES ROUND TICKS` for each round. Two sizes compared
 * round by round give ticks per PTE. Under `-icount shift=0` a tick is an
 * instruction. Each call runs in a process of its own, so that the rounds of two
 * sizes start alike; a forked child waits until the parent's clock has stopped.
 */
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* At the start of a table, far from everything else. */
#define SOURCE 0x4000000000UL
#define TARGET 0x5000000000UL

static u64 ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}

struct range {
	u64 length;
	int uffd, pagemap, clear_refs;
	u64 *words; /* room for the pagemap */
};

static void check(int ok, const char *what)
{
	if (!ok)
		die("time %s: %s", what, strerror(errno));
}

static void fill(const struct range *r)
{
	u64 at;
	void *where = mmap((void *)SOURCE, r->length, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	check(where != MAP_FAILED, "mmap");
	/* A THP would be one entry. */
	check(!madvise(where, r->length, MADV_NOHUGEPAGE) || errno == EINVAL,
	      "madvise");
	for (at = 0; at < r->length; at += PAGE)
		*(volatile char *)(SOURCE + at) = 1;
}

static u64 time_fork(const struct range *r)
{
	u64 start, took;
	int pipes[2], child;
	char byte;

	(void)r;
	check(!pipe(pipes), "fork");
	start = ticks();
	child = fork();
	took = ticks() - start;
	if (!child) {
		close(pipes[1]);
		_exit(read(pipes[0], &byte, 1) != 0);
	}
	check(child > 0, "fork");
	close(pipes[0]);
	close(pipes[1]);
	check(waitpid(child, NULL, 0) == child, "fork");
	return took;
}

static u64 time_wp(const struct range *r, int on)
{
	u64 start = ticks();

	check(!uffd_writeprotect(r->uffd, SOURCE, r->length, on), "uffd wp");
	return ticks() - start;
}

static u64 time_wp_on(const struct range *r)
{
	return time_wp(r, 1);
}

static u64 time_wp_off(const struct range *r)
{
	check(!uffd_writeprotect(r->uffd, SOURCE, r->length, 1), "uffd wp");
	return time_wp(r, 0);
}

static u64 time_scan(const struct range *r, u64 category)
{
	struct scan_region region;
	struct scan scan = {
		.size = sizeof(scan), .start = SOURCE, .end = SOURCE + r->length,
		.vec = (u64)&region, .vec_len = 1,
		.category_mask = category, .return_mask = category,
	};
	u64 start = ticks();

	check(ioctl(r->pagemap, SCAN_IOCTL, &scan) == 1, "pagemap_scan");
	return ticks() - start;
}

static u64 time_scan_written(const struct range *r)
{
	return time_scan(r, SCAN_WRITTEN);
}

static u64 time_scan_present(const struct range *r)
{
	return time_scan(r, SCAN_PRESENT);
}

static u64 time_pagemap(const struct range *r)
{
	ssize_t bytes = r->length / PAGE * 8;
	u64 start = ticks();

	check(pread(r->pagemap, r->words, bytes, SOURCE / PAGE * 8) == bytes,
	      "pagemap");
	return ticks() - start;
}

static u64 time_clear_refs(const struct range *r)
{
	u64 start = ticks();

	check(write(r->clear_refs, "4", 1) == 1, "clear_refs");
	return ticks() - start;
}

static u64 time_munmap(const struct range *r)
{
	u64 start = ticks();

	check(!munmap((void *)SOURCE, r->length), "munmap");
	return ticks() - start;
}

static u64 time_mprotect(const struct range *r)
{
	u64 start = ticks();

	check(!mprotect((void *)SOURCE, r->length, PROT_READ), "mprotect");
	return ticks() - start;
}

/* One page off, since whole tables are moved by their pointer. */
static u64 time_mremap(const struct range *r)
{
	u64 start = ticks(), took;
	void *where = mremap((void *)SOURCE, r->length, r->length,
			     MREMAP_MAYMOVE | MREMAP_FIXED, TARGET + PAGE);

	took = ticks() - start;
	check(where != MAP_FAILED, "mremap");
	check(!munmap(where, r->length), "munmap");
	return took;
}

static const struct {
	const char *name;
	u64 (*time)(const struct range *);
	int uffd;
} TIMED[] = {
	{"fork", time_fork, 0},
	{"uffd_wp_on", time_wp_on, 1},
	{"uffd_wp_off", time_wp_off, 1},
	{"pagemap_scan_written", time_scan_written, 1},
	{"pagemap_scan_present", time_scan_present, 0},
	{"pagemap", time_pagemap, 0},
	{"clear_refs", time_clear_refs, 0},
	{"munmap", time_munmap, 0},
	{"mprotect", time_mprotect, 0},
	{"mremap", time_mremap, 0},
};

/* An operation that this kernel lacks has no lines. */
static void run(int which, u64 pages, u64 rounds)
{
	struct range r = {.length = pages * PAGE, .uffd = -1};
	u64 round, *took = calloc(rounds, sizeof(*took));

	r.pagemap = proc_open(getpid(), "pagemap", O_RDONLY);
	r.clear_refs = proc_open(getpid(), "clear_refs", O_WRONLY);
	r.words = calloc(pages, sizeof(*r.words));
	check(r.pagemap >= 0 && r.clear_refs >= 0 && r.words && took, "set-up");
	memset(r.words, 1, pages * sizeof(*r.words));
	if (TIMED[which].uffd) {
		r.uffd = uffd_open(WP_ASYNC | WP_UNPOPULATED | 1, NULL);
		if (r.uffd < 0)
			return;
	}
	for (round = 0; round < rounds; round++) {
		fill(&r);
		if (r.uffd >= 0)
			check(!uffd_register(r.uffd, SOURCE, r.length), "register");
		took[round] = TIMED[which].time(&r);
		munmap((void *)SOURCE, r.length);
	}
	for (round = 0; round < rounds; round++)
		printf("t %s %lu %lu %lu\n", TIMED[which].name, pages, round,
		       took[round]);
	fflush(stdout);
}

int time_operation(const char *name, u64 pages, u64 rounds)
{
	int which, count = sizeof(TIMED) / sizeof(*TIMED), child;

	for (which = 0; which < count && strcmp(TIMED[which].name, name);)
		which++;
	if (which == count)
		return -1;
	fflush(stdout);
	child = fork();
	if (!child) {
		struct sched_param first = {.sched_priority = 1};

		/* Kernel threads wait until the clock has stopped; without the
		 * privilege the clock has them in it. */
		sched_setscheduler(0, SCHED_FIFO, &first);
		signal(SIGCHLD, SIG_DFL);
		run(which, pages, rounds);
		_exit(0);
	}
	check(child > 0, "fork");
	/* SIGCHLD is ignored: this waits, and then finds no child. */
	waitpid(child, NULL, 0);
	return 0;
}
