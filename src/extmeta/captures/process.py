"""Capture a running process."""

import contextlib
import operator
import os
import re
from typing import Any

import numpy as np

from extmeta.captures import huge, procfs
from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.procfs import Progress
from extmeta.integers import is_whole
from extmeta.linux.pagewords import PAGE_BYTES, whole_leaves

# How often a process that maps or unmaps meanwhile is read again.
RETRIES = 3


def _read_settled(pid: int, progress: Progress | None, gentle: bool) -> procfs.Reading:
    """Read until a reading is settled, at most 1 + `RETRIES` times."""
    for retries_left in range(RETRIES, -1, -1):
        try:
            reading = procfs.read(pid, progress, gentle)
        except (procfs.GoneError, ProcessLookupError):
            # exec replaces the address space.
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
    pid: int,
    *,
    stop: bool = False,
    progress: Progress | None = None,
    gentle: bool = False,
) -> Capture:
    """Capture the page tables of a running process.

    Parameters
    ----------
    pid : int
    stop : bool, optional
        Stop the process meanwhile by SIGSTOP, and continue it by SIGCONT in any
        case; its parent gets SIGCHLD for both. A process that is already stopped or
        traced stays so. Without `stop`, a process that maps or unmaps meanwhile is
        read again, up to three times. If it still does, the last reading is returned
        with `Capture.settled` False.
    progress : callable, optional
        Called with the bytes of pagemap read and to be read, two ints; starts from
        0 when the reading is repeated.
    gentle : bool, optional
        Hold the process's mmap_lock for no longer than about 1 ms, whatever its size,
        also for less of a capture: VMAs have no `vma_flags`, unless the process has
        hugetlb pages, whose smaps is read. Needs PAGEMAP_SCAN; before Linux 6.7, smaps
        is read too.

    Returns
    -------
    Capture

    Raises
    ------
    TypeError
        If `pid` is not an integer.
    ValueError
        If `pid` is not positive, or is this process itself and `stop` is set.
    CaptureError
        If there is no such process, it exits meanwhile, has no address space
        (a kernel thread), may not be read, or does not stop.

    Notes
    -----
    Since Linux 6.7, PAGEMAP_SCAN tells where the pages are. Before, the words of all
    pages of all VMAs are read, 10 s for a reservation of 16 TiB, and the place of a
    2 MiB leaf is known only if all memory of its VMA that may be in leaves is: see
    `Capture.vma_unlocated_kb` and `Capture.vma_anon_huge_kb`. `stop` needs pidfds,
    Linux 5.3.
    """
    if not is_whole(pid):
        raise TypeError(f"pid: {pid!r} is not an integer")
    pid = operator.index(pid)
    if pid <= 0:
        raise ValueError(f"pid: {pid} is not positive")
    if os.sysconf("SC_PAGE_SIZE") != PAGE_BYTES:
        raise CaptureError(
            f"pages of {os.sysconf('SC_PAGE_SIZE')} bytes; captures are of 4 KiB ones"
        )
    try:
        procfs.checked_status(pid)
    except procfs.AbsentError as error:
        raise CaptureError(str(error)) from None
    try:
        with procfs.stopped(pid) if stop else contextlib.nullcontext():
            reading = _read_settled(pid, progress, gentle)
        return captured(reading, re.sub(r"-.*", "", os.uname().release))
    except procfs.StopError:
        why = f"did not stop within {procfs.STOP_SECONDS:g} s"
    except PermissionError:
        why = "may be read by its owner and by root (CAP_SYS_PTRACE) only"
    except (procfs.GoneError, ProcessLookupError):
        why = "exited while being read"
    except FileNotFoundError as error:
        why = f"exited while being read: {error.filename} is gone"
    raise CaptureError(f"process {pid} {why}")


def captured(reading: procfs.Reading, kernel: str, **more: Any) -> Capture:
    """Return the capture of a reading; ``more`` is other arguments of `Capture`."""
    vmas = reading.vmas
    leaves = reading.huge_vpn
    unlocated = anonymous = np.zeros(len(vmas.start), np.uint64)
    if leaves is None:
        leaves, unlocated, anonymous = huge.placed(vmas, reading.vpn, reading.entry)
    # Leaves out those unmapped since, and 1 GiB pages, which have no entries.
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
        kernel=kernel,
        comm=reading.status.comm,
        huge_vpn=leaves,
        vma_unlocated_kb=unlocated,
        vma_anon_huge_kb=anonymous,
        settled=reading.settled,
        **({"huge_marked": True} | more),
    )
