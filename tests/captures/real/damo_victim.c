/* 64 MiB at 1 TiB. By turns of 3 s, the first 8 MiB and the last 8 MiB are written. */
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MIB (1ul << 20)

int main(void)
{
	char *at = mmap((void *)(1ul << 40), 64 * MIB, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	madvise(at, 64 * MIB, MADV_NOHUGEPAGE);
	memset(at, 1, 64 * MIB);
	for (;;) {
		char *hot = at + (time(NULL) / 3 % 2 ? 56 * MIB : 0);

		for (unsigned long byte = 0; byte < 8 * MIB; byte += 4096)
			hot[byte]++;
		nanosleep(&(struct timespec){0, 5000000}, NULL);
	}
}
