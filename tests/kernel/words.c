/* The words beside PTEs, by the device of the kernel in kernel/.
 *
 * A process reads and writes its own words. What it read lies in memory that
 * all of them share.
 */
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "../../kernel/extmeta.h"

static int device = -1;
static u64 mode;
static u64 (*shared)[WATCHED_PAGES]; /* words read under the PTL, and without it */

static struct extmeta_stat side_pages(void)
{
	struct extmeta_stat stat;

	if (ioctl(device, EXTMETA_IOC_STAT, &stat))
		die("/dev/extmeta: %s", strerror(errno));
	return stat;
}

const char *words_open(void)
{
	device = open("/dev/extmeta", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return "-";
	shared = mmap(NULL, 2 * sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("no memory for words");
	return side_pages().form == EXTMETA_IS_ADJACENT ? "adjacent" : "linked";
}

int words_there(void)
{
	return device >= 0;
}

void words_mode(u64 wanted)
{
	if (wanted != mode && ioctl(device, EXTMETA_IOC_MODE, wanted))
		die("mode %" PRIu64 ": %s", wanted, strerror(errno));
	mode = wanted;
}

void words_end(void)
{
	u64 left = device < 0 ? 0 : side_pages().live;

	if (left)
		die("%" PRIu64 " side pages are left", left);
}

static int64_t transfer(u64 request, u64 start, u64 pages, u64 *words)
{
	struct extmeta_io io = {start, pages, (u64)words, 0};

	return ioctl(device, request, &io) ? -1 : (int64_t)io.done;
}

int64_t words_set(const u64 *a)
{
	static u64 words[WATCHED_PAGES];
	u64 pages = a[1] / PAGE, i;

	for (i = 0; i < pages; i++)
		words[i] = i % a[4] ? EXTMETA_KEEP : a[2] + i * a[3];
	return transfer(EXTMETA_IOC_SET, a[0], pages, words);
}

int64_t words_read(u64 start, u64 pages)
{
	int64_t got = transfer(EXTMETA_IOC_GET, start, pages, shared[0]);

	if (got < 0 || transfer(EXTMETA_IOC_PEEK, start, pages, shared[1]) < 0)
		return -1;
	return got;
}

void words_print(int process, u64 start, u64 pages, u64 *seen)
{
	const u64 *words = shared[0];
	u64 first, last, step;

	for (first = 0; first < pages; first = last) {
		last = first + 1;
		if (words[first] == seen[first])
			continue;
		step = last < pages ? words[last] - words[first] : 0;
		while (last < pages && words[last] != seen[last] &&
		       words[last] - words[last - 1] == step)
			last++;
		printf("m %d %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 "\n",
		       process, start + first * PAGE, last - first, words[first], step);
	}
	for (first = 0; first < pages; first++)
		if (shared[1][first] != words[first])
			printf("k %d %" PRIx64 " %" PRIx64 "\n", process,
			       start + first * PAGE, shared[1][first]);
	memcpy(seen, words, pages * sizeof(*seen));
}
