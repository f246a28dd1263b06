"""Record the pages that a running process writes, round by round, from outside.

WP_ASYNC: :mod:`extmeta.captures.ptrace` makes the process open a userfaultfd and
register its private anonymous memory. In each round one PAGEMAP_SCAN returns the
pages written and write-protects them again. The first write to a page in a round takes
a fault, which the kernel resolves alone. At the end the userfaultfd is closed.

Soft-dirty, on kernels that have it: the process is stopped while its pagemap is read
and clear_refs clears the bits.

The record is exact, with these exceptions: A write to a huge page counts for all of it.
Pages mapped during a round count as written if they are present at its end. A page
dropped by MADV_DONTNEED counts when it is written again. Mappings of files and shared
memory are not tracked.
"""

import contextlib
import errno
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np

from extmeta.arrays import U64
from extmeta.captures import procfs
from extmeta.captures.ptrace import InjectError
from extmeta.captures.trace import Trace
from extmeta.captures.trackers import (
    SoftDirty,
    TraceError,
    Tracker,
    WpAsync,
    has_soft_dirty,
)
from extmeta.linux.pagewords import PAGE_SHIFT

Progress = Callable[[int, int, str], object]


class Recorder:
    """Records a process; `trace` returns the rounds so far.

    Parameters
    ----------
    pid : int
    interval : float
        Seconds from one round to the next.

    Raises
    ------
    TraceError
        If it can't be traced; the message is one line.
    """

    def __init__(self, pid: int, interval: float) -> None:
        self.pid = pid
        self.interval = interval
        self.rounds: list[U64] = []
        try:
            found = procfs.checked_status(pid)
        except procfs.AbsentError as error:
            raise TraceError(str(error)) from None
        if found.tgid == os.getpid():
            raise TraceError(f"process {pid} is this process itself")
        if found.tgid != pid:
            raise TraceError(f"{pid} is a thread of process {found.tgid}")
        self.comm = found.comm
        try:
            self.tracker: Tracker = (SoftDirty if has_soft_dirty() else WpAsync)(pid)
            try:
                # Writes from here on count.
                self.tracker.written()
            except BaseException:
                self.tracker.close()
                raise
        except PermissionError as error:
            raise TraceError(f"{error.filename}: {error.strerror}") from None
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in (errno.ENOTTY, errno.ENOSYS):
                why = "this kernel has neither soft-dirty nor PAGEMAP_SCAN (Linux 6.7)"
            raise TraceError(why) from None
        except (InjectError, procfs.StopError) as error:
            raise TraceError(str(error)) from None

    def record(self, rounds: int, progress: Progress | None = None) -> str:
        """Record until there are `rounds` rounds.

        Returns the reason if there are fewer, for example the end of the process, or "".
        """
        due = time.monotonic()
        while len(self.rounds) < rounds:
            if progress:
                last = f"{len(self.rounds[-1]):,} pages" if self.rounds else "-"
                progress(len(self.rounds), rounds, f"rounds: the last {last}")
            # A late round does not shorten the next one.
            now = time.monotonic()
            due = max(due + self.interval, now)
            time.sleep(due - now)
            try:
                found = self.tracker.written()
            except (InjectError, procfs.StopError) as error:
                return str(error)
            empty = np.empty(0, np.uint64)
            self.rounds.append(np.unique(np.concatenate([empty, *found])))
        return ""

    def trace(self) -> Trace | None:
        """Return the rounds so far; None if there are none."""
        if not self.rounds:
            return None
        spans = np.array(self.tracker.tracked.all, np.uint64).reshape(-1, 2)
        ends = np.cumsum([0, *(len(vpns) for vpns in self.rounds)], dtype=np.int64)
        return Trace(
            vpns=np.concatenate(self.rounds),
            rounds=ends,
            vmas=spans >> np.uint64(PAGE_SHIFT),
            interval=self.interval,
            comm=self.comm,
            release=platform.release(),
            how=self.tracker.how,
        )

    def said(self) -> list[str]:
        """Return a line about memory that is not tracked, if any."""
        skipped = self.tracker.skipped
        if not skipped:
            return []
        (start, end), why = skipped[0]
        rest = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        return [f"not tracked: {start:#x}-{end:#x}: {why}{rest}"]

    def close(self) -> str:
        """Restore the process; return why that failed, or ""."""
        try:
            self.tracker.close()
        except (InjectError, OSError) as error:
            return f"process {self.pid} keeps its userfaultfd: {error}"
        return ""


@contextlib.contextmanager
def until_told() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt during a block."""
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # not in the main thread
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
