"""Capture every process of a machine, within a budget.

It only opens files of /proc for reading: no process is stopped, traced or written to.
Each capture is a file ``PID-START.npz``, where START is when the process started, in
clock ticks since boot. So a collection that was ended goes on where it was: a process
that has its file is not read again.

The kernel holds the process's mmap_lock, for reading, during parts of a call, never
from one call to the next (Linux fs/proc/task_mmu.c). docs/inputs.md has what the longest
calls take. The collector must not have a lower priority than the processes: they would
wait for it if it lost the processor with their lock.
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from extmeta.captures import procfs
from extmeta.captures.capture import CaptureError
from extmeta.captures.process import capture

# The place of the start time in /proc/PID/stat, counted after the name.
_START = 19


@dataclass
class Collection:
    """What a collection did.

    Attributes
    ----------
    new, there : int
        Captures that were written, and that an earlier collection wrote.
    nbytes : int
        Size of the new files.
    unsettled : int
        New captures of processes that changed while they were read.
    left : int
        Processes that were not looked at when the time was over.
    refused : Counter of str
        Processes that were not captured, by the reason.
    """

    new: int = 0
    there: int = 0
    nbytes: int = 0
    unsettled: int = 0
    left: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def collect(
    folder: str | os.PathLike[str],
    *,
    cpu: float = 1.0,
    seconds: float = float("inf"),
    pfns: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Collection:
    """Capture all processes that may be read, each to a file.

    Parameters
    ----------
    folder : path-like
        An existing directory.
    cpu : float, optional
        The share of one processor to use on average, above 0. After each process it
        sleeps for as long as that takes.
    seconds : float, optional
        No process is begun after so many seconds.
    pfns : bool, optional
        As in `Capture.save`.
    progress : callable, optional
        Called with the number of processes done and found.

    Returns
    -------
    Collection

    Raises
    ------
    OSError
        If a file can't be written; the captures before it are kept.
    """
    done = Collection()
    began, used = time.monotonic(), time.process_time()
    pids = processes()
    for number, pid in enumerate(pids):
        if progress:
            progress(number, len(pids))
        if time.monotonic() - began >= seconds:
            done.left = len(pids) - number
            break
        _collect_one(pid, Path(folder), pfns, done)
        due = began + (time.process_time() - used) / cpu
        if (pause := min(due, began + seconds) - time.monotonic()) > 0:
            time.sleep(pause)
    return done


def processes() -> list[int]:
    """Return the ids of all other processes, ascending."""
    found = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return sorted(pid for pid in found if pid != os.getpid())


def _collect_one(pid: int, folder: Path, pfns: bool, done: Collection) -> None:
    try:
        path = folder / f"{pid}-{int(procfs.stat(pid)[_START])}.npz"
        if path.exists():
            done.there += 1
            return
        procfs.status(pid)
    except procfs.AbsentError:
        done.refused["kernel threads"] += 1
        return
    except (procfs.GoneError, FileNotFoundError, ProcessLookupError):
        done.refused["ended"] += 1
        return
    try:
        found = capture(pid, gentle=True)
    except CaptureError as error:
        done.refused[str(error).removeprefix(f"process {pid} ")] += 1
        return
    found.save(path, pfns)
    done.new += 1
    done.nbytes += path.stat().st_size
    done.unsettled += not found.settled
