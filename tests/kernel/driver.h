/* What driver.c, timing.c and guest.c share, and the numbers of the kernel's
 * interface that a distribution's headers may not have yet. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>

#define PAGE 4096UL

typedef uint64_t u64;

enum { WATCHED_PAGES = 2048 };

/* include/uapi/linux/userfaultfd.h (Linux v6.12) */
#define WP_ASYNC (1UL << 15)
#define WP_UNPOPULATED (1UL << 13)

struct move {
	u64 dst, src, len, mode;
	int64_t move;
};

#define MOVE_IOCTL _IOWR(0xAA, 5, struct move)
#define COPY_WP 2

/* include/uapi/linux/fs.h (Linux v6.12) */
struct scan_region {
	u64 start, end, categories;
};

struct scan {
	u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
	u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_IOCTL _IOWR('f', 16, struct scan)
#define SCAN_WP_MATCHING 1
#define SCAN_WRITTEN 2
#define SCAN_PRESENT 8

/* Say what went wrong, and end with status 3. */
__attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...);

/* A userfaultfd of this process with these features, or -1 and errno.
 * `supported`, if not NULL, receives all that the kernel has. */
int uffd_open(u64 features, u64 *supported);
int uffd_register(int uffd, u64 start, u64 length);
int uffd_writeprotect(int uffd, u64 start, u64 length, int on);
int proc_open(int pid, const char *name, int flags);

/* Print the ticks of `rounds` rounds of an operation on `pages` pages; -1 if
 * there is no operation of that name. */
int time_operation(const char *name, u64 pages, u64 rounds);

/* Open the device. Returns the form of the kernel's words; "-" if it has none. */
const char *words_open(void);
int words_there(void);

/* How fork copies words from now on: EXTMETA_IOC_MODE. */
void words_mode(u64 mode);

/* Check that no process has left a side page. */
void words_end(void);

/* In a process: do a `set_words`. Returns the number of words written, or -1. */
int64_t words_set(const u64 *arguments);

/* In a process: read the words of these pages for words_print(). */
int64_t words_read(u64 start, u64 pages);

/* Print the words that were read and differ from `seen`, which they become. */
void words_print(int process, u64 start, u64 pages, u64 *seen);

/* As /init: mount, make swap, and take stdin and stdout for the programs. */
void guest_start(void);
__attribute__((noreturn)) void guest_stop(void);
