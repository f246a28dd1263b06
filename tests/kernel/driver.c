/* Executes programs of memory operations and prints what the kernel did.
 *
 * Programs come as text on stdin:
 *
 *	program NAME
 *	watch ADDRESS LENGTH		show these pages after every operation
 *	mode N				how fork copies words: see kernel/extmeta.h
 *	PROCESS OPERATION ARGUMENT...	as in the table below
 *	end
 *	time OPERATION PAGES ROUNDS	outside of programs: see timing.c
 *
 * Each program starts with a fresh process 0; `fork` starts the next number.
 * Answers on stdout:
 *
 *	kernel RELEASE soft_dirty B swap B scan B uffd FEATURES words FORM
 *	program NAME
 *	= RESULT ERROR [WALK_END]	one for each operation; ERROR is -, the
 *					errno's name or a signal's
 *	e PROCESS FEATURES KIND A B C	an event of the userfaultfd of these features
 *	r START END CATEGORIES		a region of pagemap_scan
 *	w WORD				a word of pagemap, as read
 *	s PROCESS ADDRESS PAGES WORD	watched pages that have changed: flags,
 *					and all of a PTE marker
 *	m PROCESS ADDRESS PAGES WORD STEP	watched pages whose word has changed:
 *					WORD, WORD + STEP, ...
 *	k PROCESS ADDRESS WORD		the word of a lockless read, if it differs
 *	end
 *
 * One conductor (this process) reads the text and tells each process over its
 * pipe what to do. It holds the userfaultfds: it resolves faults of synchronous
 * write-protection and of missing pages (by a copy of one page), and takes a child's userfaultfd from the event. What looks
 * at a process from outside (pagemap, clear_refs, userfaultfd) it does itself.
 */
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

enum {
	PROCESSES = 8,
	UFFDS = 12,
	WATCHES = 4,
	REGIONS = 4096,
	ARGUMENTS = 9,
	TIMEOUT_MS = 60000,
	PAGEOUT_TRIES = 30,
	COLLAPSE_TRIES = 50,
	EVENTS = 64,
	SOURCE = 4 << 20, /* bytes that can be copied at once */
};

#define PRESENT (1UL << 63)
#define SWAPPED (1UL << 62)
#define EXCLUSIVE (1UL << 56)
#define FLAGS (~0UL << 55)
#define MARKER_TYPE 31 /* of a swap entry that is a PTE marker */

static int line_number;

void die(const char *format, ...)
{
	va_list arguments;

	fflush(stdout);
	fprintf(stderr, "driver: line %d: ", line_number);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	if (getpid() == 1)
		guest_stop();
	exit(3);
}

/* ---- the text form ---- */

struct name {
	const char *name;
	u64 value;
};

static const struct name PROTS[] = {
	{"none", PROT_NONE}, {"r", PROT_READ}, {"rw", PROT_READ | PROT_WRITE},
	{"x", PROT_EXEC}, {"w", PROT_WRITE}, {NULL, 0},
};

#define WITH_FILE (1UL << 32) /* a memfd, made for this mapping */
static const struct name MAPS[] = {
	{"private", MAP_PRIVATE}, {"shared", MAP_SHARED},
	{"anonymous", MAP_ANONYMOUS}, {"file", WITH_FILE}, {NULL, 0},
};

static const struct name ADVICE[] = {
	{"NORMAL", 0}, {"WILLNEED", 3}, {"DONTNEED", 4}, {"FREE", 8},
	{"REMOVE", 9}, {"DONTFORK", 10}, {"DOFORK", 11}, {"WIPEONFORK", 18},
	{"KEEPONFORK", 19}, {"HUGEPAGE", 14}, {"NOHUGEPAGE", 15}, {"COLD", 20},
	{"PAGEOUT", 21}, {"POPULATE_READ", 22}, {"POPULATE_WRITE", 23},
	{"COLLAPSE", 25}, {NULL, 0},
};
static const struct name REMAPS[] = {
	{"MAYMOVE", MREMAP_MAYMOVE}, {"FIXED", MREMAP_FIXED}, {"DONTUNMAP", 4},
	{NULL, 0},
};
#define PAGEOUT 21
#define COLLAPSE 25

static const struct name FEATURES[] = {
	{"EVENT_FORK", 1 << 1}, {"EVENT_REMAP", 1 << 2}, {"EVENT_REMOVE", 1 << 3},
	{"MISSING_SHMEM", 1 << 5}, {"EVENT_UNMAP", 1 << 6}, {"SIGBUS", 1 << 7},
	{"WP_HUGETLBFS_SHMEM", 1 << 12}, {"MOVE", 1 << 16},
	{"WP_UNPOPULATED", WP_UNPOPULATED}, {"WP_ASYNC", WP_ASYNC}, {NULL, 0},
};

