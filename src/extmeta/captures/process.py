"""A running process is captured."""

import contextlib
import operator
import os
import re
from collections.abc import Iterator

import numpy as np

from extmeta.captures import huge, procfs
from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.procfs import Progress
from extmeta.linux.pagewords import PAGE_BYTES, whole_leaves

# How often a process that maps while it is read is read again.
RETRIES = 3


@contextlib.contextmanager
def _named(pid: int) -> Iterator[None]:
    """Turn what can befall a reading into one line about the process."""
    try:
        yield
    except procfs.StopError:
        why = f"did not stop within {procfs.STOP_SECONDS:g} s"
    except PermissionError:
        why = "may be read by its owner and by root (CAP_SYS_PTRACE) only"
    except (procfs.GoneError, ProcessLookupError):
        why = "exited while being read"
    except FileNotFoundError as error:
        why = f"exited while being read: {error.filename} is gone"
    else:
        return
    raise CaptureError(f"process {pid} {why}") from None


def _read_settled(pid: int, progress: Progress | None) -> procfs.Reading:
    """Read until nothing moves meanwhile, `RETRIES` times more at most."""
    for retries_left in range(RETRIES, -1, -1):
        try:
            reading = procfs.read(pid, progress)
        except (procfs.GoneError, ProcessLookupError):
            # exec takes the address space away and gives another one.
            procfs.status(pid)
            if not retries_left:
                raise
            continue
        except FileNotFoundError as error:
            procfs.status(pid)
            raise CaptureError(
                f"process {pid} is there but {error.filename} is not: a kernel "
                "without CONFIG_PROC_PAGE_MONITOR"
            ) from None
        if reading.settled:
            break
    return reading


def capture(
    pid: int, *, stop: bool = False, progress: Progress | None = None
) -> Capture:
    """Capture the page tables of a running process.

    Parameters
    ----------
    pid : int
    stop : bool, optional
        Hold the process by SIGSTOP meanwhile and let it go on by SIGCONT,
        whatever happens; its parent is told of both, by SIGCHLD. One that is
        stopped or traced already is left so. Without it, a process that maps
        or unmaps while it is read is read again, up to three times, and then
        given as it was last seen: `Capture.settled` is False.
    progress : callable, optional
        Called now and then with bytes of pagemap read and to be read, two
        ints; from 0 again when the reading is repeated.

    Returns
    -------
    Capture

    Raises
    ------
    TypeError
        If `pid` is not an integer.
    ValueError
        If `pid` is not positive, or `stop` is asked of this process itself.
    CaptureError
        If there is no such process, it exits meanwhile, has no address space
        (a kernel thread), may not be read, or does not stop.

    Notes
    -----
    Linux 6.7 up tells where the pages are (PAGEMAP_SCAN); before, every page
    of every VMA is asked for, 10 s for a reservation of 16 TiB, and the place of
    a 2 MiB leaf is known only if all that can be leaves in its VMA are: see
    `Capture.vma_unlocated_kb` and `Capture.vma_anon_huge_kb`. `stop` needs pidfds,
    Linux 5.3.
    """
    if isinstance(pid, bool):
        raise TypeError(f"pid: {pid} is not an integer")
    try:
        pid = operator.index(pid)
    except TypeError:
        raise TypeError(f"pid: {pid!r} is not an integer") from None
    if pid <= 0:
        raise ValueError(f"pid: {pid} is not positive")
    if os.sysconf("SC_PAGE_SIZE") != PAGE_BYTES:
        raise CaptureError(
            f"pages of {os.sysconf('SC_PAGE_SIZE')} bytes; captures are of 4 KiB ones"
        )
    try:
        procfs.status(pid)
    except (FileNotFoundError, ProcessLookupError):
        raise CaptureError(procfs.absence(pid)) from None
    except procfs.GoneError:
        raise CaptureError(f"process {pid} has exited") from None
    except procfs.KernelThreadError:
        raise CaptureError(
            f"process {pid} is a kernel thread and has no address space"
        ) from None
    with _named(pid):
        with procfs.stopped(pid) if stop else contextlib.nullcontext():
            reading = _read_settled(pid, progress)
        return _captured(reading)


def _captured(reading: procfs.Reading) -> Capture:
    vmas = reading.vmas
    leaves = reading.huge_vpn
    unlocated = anonymous = np.zeros(len(vmas.start), np.uint64)
    if leaves is None:
        leaves, unlocated, anonymous = huge.placed(vmas, reading.vpn, reading.entry)
    # Gone since, or of 1 GiB pages, whose entries are left out.
    leaves = leaves[whole_leaves(leaves, reading.vpn, reading.entry)]
    return Capture(
        vma_start=vmas.start,
        vma_end=vmas.end,
        vma_perms=vmas.perms,
        vma_flags=vmas.flags,
        vma_name=vmas.name,
        vpn=reading.vpn,
        entry=reading.entry,
        vmpte_kb=reading.status.vmpte_kb,
        vmrss_kb=reading.status.vmrss_kb,
        kernel=re.sub(r"-.*", "", os.uname().release),
        comm=reading.status.comm,
        huge_vpn=leaves,
        vma_unlocated_kb=unlocated,
        vma_anon_huge_kb=anonymous,
        huge_marked=True,
        settled=reading.settled,
    )
