"""Which pages a running process writes, recorded round by round from outside.

WP_ASYNC: the process is made, by :mod:`extmeta.captures.ptrace`, to open a userfaultfd and to
register its anonymous private memory with it. Then in each round PAGEMAP_SCAN tells
the pages that were written, and write-protects them again in the same breath; the
first write of a page in a round takes a fault, which the kernel resolves alone. At
the end the userfaultfd is closed, and all is as before.

Soft-dirty, on kernels that have it: the process is stopped for the moment in which
its pagemap is read and its bits are cleared by clear_refs.

What is recorded is exact but for these. A huge page is written as a whole. Memory
that is mapped during a round counts as written where it is there at its end.
A page that is dropped (MADV_DONTNEED) counts when it is written again. Mappings of
files and shared memory are not tracked.
"""

import contextlib
import errno
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np

from extmeta.captures import procfs
from extmeta.captures.ptrace import InjectError
from extmeta.captures.trace import U64, Trace
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
    """Records a process; what there is can be had at any time.

    Parameters
    ----------
    pid : int
    interval : float
        Seconds from one round to the next.

    Raises
    ------
    TraceError
        If it can't be traced, in a line.
    """

    def __init__(self, pid: int, interval: float) -> None:
        self.pid = pid
        self.interval = interval
        self.rounds: list[U64] = []
        try:
            found = procfs.status(pid)
        except (FileNotFoundError, ProcessLookupError):
            raise TraceError(procfs.absence(pid)) from None
        except procfs.KernelThreadError:
            raise TraceError(f"process {pid} is a kernel thread") from None
        except procfs.GoneError:
            raise TraceError(f"process {pid} has ended") from None
        if found.tgid == os.getpid():
            raise TraceError(f"process {pid} is this process itself")
        if found.tgid != pid:
            raise TraceError(f"{pid} is a thread of process {found.tgid}")
        self.comm = found.comm
        try:
            self.tracker: Tracker = (SoftDirty if has_soft_dirty() else WpAsync)(pid)
            try:
                # From here on what is written counts.
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
        """Record rounds, until there are as many.

        Returns
        -------
        str
            Why there are fewer: the process has ended; else "".
        """
        due = time.monotonic()
        while len(self.rounds) < rounds:
            if progress:
                last = f"{len(self.rounds[-1]):,} pages" if self.rounds else "-"
                progress(len(self.rounds), rounds, f"rounds: the last {last}")
            due += self.interval
            # Late, it does not hurry: a round is an interval, or longer.
            due = max(due, time.monotonic())
            time.sleep(due - time.monotonic() if due > time.monotonic() else 0)
            try:
                found = self.tracker.written()
            except (InjectError, procfs.StopError) as error:
                return str(error)
            empty = np.empty(0, np.uint64)
            self.rounds.append(np.unique(np.concatenate([empty, *found])))
        return ""

    def trace(self) -> Trace | None:
        """Return what was recorded; None if no round was."""
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
        """Return a line on memory that is not tracked."""
        skipped = self.tracker.skipped
        if not skipped:
            return []
        (start, end), why = skipped[0]
        rest = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        return [f"not tracked: {start:#x}-{end:#x}: {why}{rest}"]

    def close(self) -> str:
        """Leave the process as it was; return why that can't be, or ""."""
        try:
            self.tracker.close()
        except (InjectError, OSError) as error:
            return f"process {self.pid} keeps its userfaultfd: {error}"
        return ""


@contextlib.contextmanager
def until_told() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt for the time of a block."""
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # not in the main thread
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
