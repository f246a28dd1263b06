/* /init of the guest that `extmeta calibrate --guest` boots.
 *
 * Reads lines `time OPERATION PAGES ROUNDS`; prints the kernel's release, what
 * timing.c prints, and `bye`.
 */
#define _GNU_SOURCE
#include "init.h"
#include "timing.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

void die(const char *format, ...)
{
	va_list more;

	va_start(more, format);
	vfprintf(stdout, format, more);
	va_end(more);
	putchar('\n');
	if (getpid() == 1)
		init_stop();
	exit(3);
}

int main(void)
{
	struct utsname kernel;
	char operation[64];
	unsigned long pages, rounds;

	if (getpid() == 1)
		init_start();
	uname(&kernel);
	printf("kernel %s\n", kernel.release);
	while (scanf(" time %63s %lu %lu", operation, &pages, &rounds) == 3)
		if (time_operation(operation, pages, rounds))
			die("no operation '%s' to time", operation);
	puts("bye");
	if (getpid() == 1)
		init_stop();
	return 0;
}
