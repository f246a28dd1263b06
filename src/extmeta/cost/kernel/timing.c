/* Clocks around the kernel's operations on a range of written anonymous pages.
 *
 * Two sizes compared round by round give the cost of a PTE: what does not grow
 * with the range drops out. Each call measures in a process of its own, so that
 * the rounds of two sizes start alike; a forked child waits until the parent's
 * clock has stopped. Under qemu's `-icount shift=0` a tick is an instruction.
 *
 * The process is made from one that may have threads, so after the fork nothing
 * here allocates, and nothing runs that was registered for forks.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "timing.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* At the start of a table, far from everything else. */
#define SOURCE 0x4000000000UL
#define TARGET 0x5000000000UL

/* What follows may be newer than a distribution's headers.
 * include/uapi/linux/userfaultfd.h (Linux v6.12) */
#define UFFD_FEATURES (1ULL /* PAGEFAULT_FLAG_WP */ | 1 << 13 | 1 << 15)
#define USER_MODE_ONLY 1
struct range_of_uffd { uint64_t start, length; };
struct api { uint64_t api, features, ioctls; };
struct registration { struct range_of_uffd range; uint64_t mode, ioctls; };
struct protection { struct range_of_uffd range; uint64_t mode; };
#define API_IOCTL _IOWR(0xAA, 0x3F, struct api)
#define REGISTER_IOCTL _IOWR(0xAA, 0x00, struct registration)
#define WRITEPROTECT_IOCTL _IOWR(0xAA, 0x06, struct protection)
#define REGISTER_WP 2

/* include/uapi/linux/fs.h (Linux v6.12) */
struct found { uint64_t start, end, categories; };
struct pagemap_scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, mask, anyof, returned;
};
#define SCAN_IOCTL_ _IOWR('f', 16, struct pagemap_scan)
#define WRITTEN 2
#define PRESENT 8

#define PAGEMAP_SOFT_DIRTY 55

/* Shared with the process that measures. */
struct outcome {
	int over, error;
	char step[64];
	uint64_t took[];
};

struct range {
	uint64_t pages, length;
	int uffd, pagemap, clear_refs;
	uint64_t *words; /* room for the pagemap */
	uint64_t (*now)(void);
	struct outcome *outcome;
};

static uint64_t ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static uint64_t ticks(void)
{
#ifdef __x86_64__
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
#else
	return ns();
#endif
}

/* Not fork(): what libraries registered for it would run. */
static int fork_bare(void)
{
#ifdef SYS_fork
	return (int)syscall(SYS_fork);
#else
	return (int)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
#endif
}

static void check(const struct range *r, int ok, const char *step)
{
	if (ok)
		return;
	r->outcome->error = errno;
	strncpy(r->outcome->step, step, sizeof(r->outcome->step) - 1);
	r->outcome->over = 1;
	_exit(0);
}

