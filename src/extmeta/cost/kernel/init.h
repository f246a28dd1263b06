/* A program as /init of a virtual machine that has nothing but it. */

/* Mount, and take stdin from /programs and stdout to the first serial port. */
void init_start(void);
__attribute__((noreturn)) void init_stop(void);
void init_put(const char *path, const char *text);

/* Say what went wrong, and end. */
__attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...);
