/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What the files of checks share: the words that a range should have. */
#ifndef CHECKS_H
#define CHECKS_H
#include "guest.h"

#define N	1200l	/* pages: more than two tables, and no multiple of one */
#define LENGTH	(N * PAGE)

/* Shared with children. */
extern struct count { int good, bad; long moved; } *count;
extern u64 expected[N], got[N];
extern struct extmeta_stat begun;
extern int swaps;

#define OK(condition, ...) do {					\
		if (condition) {				\
			count->good++;				\
		} else {					\
			count->bad++;				\
			printf("BAD line %d: ", __LINE__);	\
			printf(__VA_ARGS__);			\
			printf("\n");				\
		}						\
	} while (0)

/* A third of the PTEs has no word. */
void set_all(char *at, u64 salt);

/* Under the lock and without it. */
int differs(char *at, const u64 *want);

/* Run a check in a child. */
void in_child(char *at, int (*check)(char *), const char *what);
int has_words(char *at);
int changes_words(char *at);

extern u64 entries[N];	/* what pagemap() read */
void pagemap(char *at, long n);

/* The number of entries that are neither none nor present. */
long swapped(char *at, long n);

void map_file(char *at, size_t length, int flags, int fd);
int file_on_tmpfs(void);

/* devices.c */
void poisoned(void);
void on_device(void);

#endif
