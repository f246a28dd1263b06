/* `time` lines: the package's clocks, the same that `extmeta calibrate` reads. */
#include "../../src/extmeta/cost/kernel/timing.c"
