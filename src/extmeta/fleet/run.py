"""Gives the parts of a sweep to workers: local processes, or a dask cluster.

A worker may be killed at any moment, and so may a scheduler, or this process: what was
not finished is given out again. Parts whose files exist are not.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from extmeta.fleet.job import Job, Part
from extmeta.fleet.measure import WriteError, part_file

# After so many losses of workers in a row without a part finished, a sweep gives up.
LOSSES = 5

# A scheduler that has gone is waited for so long.
SCHEDULER_SECONDS = 120

PR_SET_PDEATHSIG = 1  # Linux include/uapi/linux/prctl.h

Done = Callable[[int], object]


class LostError(RuntimeError):
    """Workers, or the scheduler, were lost again and again."""


def missing_parts(parts: Sequence[Part]) -> list[Part]:
    """Return the parts that have no file."""
    return [part for part in parts if not os.path.exists(part.path)]


def locally(
    job: Job, folder: str, parts: Sequence[Part], processes: int, done: Done
) -> None:
    """Measure parts in processes of this machine.

    Parameters
    ----------
    job : Job
    folder : str
    parts : sequence of Part
    processes : int
    done : callable
        Called with the number of captures of each part that is finished.

    Raises
    ------
    LostError
    WriteError
    """

    def some(left: Sequence[Part]) -> Iterator[tuple[int, int]]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, _start, (os.getpid(),)) as pool:
            futures = [pool.submit(part_file, job, folder, part) for part in left]
            try:
                for future in as_completed(futures):
                    with contextlib.suppress(BrokenProcessPool):
                        yield future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    _until_done(parts, some, done)


def _start(parent: int) -> None:
    """Let a worker end with its parent, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def by_dask(
    job: Job, folder: str, parts: Sequence[Part], address: str, done: Done
) -> None:
    """Measure parts on a dask cluster, whose workers see the same files.

    Parameters and errors are those of `locally`, and ``address`` is the scheduler's.
    """
    from distributed import Client
    from distributed import as_completed as completed
    from distributed.comm import CommClosedError

    def some(left: Sequence[Part]) -> Iterator[tuple[int, int]]:
        with Client(address, timeout=SCHEDULER_SECONDS) as client:
            futures = [
                client.submit(part_file, job, folder, part, pure=False) for part in left
            ]
            # If the scheduler goes, the next client waits for another one.
            with contextlib.suppress(CancelledError, CommClosedError):
                for future in completed(futures, raise_errors=False):
                    if future.status == "finished":
                        yield future.result()
                    # Else it has seen too many workers die.
                    elif isinstance(error := future.exception(), WriteError):
                        raise error

    _until_done(parts, some, done)


def _until_done(
    parts: Sequence[Part],
    some: Callable[[Sequence[Part]], Iterator[tuple[int, int]]],
    done: Done,
) -> None:
    """Give out parts until each is finished; ``some`` may end before that."""
    left = {part.number: part for part in parts}
    losses = 0
    while left:
        before = len(left)
        for number, nr_captures in some(list(left.values())):
            if left.pop(number, None):
                done(nr_captures)
        losses = 0 if len(left) < before else losses + 1
        if losses >= LOSSES:
            raise LostError(f"workers were lost {losses} times, with no part finished")
