/* Clocks around the kernel's operations on written anonymous pages. */
#include <stdint.h>

enum timing_clock { TIMING_NS, TIMING_TSC };

/* Names, in order; the last is NULL. */
extern const char *const timing_operations[];

/* Do an operation on `pages` pages, `rounds` times, each time on new pages, in a
 * process of its own; what each took goes to `took`. Returns 0, or an errno and in
 * `step` what failed. Must not be called by two threads at once. */
int timing_rounds(const char *operation, uint64_t pages, uint64_t rounds,
		  enum timing_clock clock, uint64_t *took, const char **step);

/* The same as text, in ticks: a line `t OPERATION PAGES ROUND TICKS` for each
 * round, or one `- OPERATION ERRNO STEP`. -1 if there is no such operation. */
int time_operation(const char *name, uint64_t pages, uint64_t rounds);