static const struct name MODES[] = {{"MISSING", 1}, {"WP", 2}, {NULL, 0}};
static const struct name FILLS[] = {{"DONTWAKE", 1}, {"WP", COPY_WP}, {NULL, 0}};
static const struct name MOVES[] = {
	{"DONTWAKE", 1}, {"ALLOW_SRC_HOLES", 2}, {NULL, 0},
};

static const struct name CATEGORIES[] = {
	{"WPALLOWED", 1}, {"WRITTEN", 2}, {"FILE", 4}, {"PRESENT", 8},
	{"SWAPPED", 16}, {"PFNZERO", 32}, {"HUGE", 64}, {"SOFT_DIRTY", 128},
	{"GUARD", 256}, {NULL, 0},
};

static const struct name SCAN_FLAGS[] = {
	{"WP_MATCHING", 1}, {"CHECK_WPASYNC", 2}, {NULL, 0},
};

static const struct name NUMBER[] = {{NULL, 0}};

enum operation {
	MMAP, MUNMAP, MPROTECT, READ, WRITE, MADVISE, MREMAP, FORK, EXIT,
	UFFD_REGISTER, UFFD_UNREGISTER, UFFD_WRITEPROTECT,
	UFFD_COPY, UFFD_ZEROPAGE, UFFD_MOVE, UFFD_WAKE,
	CLEAR_REFS, PAGEMAP, PAGEMAP_SCAN, SET_WORDS, COMPACT,
	UFFD_OPEN, READ_WORDS, /* from here on not in programs */
};

static const struct {
	const char *name;
	const struct name *arguments[ARGUMENTS + 1];
} OPERATIONS[] = {
	[MMAP] = {"mmap", {NUMBER, NUMBER, PROTS, MAPS}},
	[MUNMAP] = {"munmap", {NUMBER, NUMBER}},
	[MPROTECT] = {"mprotect", {NUMBER, NUMBER, PROTS}},
	[READ] = {"read", {NUMBER, NUMBER}},
	[WRITE] = {"write", {NUMBER, NUMBER}},
	[MADVISE] = {"madvise", {NUMBER, NUMBER, ADVICE}},
	/* old old_len new_len new_addr flags */
	[MREMAP] = {"mremap", {NUMBER, NUMBER, NUMBER, NUMBER, REMAPS}},
	[FORK] = {"fork", {NULL}},
	[EXIT] = {"exit", {NULL}},
	[UFFD_REGISTER] = {"uffd_register", {NUMBER, NUMBER, FEATURES, MODES}},
	[UFFD_UNREGISTER] = {"uffd_unregister", {NUMBER, NUMBER}},
	[UFFD_WRITEPROTECT] = {"uffd_writeprotect", {NUMBER, NUMBER, NUMBER}},
	[UFFD_COPY] = {"uffd_copy", {NUMBER, NUMBER, FILLS}},
	[UFFD_ZEROPAGE] = {"uffd_zeropage", {NUMBER, NUMBER, FILLS}},
	[UFFD_MOVE] = {"uffd_move", {NUMBER, NUMBER, NUMBER, MOVES}},
	[UFFD_WAKE] = {"uffd_wake", {NUMBER, NUMBER}},
	[CLEAR_REFS] = {"clear_refs", {NULL}},
	[PAGEMAP] = {"pagemap", {NUMBER, NUMBER}},
	/* start end flags inverted mask anyof return max_pages vec_len */
	[PAGEMAP_SCAN] = {"pagemap_scan", {NUMBER, NUMBER, SCAN_FLAGS, CATEGORIES,
		CATEGORIES, CATEGORIES, CATEGORIES, NUMBER, NUMBER}},
	/* start length word step every: WORD, and STEP more for each page */
	[SET_WORDS] = {"set_words", {NUMBER, NUMBER, NUMBER, NUMBER, NUMBER}},
	[COMPACT] = {"compact", {NULL}},
};

struct request {
	enum operation operation;
	u64 a[ARGUMENTS];
};

struct answer {
	int64_t result;
	int error, signal;
	u64 walk_end;
};

/* A number, or names joined by `|`. */
static u64 parse(char *text, const struct name *names)
{
	char *end, *next;
	u64 value = 0;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (end != text && !*end && !errno && *text != '-')
		return value;
	if (!strcmp(text, "-") && names->name)
		return 0;
	value = 0;
	for (; text; text = next) {
		const struct name *n = names;

		next = strchr(text, '|');
		if (next)
			*next++ = '\0';
		while (n->name && strcmp(n->name, text))
			n++;
		if (!n->name)
			die("'%s' is not %s known here", text,
			    names->name ? "a name" : "a number");
		value |= n->value;
	}
	return value;
}

