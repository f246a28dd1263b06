"""The command's exit statuses."""

import signal

BAD_INPUT = 2
CANNOT_WRITE = 1
DOES_NOT_FIT = 1
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE
