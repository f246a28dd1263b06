"""Read one process in /proc: its state, its VMAs, its pagemap words.

Files of /proc are lines of bytes that end in b"\\n". Names may contain any other byte,
also other line ends of Python and invalid UTF-8. If the first thread of a process has
ended, /proc/PID is empty; `living` says where to read then.

There is no state between calls, and no loop over pages: pagemap is read in large
pieces, and if the kernel has PAGEMAP_SCAN only around populated pages, so that a
reservation of terabytes costs nothing.

An address space may change while it is read; `Reading.settled` is then False.
"""

import contextlib
import errno
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64, Bools
from extmeta.linux import pagemap_scan, pagewords
from extmeta.linux.pagemap_scan import PageIs
from extmeta.linux.pagewords import LEAF_PAGES, LEAF_SHIFT, PAGE_SHIFT

Progress = Callable[[int, int], object]

KERNEL_HALF = 1 << 63

# Pages per pread: 1 MiB of words. More is not faster: holes were read at 3.2 GB/s with
# 64 KiB, 3.4 with 1 MiB, 2.9 with 8 MiB.
CHUNK_PAGES = 1 << 17

# Ranges closer than this are read as one: reading a hole of this size takes as long as
# a call of pread (10 us).
GAP_PAGES = 1 << 12

# Bytes of VMAs that a gentle reading walks at once: 1 ms with all of them present, see
# `python benchmarks/collector.py`.
GENTLE_BYTES = 1 << 29

# How long SIGSTOP may take to stop every thread.
STOP_SECONDS = 5.0

# PF_KTHREAD of include/linux/sched.h, in field 9 of /proc/PID/stat.
_KTHREAD = 0x00200000

_VMA = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) [0-9a-f]+ \S+ (\d+) *(.*)$", re.MULTILINE
)
_FLAGS = re.compile(rb"^VmFlags: *(.*?) *$", re.MULTILINE)
_PAGE_SIZE = re.compile(rb"^KernelPageSize: *(\d+) kB$", re.MULTILINE)
_ANON_HUGE = re.compile(rb"^AnonHugePages: *(\d+) kB$", re.MULTILINE)
# Adjacent lines: Linux fs/proc/task_mmu.c __show_smap().
_PMD_MAPPED = re.compile(
    rb"^ShmemPmdMapped: *(\d+) kB\nFilePmdMapped: *(\d+) kB$", re.MULTILINE
)


class GoneError(Exception):
    """The process has no address space any more."""


class AbsentError(Exception):
    """There is no address space to read; the message is one line."""


class StopError(Exception):
    """The process does not stop."""


class Status(NamedTuple):
    """Lines of /proc/PID/status; sizes in kB.

    VmPTE is mm_pgtables_bytes(): PTE, PMD and PUD tables, without the PGD and P4D
    tables (Linux mm/memory.c __p4d_alloc()).
    """

    comm: str
    state: str
    tgid: int
    vmpte_kb: int
    vmrss_kb: int


class Vmas(NamedTuple):
    """Rows of /proc/PID/smaps, each field (V,)."""

    start: U64
    end: U64
    perms: npt.NDArray[np.str_]
    flags: npt.NDArray[np.str_]
    name: npt.NDArray[np.str_]
    page_kb: U64
    pmd_mapped_kb: U64
    anon_huge_kb: U64

    @property
    def user(self) -> Bools:
        """All but the vsyscall page, which pagemap does not show."""
        return np.less(self.start, KERNEL_HALF)

    def only(self, keep: Bools) -> "Vmas":
        """Return the rows that are set in ``keep``."""
        rows: list[Any] = [field[keep] for field in self]
        return Vmas(*rows)


class Reading(NamedTuple):
    """The result of one `read`; `settled`: VMAs and VmPTE did not change meanwhile."""

    vmas: Vmas
    vpn: U64
    entry: U64
    huge_vpn: U64 | None  # None: the kernel has no PAGEMAP_SCAN
    status: Status
    settled: bool


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def open_file(where: int | str, name: str, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a file below /proc/``where``."""
    return os.open(f"/proc/{where}/{name}", flags | os.O_CLOEXEC)


def slurp(where: int | str, name: str) -> bytes:
    """Return the content of a file below /proc/``where``."""
    with open(open_file(where, name), "rb") as file:
        return file.read()


def stat(where: int | str) -> list[bytes]:
    """Return the fields of stat after the name, the state first."""
    # The name in parentheses may contain parentheses.
    return slurp(where, "stat").rpartition(b")")[2].split()


def status_lines(where: int | str) -> dict[bytes, bytes]:
    """Return the lines of status by their keys."""
    return parse_status(slurp(where, "status"))


def parse_status(text: bytes) -> dict[bytes, bytes]:
    """Return the lines in the text of /proc/PID/status by their keys."""
    lines = text.split(b"\n")
    return dict(line.split(b":\t", 1) for line in lines if b":\t" in line)


def threads(pid: int) -> list[tuple[int, bytes]]:
    """Return the threads of a process that have not ended, ascending: tid and state."""
    found = []
    for tid in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (state := stat(f"{pid}/task/{tid}")[0]) not in (b"Z", b"X"):
                found.append((tid, state))
    return found


def living(pid: int) -> str:
    """Return the directory below /proc that shows the address space of a process.

    That is ``pid``, or another thread if the first one has ended.

    Raises
    ------
    GoneError
        If all threads have ended.
    OSError
        If there is no such process.
    """
    if stat(pid)[0] not in (b"Z", b"X"):
        return str(pid)
    if not (alive := threads(pid)):
        raise GoneError
    return f"{pid}/task/{alive[0][0]}"


def absence(pid: int) -> str:
    """Return why /proc does not show a process, as "process 5 does not exist"."""
    if not os.path.exists("/proc/self"):
        return f"process {pid} can't be read: /proc is not mounted"
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return f"process {pid} does not exist"
    except PermissionError:
        pass
    return f"process {pid} is hidden: /proc is mounted with hidepid"


def status(pid: int) -> Status:
    """Return /proc/PID/status of a process with an address space.

    Raises
    ------
    GoneError
        If it is a zombie or is about to be one.
    AbsentError
        If it is a kernel thread.
    OSError
        If there is no such process.
    """
    where = living(pid)
    lines = status_lines(where)
    if b"VmPTE" not in lines:
        if int(stat(where)[6]) & _KTHREAD:
            raise AbsentError(
                f"process {pid} is a kernel thread and has no address space"
            )
        raise GoneError
    return Status(
        comm=_text(lines[b"Name"]),
        state=_text(lines[b"State"][:1]),
        tgid=int(lines[b"Tgid"]),
        vmpte_kb=int(lines[b"VmPTE"].split()[0]),
        vmrss_kb=int(lines[b"VmRSS"].split()[0]),
    )


def checked_status(pid: int) -> Status:
    """Return `status`, or raise AbsentError with the reason in one line."""
    try:
        return status(pid)
    except (FileNotFoundError, ProcessLookupError):
        why = absence(pid)
    except GoneError:
        why = f"process {pid} has ended"
    raise AbsentError(why)


def _base_name(raw: bytes) -> str:
    """Return a mapping's name without the folder of its file."""
    return _text(raw.rpartition(b"/")[2] if raw.startswith(b"/") else raw)


def vma_rows(text: bytes) -> list[tuple[bytes, bytes, bytes, bytes, bytes]]:
    """Return start, end, permissions, inode and name of the VMAs in maps or smaps."""
    return _VMA.findall(text)


def parse_smaps(text: bytes, maps: bool = False) -> Vmas:
    """Return the VMAs in the text of /proc/PID/smaps, or of ``maps``.

    Raises
    ------
    GoneError
        If there is none, or one is cut short.
    """
    rows = vma_rows(text)
    # maps has neither flags nor sizes.
    flags = [b""] * len(rows) if maps else _FLAGS.findall(text)
    sizes = [b"4"] * len(rows) if maps else _PAGE_SIZE.findall(text)
    # Absent before Linux 5.4, which did not map files by PMDs.
    mapped = _PMD_MAPPED.findall(text) or [(b"0", b"0")] * len(rows)
    # Absent before Linux 2.6.38, which had only hugetlb's huge pages.
    anonymous = _ANON_HUGE.findall(text) or [b"0"] * len(rows)
    lengths = {len(found) for found in (rows, flags, sizes, mapped, anonymous)}
    if not rows or len(lengths) > 1:
        raise GoneError
    starts, ends, perms, _inodes, names = zip(*rows, strict=True)
    vmas = Vmas(
        start=np.array([int(start, 16) for start in starts], np.uint64),
        end=np.array([int(end, 16) for end in ends], np.uint64),
        perms=np.array(perms, "S4").astype("U4"),
        flags=np.array([flag.decode() for flag in flags]),
        name=np.array([_base_name(name) for name in names]),
        page_kb=np.array(sizes).astype(np.uint64),
        pmd_mapped_kb=np.array(mapped).astype(np.uint64).sum(axis=1),
        anon_huge_kb=np.array(anonymous).astype(np.uint64),
    )
    # The kernel writes smaps piece by piece. A VMA that grew between two pieces is
    # listed again, overlapping: keep only the new part.
    over = np.maximum.accumulate(vmas.end)
    start = vmas.start.copy()
    start[1:] = np.maximum(start[1:], over[:-1])
    return vmas._replace(start=start).only(start < vmas.end)


def _spans(vmas: Vmas, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of bytes that have all user VMAs, and each ``most`` bytes of them."""
    first, size, end = -1, 0, 0
    for start, end in zip(*(x[vmas.user].tolist() for x in vmas[:2]), strict=True):
        while start < end:
            first = start if first < 0 else first
            stop = min(end, start + most - size)
            size, start = size + stop - start, stop
            if size == most:
                yield first, stop
                first, size = -1, 0
    if first >= 0:
        yield first, end


def populated(fd: int, vmas: Vmas, most: int = KERNEL_HALF) -> tuple[U64, U64] | None:
    """Find the pages by PAGEMAP_SCAN.

    Parameters
    ----------
    fd : int
        An open /proc/PID/pagemap.
    vmas : Vmas
    most : int
        Bytes of VMAs that one call walks.

    Returns
    -------
    ranges : (R, 2) uint64 ndarray
        Bytes [first, end) of present, swapped and marker PTEs.
    huge_vpn : (H,) uint64 ndarray
        First vpns of the 2 MiB leaves: huge pages that one PMD maps, hugetlb's too.
    or None if the kernel has no PAGEMAP_SCAN (before 6.7).
    """
    pieces = [np.empty((0, 3), np.uint64)]
    try:
        for start, end in _spans(vmas, most):
            pieces.append(
                pagemap_scan.pagemap_scan(
                    fd,
                    start,
                    end,
                    anyof=PageIs.PRESENT | PageIs.SWAPPED,
                    returned=PageIs.HUGE,
                )
            )
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
            return None
        raise
    found = np.concatenate(pieces)
    huge = found[found[:, 2] == PageIs.HUGE, :2] >> LEAF_SHIFT
    leaves = [np.arange(first, stop, dtype=np.uint64) for first, stop in huge.tolist()]
    return found[:, :2], np.concatenate([huge[:0, 0], *leaves]) * np.uint64(LEAF_PAGES)


def _joined(ranges: U64) -> npt.NDArray[np.int64]:
    """Return ranges of bytes as ranges of vpns, with close ones merged."""
    vpns = (ranges >> PAGE_SHIFT).astype(np.int64)
    apart = vpns[1:, 0] - vpns[:-1, 1] > GAP_PAGES
    first = vpns[np.concatenate(([True], apart)), 0]
    stop = vpns[np.concatenate((apart, [True])), 1]
    return np.stack((first, stop), axis=1)


def pagemap(fd: int, ranges: U64, progress: Progress | None) -> tuple[U64, U64]:
    """Read the populated pagemap words of ranges.

    Parameters
    ----------
    fd : int
        An open /proc/PID/pagemap.
    ranges : (R, 2) uint64 ndarray
        Bytes [first, end), ascending.
    progress : callable, optional
        Called with the bytes of pagemap read and to be read.

    Returns
    -------
    vpn, entry : (N,) uint64 ndarray
        Pages that are present, swapped or markers, and their words. They may
        include pages between the ranges.

    Raises
    ------
    GoneError
        If the address space is freed meanwhile: pagemap then ends early (Linux
        fs/proc/task_mmu.c pagemap_read()).
    """
    vpns: list[U64] = []
    entries: list[U64] = []
    if len(ranges):
        joined = _joined(ranges)
        done, total = 0, 8 * int((joined[:, 1] - joined[:, 0]).sum())
        words = np.empty(CHUNK_PAGES, np.uint64)
        raw = words.data.cast("B")
        for first, stop in joined.tolist():
            while first < stop:
                if progress:
                    progress(done, total)
                nr = min(stop - first, CHUNK_PAGES)
                nr = os.preadv(fd, [raw[: nr * 8]], first * 8) // 8
                if not nr:
                    raise GoneError
                hits = np.flatnonzero(pagewords.populated(words[:nr]))
                vpns.append(hits.astype(np.uint64) + np.uint64(first))
                entries.append(words[hits])
                first += nr
                done += nr * 8
        if progress:
            progress(done, total)
    none = np.empty(0, np.uint64)
    return np.concatenate([none, *vpns]), np.concatenate([none, *entries])


def within_vmas(vpn: U64, vmas: Vmas) -> Bools:
    """Tell which vpns are in a VMA that has PTEs or 2 MiB leaves."""
    # A PUD maps a 1 GiB hugetlb page, for which captures have no form.
    here = vmas.user & (vmas.page_kb <= pagewords.LEAF_KB)
    bounds = pagewords.vpn_bounds(vmas.start[here], vmas.end[here])
    return pagewords.within(vpn, bounds)


def read(pid: int, progress: Progress | None = None, gentle: bool = False) -> Reading:
    """Read an address space once.

    A ``gentle`` reading takes VMAs from maps, without flags, since smaps holds mmap_lock
    while it walks a whole VMA. But only smaps tells 1 GiB pages of hugetlb from others.

    Raises
    ------
    GoneError, AbsentError
        If there is no address space, or it is freed meanwhile.
    OSError
        If the process does not exist or may not be read.
    """
    with contextlib.ExitStack() as stack:
        # Opened first: pagemap keeps its address space, while smaps opened after an
        # exec shows the new one.
        where = living(pid)
        fd = open_file(where, "pagemap")
        stack.callback(os.close, fd)
        before = status(pid)
        hugetlb = status_lines(where).get(b"HugetlbPages", b"").split()[:1]
        bare = gentle and hugetlb == [b"0"]
        smaps = slurp(where, "maps" if bare else "smaps")
        vmas = parse_smaps(smaps, maps=bare)
        found = populated(fd, vmas, GENTLE_BYTES if gentle else KERNEL_HALF)
        if bare and not found:
            # Huge pages are found by smaps.
            smaps = slurp(where, "smaps")
            vmas = parse_smaps(smaps)
        # Without PAGEMAP_SCAN, every page of every VMA is read.
        bounds = np.stack((vmas.start, vmas.end), axis=1)[vmas.user]
        ranges, huge_vpn = found or (bounds, None)
        vpn, entry = pagemap(fd, ranges, progress)
        after = status(pid)
        maps = slurp(living(pid), "maps")
        same = [r[:3] for r in vma_rows(smaps)] == [r[:3] for r in vma_rows(maps)]
    keep = within_vmas(vpn, vmas)
    return Reading(
        vmas=vmas,
        vpn=vpn[keep],
        entry=entry[keep],
        huge_vpn=huge_vpn,
        status=after,
        settled=same and before.vmpte_kb == after.vmpte_kb,
    )


def _running(pid: int) -> bool:
    """Tell whether a thread of the process may still run."""
    return any(state not in (b"T", b"t") for _tid, state in threads(pid))


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process by SIGSTOP for a block, and continue it by SIGCONT.

    A process that is already stopped or traced stays as it is.

    Raises
    ------
    ValueError
        If it is this process itself.
    StopError
        If it does not stop within `STOP_SECONDS`.
    OSError
        If it does not exist or may not be signalled.
    """
    now = status(pid)
    if now.tgid == os.getpid():
        raise ValueError(f"stop=True: pid {pid} is this process itself")
    if now.state in "Tt":
        yield
        return
    # A pidfd: SIGCONT never reaches another process that got the pid.
    fd = os.pidfd_open(now.tgid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGSTOP)
        try:
            deadline = time.monotonic() + STOP_SECONDS
            while _running(now.tgid):
                if time.monotonic() > deadline:
                    raise StopError
                time.sleep(0.001)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGCONT)
    finally:
        os.close(fd)