static struct request parse_operation(char *name, char **rest)
{
	struct request request = {0};
	int count = sizeof(OPERATIONS) / sizeof(*OPERATIONS), i;

	while (request.operation < (unsigned)count &&
	       strcmp(OPERATIONS[request.operation].name, name))
		request.operation++;
	if (request.operation == (unsigned)count)
		die("no operation '%s'", name);
	for (i = 0; OPERATIONS[request.operation].arguments[i]; i++) {
		char *text = strtok_r(NULL, " \t\n", rest);

		if (!text)
			die("%s: %d arguments are too few", name, i);
		request.a[i] = parse(text, OPERATIONS[request.operation].arguments[i]);
	}
	if (strtok_r(NULL, " \t\n", rest))
		die("%s: more than %d arguments", name, i);
	return request;
}

/* ---- in a process: what it does to its own memory ---- */

static int have_swap, conductor;
static sigjmp_buf caught;

static void catch(int number)
{
	siglongjmp(caught, number);
}

int proc_open(int pid, const char *name, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return open(path, flags | O_CLOEXEC);
}

static int64_t map(const u64 *a)
{
	int flags = (int)a[3] | MAP_FIXED, fd = -1;
	void *where;

	if (a[3] & WITH_FILE) {
		fd = memfd_create("oracle", 0);
		if (fd < 0 || ftruncate(fd, a[1]))
			return -1;
	}
	where = mmap((void *)a[0], a[1], a[2], flags, fd, 0);
	if (fd >= 0)
		close(fd);
	return where == MAP_FAILED ? -1 : 0;
}

static int touch(u64 address, u64 length, int write)
{
	u64 page;
	int number = sigsetjmp(caught, 1);

	if (number)
		return number;
	for (page = address & -PAGE; page < address + length; page += PAGE) {
		volatile char *byte = (volatile char *)page;

		if (write)
			*byte = 1;
		else
			(void)*byte;
	}
	return 0;
}

/* A page that is unmapped while it is being written keeps its slot until reclaim
 * finds it: so many would fill the swap, and then nothing goes out any more. */
static void wait_for_writeback(void)
{
	char text[1 << 15], *found;
	int tries;

	for (tries = 0; tries < PAGEOUT_TRIES; tries++) {
		int fd = open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
		ssize_t got = read(fd, text, sizeof(text) - 1);

		close(fd);
		text[got > 0 ? got : 0] = '\0';
		found = strstr(text, "\nnr_writeback ");
		if (!found || !atol(found + strlen("\nnr_writeback ")))
			return;
		usleep(1000);
	}
}

/* A page whose writeback is under way is passed over: ask again. Pages that
 * others map too stay, so only exclusive ones are waited for. */
static int page_out(u64 start, u64 length)
{
	int fd = proc_open(getpid(), "pagemap", O_RDONLY), tries, result = 0, error = 0;

	for (tries = 0; tries < PAGEOUT_TRIES; tries++) {
		u64 page, word, left = 0;

		result = madvise((void *)start, length, PAGEOUT);
		error = errno;
		/* ENOMEM: over a hole, when the rest has been gone through. */
		if ((result && error != ENOMEM) || !have_swap)
			break;
		for (page = start; page < start + length; page += PAGE)
			if (pread(fd, &word, 8, page / PAGE * 8) == 8 &&
			    word & PRESENT && word & EXCLUSIVE)
				left++;
		if (!left)
			break;
		usleep(1000);
	}
	if (have_swap)
		wait_for_writeback();
	close(fd);
	errno = error;
	return result;
}

/* EAGAIN: a page of it was in somebody's hands just then. */
static int collapse(u64 start, u64 length)
{
	int tries, result = -1;

	for (tries = 0; tries < COLLAPSE_TRIES; tries++) {
		result = madvise((void *)start, length, COLLAPSE);
		if (!result || errno != EAGAIN)
			break;
		usleep(1000);
	}
	return result;
}

/* The kernel moves pages for nobody else: by the conductor's userfaultfd. */
static struct answer move_pages(const u64 *a)
{
	struct move move = {.dst = a[0], .src = a[1], .len = a[2], .mode = a[3]};
	struct answer answer = {0};
	int pidfd = (int)syscall(SYS_pidfd_open, conductor, 0);
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)a[4], 0);
	int result = ioctl(fd, MOVE_IOCTL, &move);

	answer.error = result ? errno : 0;
	answer.result = move.move > 0 ? move.move : -1;
	close(fd);
	close(pidfd);
	return answer;
}

