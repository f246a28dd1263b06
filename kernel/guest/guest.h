/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What the programs of the guest share. /init runs one of them and powers off. */
#ifndef GUEST_H
#define GUEST_H
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include "extmeta.h"

typedef uint64_t u64;

#define PAGE	4096ul
#define PMD	(2ul << 20)

/* Linux 6.12 include/uapi: values that older headers of the C library lack */
#define MADVISE_PAGEOUT		21
#define MADVISE_COLLAPSE	25
struct move_range { u64 to, from, length, mode; int64_t moved; };
#define UFFD_MOVE		_IOWR(0xAA, 0x05, struct move_range)

extern int device;	/* /dev/extmeta, or -1 */

/* A parameter NAME=number of the kernel's command line. */
long parameter(const char *name, long otherwise);
void die(const char *what);

/* Words of n pages: request is one of EXTMETA_IOC_{SET,GET,PEEK}. */
long words(unsigned long request, void *at, u64 n, u64 *buffer);
struct extmeta_stat side_pages(void);

/* The modes that a form has. */
static inline int modes_of(int form)
{
	return form == EXTMETA_LINKED || form == EXTMETA_IS_ADAPTIVE ? 4 : 1;
}

void set_mode(int mode);

/* Anonymous memory of 4 KiB pages, `shift` bytes above a multiple of `align`. */
char *map(size_t length, size_t align, size_t shift);
void map_at(char *at, size_t length);
void touch(char *at, long pages, char value);
void move(char *from, size_t length, char *to);

int uffd(void *at, size_t length, int mode);
void write_protect(int fd, void *at, size_t length, int on);
void put(const char *path, const char *text);

/* The page frame of an entry of pagemap. */
#define PFN(entry)	((entry) & ((1ull << 55) - 1))

/*
 * Take the memory block of a page offline, so that its pages migrate, and back.
 * Returns 0 if the block is busy, or has what can't move.
 */
int take_offline(void *at);

/* UFFDIO_MOVE, tried again while the kernel says so; returns the bytes moved. */
size_t uffd_move(int fd, char *to, char *from, size_t length);

/* The swap area of checks and stress: /dev/ram0. Returns 0 if there is none. */
int swap_on(void);

int check_all(void);
int stress(void);
void measure(void);

#endif