static void fill(const struct range *r)
{
	uint64_t at, page = r->length / r->pages;
	void *where = mmap((void *)SOURCE, r->length, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	check(r, where == (void *)SOURCE, "mmap");
	/* A THP would be one entry. */
	check(r, !madvise(where, r->length, MADV_NOHUGEPAGE) || errno == EINVAL,
	      "madvise");
	for (at = 0; at < r->length; at += page)
		*(volatile char *)(SOURCE + at) = 1;
}

static uint64_t time_fork(const struct range *r)
{
	uint64_t start, took;
	int pipes[2], child;
	char byte;

	check(r, !pipe(pipes), "pipe");
	start = r->now();
	child = fork_bare();
	took = r->now() - start;
	if (!child) {
		close(pipes[1]);
		_exit(read(pipes[0], &byte, 1) != 0);
	}
	check(r, child > 0, "fork");
	close(pipes[0]);
	close(pipes[1]);
	check(r, waitpid(child, NULL, 0) == child, "fork");
	return took;
}

static uint64_t time_wp(const struct range *r, int on)
{
	struct protection protection = {{SOURCE, r->length}, on};
	uint64_t start = r->now();
	int failed = ioctl(r->uffd, WRITEPROTECT_IOCTL, &protection);
	uint64_t took = r->now() - start;

	check(r, !failed, "UFFDIO_WRITEPROTECT");
	return took;
}

static uint64_t time_wp_on(const struct range *r)
{
	return time_wp(r, 1);
}

static uint64_t time_wp_off(const struct range *r)
{
	time_wp(r, 1);
	return time_wp(r, 0);
}

static uint64_t time_scan(const struct range *r, uint64_t category)
{
	struct found found;
	struct pagemap_scan scan = {
		.size = sizeof(scan), .start = SOURCE, .end = SOURCE + r->length,
		.vec = (uint64_t)&found, .vec_len = 1,
		.mask = category, .returned = category,
	};
	uint64_t start = r->now();
	int regions = ioctl(r->pagemap, SCAN_IOCTL_, &scan);
	uint64_t took = r->now() - start;

	check(r, regions == 1, "PAGEMAP_SCAN");
	return took;
}

static uint64_t time_scan_written(const struct range *r)
{
	return time_scan(r, WRITTEN);
}

static uint64_t time_scan_present(const struct range *r)
{
	return time_scan(r, PRESENT);
}

static uint64_t time_pagemap(const struct range *r)
{
	ssize_t bytes = r->pages * 8;
	uint64_t page = r->length / r->pages, start = r->now();
	ssize_t got = pread(r->pagemap, r->words, bytes, SOURCE / page * 8);
	uint64_t took = r->now() - start;

	check(r, got == bytes, "pagemap");
	return took;
}

static uint64_t time_clear_refs(const struct range *r)
{
	uint64_t word = 0, page = r->length / r->pages, start;
	ssize_t got = pread(r->pagemap, &word, 8, SOURCE / page * 8);

	check(r, got == 8, "pagemap");
	/* A page just written is soft-dirty, or this kernel has no such thing. */
	errno = EOPNOTSUPP;
	check(r, word >> PAGEMAP_SOFT_DIRTY & 1, "soft-dirty");
	start = r->now();
	got = write(r->clear_refs, "4", 1);
	word = r->now() - start;
	check(r, got == 1, "clear_refs");
	return word;
}

static uint64_t time_munmap(const struct range *r)
{
	uint64_t start = r->now();
	int failed = munmap((void *)SOURCE, r->length);
	uint64_t took = r->now() - start;

	check(r, !failed, "munmap");
	return took;
}

static uint64_t time_mprotect(const struct range *r)
{
	uint64_t start = r->now();
	int failed = mprotect((void *)SOURCE, r->length, PROT_READ);
	uint64_t took = r->now() - start;

	check(r, !failed, "mprotect");
	return took;
}

/* One page off, since whole tables are moved by their pointer. */
static uint64_t time_mremap(const struct range *r)
{
	char *target = (char *)TARGET + r->length / r->pages;
	uint64_t start = r->now(), took;
	void *where = mremap((void *)SOURCE, r->length, r->length,
			     MREMAP_MAYMOVE | MREMAP_FIXED, target);

	took = r->now() - start;
	check(r, where == target, "mremap");
	check(r, !munmap(where, r->length), "munmap");
	return took;
}

const char *const timing_operations[] = {
	"fork", "uffd_wp_on", "uffd_wp_off", "pagemap_scan_written",
	"pagemap_scan_present", "pagemap", "clear_refs", "munmap", "mprotect",
	"mremap", NULL,
};

static const struct {
	uint64_t (*time)(const struct range *);
	int uffd;
} TIMED[] = {
	{time_fork, 0}, {time_wp_on, 1}, {time_wp_off, 1}, {time_scan_written, 1},
	{time_scan_present, 0}, {time_pagemap, 0}, {time_clear_refs, 0},
	{time_munmap, 0}, {time_mprotect, 0}, {time_mremap, 0},
};

static int open_uffd(const struct range *r)
{
	struct api api = {0xAA, UFFD_FEATURES, 0};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	/* Without privileges: for faults of user mode only, which these are. */
	if (fd < 0 && errno == EPERM)
		fd = (int)syscall(SYS_userfaultfd,
				  O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
	check(r, fd >= 0, "userfaultfd");
	check(r, !ioctl(fd, API_IOCTL, &api), "UFFDIO_API");
	return fd;
}

static void measure(int which, uint64_t rounds, struct range *r)
{
	struct registration registration = {{SOURCE, r->length}, REGISTER_WP, 0};
	uint64_t round;

	r->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	check(r, r->pagemap >= 0, "/proc/self/pagemap");
	r->clear_refs = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	check(r, r->clear_refs >= 0, "/proc/self/clear_refs");
	r->words = mmap(NULL, r->pages * 8, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(r, r->words != MAP_FAILED, "mmap");
	memset(r->words, 1, r->pages * 8);
	if (TIMED[which].uffd)
		r->uffd = open_uffd(r);
	for (round = 0; round < rounds; round++) {
		fill(r);
		if (TIMED[which].uffd)
			check(r, !ioctl(r->uffd, REGISTER_IOCTL, &registration),
			      "UFFDIO_REGISTER");
		r->outcome->took[round] = TIMED[which].time(r);
		munmap((void *)SOURCE, r->length);
	}
	r->outcome->over = 1;
}

static void start_alone(void)
{
	struct sched_param first = {.sched_priority = 1};
	cpu_set_t here;

	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	sched_setaffinity(0, sizeof(here), &here);
	/* Kernel threads wait until the clock has stopped; without the privilege
	 * the clock has them in it. */
	sched_setscheduler(0, SCHED_FIFO, &first);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGINT, SIG_DFL);
}

static int operation_named(const char *name)
{
	int which;

	for (which = 0; timing_operations[which]; which++)
		if (!strcmp(timing_operations[which], name))
			return which;
	return -1;
}

int timing_rounds(const char *operation, uint64_t pages, uint64_t rounds,
		  enum timing_clock clock, uint64_t *took, const char **step)
{
	static char failed[sizeof(((struct outcome *)0)->step)];
	size_t bytes = sizeof(struct outcome) + rounds * sizeof(*took);
	struct range r = {
		.pages = pages, .length = pages * sysconf(_SC_PAGESIZE),
		.uffd = -1, .now = clock == TIMING_TSC ? ticks : ns,
	};
	int which = operation_named(operation), child, error = 0;

	*step = "no such operation";
	if (which < 0 || !pages)
		return EINVAL;
	*step = "mmap";
	r.outcome = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (r.outcome == MAP_FAILED)
		return errno;
	child = fork_bare();
	if (!child) {
		start_alone();
		measure(which, rounds, &r);
		_exit(0);
	}
	*step = "fork";
	if (child < 0) {
		error = errno;
	} else {
		/* Where SIGCHLD is ignored this waits, and then finds no child. */
		while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
			;
		strcpy(failed, r.outcome->over ? r.outcome->step : "killed");
		*step = failed;
		error = r.outcome->over ? r.outcome->error : EINTR;
		memcpy(took, r.outcome->took, rounds * sizeof(*took));
	}
	munmap(r.outcome, bytes);
	return error;
}

int time_operation(const char *name, uint64_t pages, uint64_t rounds)
{
	uint64_t round, *took = calloc(rounds, sizeof(*took));
	const char *step;
	int error;

	if (operation_named(name) < 0 || !took) {
		free(took);
		return -1;
	}
	fflush(stdout);
	error = timing_rounds(name, pages, rounds, TIMING_TSC, took, &step);
	if (error)
		printf("- %s %d %s\n", name, error, step);
	for (round = 0; !error && round < rounds; round++)
		printf("t %s %lu %lu %lu\n", name, (unsigned long)pages,
		       (unsigned long)round, (unsigned long)took[round]);
	fflush(stdout);
	free(took);
	return 0;
}