static void obey(int self, int commands[][2], int replies)
{
	int fetched = -1; /* a userfaultfd that the conductor has taken by now */

	for (;;) {
		struct request request;
		struct answer answer = {0};
		u64 *a = request.a;

		if (read(commands[self][0], &request, sizeof(request)) !=
		    sizeof(request))
			_exit(0);
		if (fetched >= 0)
			close(fetched);
		fetched = -1;
		errno = 0;
		switch (request.operation) {
		case MMAP:
			answer.result = map(a);
			break;
		case MUNMAP:
			answer.result = munmap((void *)a[0], a[1]);
			break;
		case MPROTECT:
			answer.result = mprotect((void *)a[0], a[1], a[2]);
			break;
		case READ:
		case WRITE:
			answer.signal = touch(a[0], a[1], request.operation == WRITE);
			answer.result = answer.signal ? -1 : 0;
			break;
		case MADVISE:
			answer.result = a[2] == PAGEOUT ? page_out(a[0], a[1])
				: a[2] == COLLAPSE ? collapse(a[0], a[1])
				: madvise((void *)a[0], a[1], a[2]);
			break;
		case MREMAP:
			if (mremap((void *)a[0], a[1], a[2], (int)a[4], a[3]) ==
			    MAP_FAILED)
				answer.result = -1;
			break;
		case FORK:
			answer.result = fork();
			if (!answer.result) {
				self = (int)a[0];
				continue;
			}
			break;
		case UFFD_MOVE:
			answer = move_pages(a);
			break;
		case SET_WORDS:
			answer.result = words_set(a);
			break;
		case READ_WORDS:
			answer.result = words_read(a[0], a[1]);
			break;
		case UFFD_OPEN:
			answer.result = fetched = uffd_open(a[0], NULL);
			break;
		default:
			_exit(0);
		}
		if (request.operation != UFFD_MOVE)
			answer.error = answer.result < 0 ? errno : 0;
		if (write(replies, &answer, sizeof(answer)) != sizeof(answer))
			_exit(0);
	}
}

/* ---- the conductor ---- */

static struct process {
	int pid; /* 0: not there */
	int pagemap, pidfd;
	struct uffd {
		int fd;
		u64 features;
	} uffds[UFFDS];
	int nr_uffds, uffd; /* the one last used to register */
	u64 seen[WATCHED_PAGES], words[WATCHED_PAGES];
} processes[PROCESSES];

static int nr_processes, nr_watches, nr_watched, waiting_child;
static int commands[PROCESSES][2], replies[2];
static struct { u64 start, pages; } watches[WATCHES];
static char source[SOURCE]; /* what missing pages are copies of */

static struct event {
	int process;
	const char *kind;
	u64 features, a, b, c;
} events[EVENTS];
static int nr_events;

int uffd_open(u64 features, u64 *supported)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = features,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) /* without privileges: faults of user mode only */
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	if (supported)
		*supported = api.features;
	return fd;
}

int uffd_register(int uffd, u64 start, u64 length)
{
	struct uffdio_register registration = {
		.range = {start, length},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &registration);
}

int uffd_writeprotect(int uffd, u64 start, u64 length, int on)
{
	struct uffdio_writeprotect protect = {
		.range = {start, length},
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &protect);
}

static struct answer fill_answer(int result, int64_t done)
{
	struct answer answer = {.result = done > 0 ? done : -1};

	answer.error = result ? errno : 0;
	return answer;
}

static struct answer uffd_copy(int uffd, u64 start, u64 length, u64 mode)
{
	struct uffdio_copy copy = {
		.dst = start, .src = (u64)source, .len = length, .mode = mode,
	};
	int result;

	if (length > SOURCE)
		die("uffd_copy of more than %d bytes", SOURCE);
	result = ioctl(uffd, UFFDIO_COPY, &copy);
	return fill_answer(result, copy.copy);
}

static struct answer uffd_zeropage(int uffd, u64 start, u64 length, u64 mode)
{
	struct uffdio_zeropage zeropage = {.range = {start, length}, .mode = mode};
	int result = ioctl(uffd, UFFDIO_ZEROPAGE, &zeropage);

	return fill_answer(result, zeropage.zeropage);
}

static void add_process(int number, int pid)
{
	struct process *p = &processes[number];

	p->pid = pid;
	p->uffd = 0;
	p->pagemap = proc_open(pid, "pagemap", O_RDONLY);
	p->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p->pagemap < 0 || p->pidfd < 0)
		die("process %d: %s", number, strerror(errno));
	memset(p->seen, 0, sizeof(p->seen));
	memset(p->words, 0, sizeof(p->words));
}

/* Wait until it is gone, its memory too. */
static void remove_process(struct process *p)
{
	struct pollfd gone = {.fd = p->pidfd, .events = POLLIN};

	if (!p->pid)
		return;
	if (poll(&gone, 1, TIMEOUT_MS) != 1)
		die("a process does not end");
	while (p->nr_uffds)
		close(p->uffds[--p->nr_uffds].fd);
	close(p->pagemap);
	close(p->pidfd);
	p->pid = 0;
}

static void add_uffd(struct process *p, int fd, u64 features)
{
	if (p->nr_uffds == UFFDS)
		die("more than %d userfaultfds in a process", UFFDS);
	p->uffd = p->nr_uffds;
	p->uffds[p->nr_uffds++] = (struct uffd){fd, features};
}

static void keep_event(int process, u64 features, const char *kind, u64 a, u64 b, u64 c)
{
	if (nr_events == EVENTS)
		die("more than %d events", EVENTS);
	events[nr_events++] = (struct event){process, kind, features, a, b, c};
}

static void handle_event(int process, struct uffd *uffd)
{
	struct uffd_msg message;

	if (read(uffd->fd, &message, sizeof(message)) != sizeof(message))
		return;
	switch (message.event) {
	case UFFD_EVENT_FORK:
		keep_event(process, uffd->features, "FORK", 0, 0, 0);
		add_uffd(&processes[waiting_child], (int)message.arg.fork.ufd,
			 uffd->features);
		break;
	case UFFD_EVENT_REMAP:
		keep_event(process, uffd->features, "REMAP", message.arg.remap.from,
			   message.arg.remap.from + message.arg.remap.len,
			   message.arg.remap.to);
		break;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		keep_event(process, uffd->features,
			   message.event == UFFD_EVENT_REMOVE ? "REMOVE" : "UNMAP",
			   message.arg.remove.start, message.arg.remove.end, 0);
		break;
	case UFFD_EVENT_PAGEFAULT: {
		u64 page = message.arg.pagefault.address & -PAGE;

		if (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
			uffd_writeprotect(uffd->fd, page, PAGE, 0);
		else
			uffd_copy(uffd->fd, page, PAGE, 0);
	}
	}
}

/* Have a process do something; meanwhile be the monitor of its userfaultfds. */
static struct answer ask(int number, struct request request)
{
	struct process *p = &processes[number];
	struct answer answer;

	waiting_child = (int)request.a[0];
	if (write(commands[number][1], &request, sizeof(request)) != sizeof(request))
		die("process %d is gone", number);
	for (;;) {
		struct pollfd polled[1 + UFFDS];
		int i;

		polled[0] = (struct pollfd){.fd = replies[0], .events = POLLIN};
		for (i = 0; i < p->nr_uffds; i++)
			polled[1 + i] = (struct pollfd){
				.fd = p->uffds[i].fd, .events = POLLIN};
		if (poll(polled, 1 + p->nr_uffds, TIMEOUT_MS) <= 0)
			die("process %d gives no answer", number);
		/* Events first: a fork's answer may be there with its event. */
		for (i = 0; i < p->nr_uffds; i++)
			if (polled[1 + i].revents & POLLIN)
				handle_event(number, &p->uffds[i]);
		if (polled[0].revents & POLLIN)
			break;
	}
	if (read(replies[0], &answer, sizeof(answer)) != sizeof(answer))
		die("process %d gives half an answer", number);
	return answer;
}

/* The userfaultfd of these features; made if there is none. Negative: errno. */
static int find_uffd(int number, u64 features)
{
	struct process *p = &processes[number];
	struct request request = {.operation = UFFD_OPEN, .a = {features | 1}};
	struct answer answer;
	int fd;

	for (p->uffd = 0; p->uffd < p->nr_uffds; p->uffd++)
		if (p->uffds[p->uffd].features == features)
			return p->uffds[p->uffd].fd;
	p->uffd = p->nr_uffds ? p->nr_uffds - 1 : 0;
	answer = ask(number, request);
	if (answer.result < 0)
		return -answer.error;
	fd = (int)syscall(SYS_pidfd_getfd, p->pidfd, (int)answer.result, 0);
	if (fd < 0)
		die("pidfd_getfd: %s", strerror(errno));
	add_uffd(p, fd, features);
	return fd;
}

static int write_and_close(int fd, const char *text)
{
	int result, error;

	result = fd >= 0 && write(fd, text, strlen(text)) > 0 ? 0 : -1;
	error = errno;
	close(fd);
	errno = error;
	return result;
}

static struct answer scan(int pagemap, const u64 *a, struct scan_region *regions)
{
	struct scan scan = {
		.size = sizeof(scan),
		.start = a[0], .end = a[1], .flags = a[2],
		.category_inverted = a[3], .category_mask = a[4],
		.category_anyof_mask = a[5], .return_mask = a[6],
		.max_pages = a[7], .vec_len = a[8],
		.vec = a[8] ? (u64)regions : 0,
	};
	struct answer answer = {.result = -1};

	if (a[8] > REGIONS)
		die("pagemap_scan: vec_len %" PRIu64 " is above %d", a[8], REGIONS);
	answer.result = ioctl(pagemap, SCAN_IOCTL, &scan);
	answer.error = answer.result < 0 ? errno : 0;
	answer.walk_end = scan.walk_end;
	return answer;
}

static struct answer perform(int number, struct request request,
			     struct scan_region *regions)
{
	struct process *p = &processes[number];
	struct answer answer = {0};
	u64 *a = request.a;
	int fd = -1, used = p->nr_uffds ? p->uffd : -1;

	errno = 0;
	if (request.operation >= UFFD_UNREGISTER && request.operation <= UFFD_WAKE)
		/* Where none has been used, let the kernel say so. */
		fd = p->nr_uffds ? p->uffds[p->uffd].fd : find_uffd(number, 0);
	switch (request.operation) {
	case FORK:
		if (nr_processes == PROCESSES)
			die("more than %d processes", PROCESSES);
		a[0] = nr_processes;
		answer = ask(number, request);
		if (answer.result > 0) {
			add_process(nr_processes, (int)answer.result);
			answer.result = nr_processes++;
		}
		return answer;
	case EXIT:
		if (write(commands[number][1], &request, sizeof(request)) < 0)
			die("process %d is gone", number);
		remove_process(p);
		return answer;
	case UFFD_REGISTER:
		fd = find_uffd(number, a[2]);
		errno = fd < 0 ? -fd : 0;
		if (fd >= 0) {
			struct uffdio_register registration = {
				.range = {a[0], a[1]}, .mode = a[3],
			};

			fd = ioctl(fd, UFFDIO_REGISTER, &registration);
		}
		answer.result = fd < 0 ? -1 : 0;
		if (fd < 0 && used >= 0)
			p->uffd = used; /* a refused call changes nothing */
		break;
	case UFFD_UNREGISTER: {
		struct uffdio_range range = {a[0], a[1]};

		answer.result = ioctl(fd, UFFDIO_UNREGISTER, &range);
		break;
	}
	case UFFD_WRITEPROTECT:
		answer.result = uffd_writeprotect(fd, a[0], a[1], (int)a[2]);
		break;
	case UFFD_COPY:
		return uffd_copy(fd, a[0], a[1], a[2]);
	case UFFD_ZEROPAGE:
		return uffd_zeropage(fd, a[0], a[1], a[2]);
	case UFFD_MOVE:
		a[4] = (u64)fd;
		return ask(number, request);
	case UFFD_WAKE: {
		struct uffdio_range range = {a[0], a[1]};

		answer.result = ioctl(fd, UFFDIO_WAKE, &range);
		break;
	}
	case CLEAR_REFS:
		answer.result = write_and_close(
			proc_open(p->pid, "clear_refs", O_WRONLY), "4");
		break;
	case COMPACT:
		answer.result = write_and_close(
			open("/proc/sys/vm/compact_memory", O_WRONLY), "1");
		break;
	case SET_WORDS:
		if (!words_there())
			die("this kernel has no words");
		if (a[1] / PAGE > WATCHED_PAGES || !a[4])
			die("set_words: %" PRIu64 " bytes, every %" PRIu64, a[1], a[4]);
		return ask(number, request);
	case PAGEMAP_SCAN:
		return scan(p->pagemap, a, regions);
	case PAGEMAP:
		return answer;
	default:
		return ask(number, request);
	}
	answer.error = answer.result < 0 ? errno : 0;
	return answer;
}

static void print_words(int pagemap, u64 start, u64 length)
{
	u64 page, word;

	for (page = start; page < start + length; page += PAGE) {
		if (pread(pagemap, &word, 8, page / PAGE * 8) != 8)
			die("pagemap of %#" PRIx64 " can't be read", page);
		printf("w %" PRIx64 "\n", word);
	}
}

static void print_answer(struct process *p, struct request request,
			 struct answer answer, struct scan_region *regions)
{
	int64_t i;

	printf("= %" PRId64 " ", answer.result);
	if (answer.signal)
		printf("SIG%s", sigabbrev_np(answer.signal));
	else
		fputs(answer.error ? strerrorname_np(answer.error) : "-", stdout);
	if (request.operation == PAGEMAP_SCAN) {
		printf(" %" PRIx64 "\n", answer.walk_end);
		for (i = 0; i < answer.result && request.a[8]; i++)
			printf("r %" PRIx64 " %" PRIx64 " %" PRIx64 "\n",
			       regions[i].start, regions[i].end,
			       regions[i].categories);
		return;
	}
	putchar('\n');
	for (i = 0; i < nr_events; i++)
		printf("e %d %" PRIx64 " %s %" PRIx64 " %" PRIx64 " %" PRIx64 "\n",
		       events[i].process, events[i].features, events[i].kind,
		       events[i].a, events[i].b, events[i].c);
	nr_events = 0;
	if (request.operation == PAGEMAP)
		print_words(p->pagemap, request.a[0], request.a[1]);
}

/* Frames and swap slots are not comparable, markers are. */
static u64 comparable(u64 word)
{
	if (word & SWAPPED && !(word & PRESENT) && (word & 31) == MARKER_TYPE)
		return word;
	return word & FLAGS;
}

/* Runs of equal words that differ from what was printed last. */
static void print_changes(int number)
{
	static u64 words[WATCHED_PAGES];
	struct process *p = &processes[number];
	u64 *seen = p->seen;
	int w;

	for (w = 0; w < nr_watches; w++) {
		u64 first, last, pages = watches[w].pages;
		ssize_t bytes = pages * 8;

		if (pread(p->pagemap, words, bytes, watches[w].start / PAGE * 8) !=
		    bytes)
			die("pagemap of process %d can't be read", number);
		for (first = 0; first < pages; first = last) {
			u64 word = comparable(words[first]);

			last = first + 1;
			if (word == seen[first])
				continue;
			while (last < pages && comparable(words[last]) == word &&
			       seen[last] != word)
				last++;
			printf("s %d %" PRIx64 " %" PRIx64 " %" PRIx64 "\n", number,
			       watches[w].start + first * PAGE, last - first, word);
			while (first < last)
				seen[first++] = word;
		}
		seen += pages;
	}
}

static void print_words_that_changed(int number)
{
	u64 *seen = processes[number].words;
	int w;

	for (w = 0; w < nr_watches; w++) {
		u64 start = watches[w].start, pages = watches[w].pages;
		struct request request = {READ_WORDS, {start, pages}};
		struct answer answer = ask(number, request);

		if (answer.result < 0)
			die("words of %#" PRIx64 ": %s", start, strerror(answer.error));
		words_print(number, start, pages, seen);
		seen += pages;
	}
}

static void start_program(const char *name)
{
	int i, pid;

	if (words_there())
		words_mode(0);
	if (pipe(replies))
		die("pipe: %s", strerror(errno));
	for (i = 0; i < PROCESSES; i++)
		if (pipe(commands[i]))
			die("pipe: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (!pid) {
		/* So that all end with the conductor, and none before it. */
		for (i = 0; i < PROCESSES; i++)
			close(commands[i][1]);
		close(replies[0]);
		signal(SIGSEGV, catch);
		signal(SIGBUS, catch);
		obey(0, commands, replies[1]);
	}
	nr_processes = 1;
	nr_watches = nr_watched = 0;
	add_process(0, pid);
	printf("program %s\n", name);
}

static void end_program(void)
{
	int i;

	for (i = 0; i < PROCESSES; i++) {
		close(commands[i][0]);
		close(commands[i][1]);
	}
	close(replies[0]);
	close(replies[1]);
	/* Not into a full pipe: one that is stuck in a fault ends by its uffd. */
	for (i = 0; i < nr_processes; i++)
		remove_process(&processes[i]);
	nr_processes = 0;
	words_end();
	puts("end");
	fflush(stdout);
}

static void watch(char **rest)
{
	char *start = strtok_r(NULL, " \t\n", rest);
	char *length = strtok_r(NULL, " \t\n", rest);

	if (!start || !length || strtok_r(NULL, " \t\n", rest))
		die("watch has two arguments");
	if (nr_watches == WATCHES)
		die("more than %d watches", WATCHES);
	watches[nr_watches].start = parse(start, NUMBER) & -PAGE;
	watches[nr_watches].pages = parse(length, NUMBER) / PAGE;
	nr_watched += watches[nr_watches].pages;
	if (nr_watched > WATCHED_PAGES)
		die("more than %d watched pages", WATCHED_PAGES);
	nr_watches++;
}

static void operate(char *first, char **rest)
{
	static struct scan_region regions[REGIONS];
	u64 number = parse(first, NUMBER);
	char *name = strtok_r(NULL, " \t\n", rest);
	struct request request;
	struct answer answer;
	int i;

	if (!name)
		die("process %s does what?", first);
	if (number >= (u64)nr_processes || !processes[number].pid)
		die("no process %s", first);
	request = parse_operation(name, rest);
	answer = perform((int)number, request, regions);
	print_answer(&processes[number], request, answer, regions);
	for (i = 0; i < nr_processes; i++) {
		if (!processes[i].pid)
			continue;
		print_changes(i);
		if (words_there())
			print_words_that_changed(i);
	}
}

static void mode(char **rest)
{
	char *text = strtok_r(NULL, " \t\n", rest);

	if (!text || strtok_r(NULL, " \t\n", rest))
		die("mode has one argument");
	if (!words_there())
		die("this kernel has no words");
	words_mode(parse(text, NUMBER));
}

static void clock(char **rest)
{
	char *name = strtok_r(NULL, " \t\n", rest);
	char *pages = strtok_r(NULL, " \t\n", rest);
	char *rounds = strtok_r(NULL, " \t\n", rest);

	if (!rounds)
		die("time has three arguments");
	if (time_operation(name, parse(pages, NUMBER), parse(rounds, NUMBER)))
		die("no operation '%s' to time", name);
	fflush(stdout);
}

/* ---- what this kernel has ---- */

/* 1: files, 2: also a device, and only there do huge pages go out whole. */
static int has_swap(void)
{
	FILE *swaps = fopen("/proc/swaps", "r");
	char line[512];
	int kind = 0;

	if (!swaps)
		return 0;
	while (fgets(line, sizeof(line), swaps))
		if (strstr(line, " partition\t"))
			kind = 2;
		else if (!kind && *line == '/')
			kind = 1;
	fclose(swaps);
	return kind;
}

static void introduce(void)
{
	struct utsname name;
	struct scan_region region;
	u64 word = 0, features = 0;
	u64 all[ARGUMENTS] = {[6] = SCAN_PRESENT, [8] = 1};
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int pagemap = proc_open(getpid(), "pagemap", O_RDONLY);
	int uffd = uffd_open(0, &features);

	*page = 1;
	all[0] = (u64)page;
	all[1] = (u64)page + PAGE;
	if (pread(pagemap, &word, 8, (u64)page / PAGE * 8) != 8)
		die("/proc/self/pagemap can't be read");
	uname(&name);
	have_swap = has_swap();
	/* A new mapping is soft-dirty, where that exists. */
	printf("kernel %s soft_dirty %d swap %d scan %d uffd %" PRIx64 " words %s\n",
	       name.release, (int)(word >> 55 & 1), have_swap,
	       scan(pagemap, all, &region).result >= 0, features, words_open());
	fflush(stdout);
	if (uffd >= 0)
		close(uffd);
	close(pagemap);
	munmap(page, PAGE);
}

/* A page waits in the list of the processor that faulted it before reclaim can
 * find it there: with one processor, MADV_PAGEOUT finds every page. */
static void stay_on_this_cpu(void)
{
	cpu_set_t here;

	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	sched_setaffinity(0, sizeof(here), &here);
}

int main(void)
{
	static char out[1 << 16];
	char *line = NULL, *rest, *first;
	size_t room = 0;

	setvbuf(stdout, out, _IOFBF, sizeof(out));
	memset(source, 1, sizeof(source));
	conductor = getpid();
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); /* for pidfd_getfd() by a child */
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	stay_on_this_cpu();
	if (getpid() == 1)
		guest_start();
	introduce();
	while (getline(&line, &room, stdin) > 0) {
		line_number++;
		first = strtok_r(line, " \t\n", &rest);
		if (!first || *first == '#')
			continue;
		if (!strcmp(first, "program")) {
			char *name = strtok_r(NULL, " \t\n", &rest);

			if (nr_processes)
				end_program();
			start_program(name ? name : "-");
		} else if (!strcmp(first, "time")) {
			clock(&rest);
		} else if (!nr_processes) {
			die("'%s' is outside of a program", first);
		} else if (!strcmp(first, "end")) {
			end_program();
		} else if (!strcmp(first, "watch")) {
			watch(&rest);
		} else if (!strcmp(first, "mode")) {
			mode(&rest);
		} else {
			operate(first, &rest);
		}
	}
	if (nr_processes)
		end_program();
	puts("bye");
	fflush(stdout);
	free(line);
	if (getpid() == 1)
		guest_stop();
	return 0;
}
