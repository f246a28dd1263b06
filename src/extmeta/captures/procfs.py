"""What /proc tells of one process: its state, its VMAs, its pagemap words.

/proc is bytes in lines that end in b"\\n": a name may hold any other byte, those that
Python calls line ends or no UTF-8 among them. A process whose first thread has ended
shows nothing by its own number; `living` says where it is read then.

Nothing is kept between calls, and nothing here loops over pages: pagemap is
read in large pieces, and where the kernel has PAGEMAP_SCAN only around the
pages that are there, so that a reservation of terabytes costs nothing.

An address space moves while it is read. :func:`read` says whether it did.
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

from extmeta.linux import pagemap_scan, pagewords
from extmeta.linux.pagemap_scan import PageIs
from extmeta.linux.pagewords import LEAF_PAGES, LEAF_SHIFT, PAGE_SHIFT

U64 = npt.NDArray[np.uint64]
Progress = Callable[[int, int], object]

KERNEL_HALF = 1 << 63

# Pages a pread covers: 1 MiB of words. Larger ones are no faster: holes came
# at 3.2 GB/s with 64 KiB, 3.4 with 1 MiB, 2.9 with 8 MiB.
CHUNK_PAGES = 1 << 17

# Ranges closer than this many pages are read as one: a hole of that many words
# takes about as long to read as a pread to call (10 us).
GAP_PAGES = 1 << 12

# How long SIGSTOP may take to stop every thread.
STOP_SECONDS = 5.0

# PF_KTHREAD of include/linux/sched.h, in field 9 of /proc/PID/stat.
_KTHREAD = 0x00200000

_VMA = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) [0-9a-f]+ \S+ \d+ *(.*)$", re.MULTILINE
)
_FLAGS = re.compile(rb"^VmFlags: *(.*?) *$", re.MULTILINE)
_PAGE_SIZE = re.compile(rb"^KernelPageSize: *(\d+) kB$", re.MULTILINE)
_ANON_HUGE = re.compile(rb"^AnonHugePages: *(\d+) kB$", re.MULTILINE)
# Two lines, one below the other: Linux fs/proc/task_mmu.c __show_smap().
_PMD_MAPPED = re.compile(
    rb"^ShmemPmdMapped: *(\d+) kB\nFilePmdMapped: *(\d+) kB$", re.MULTILINE
)


class GoneError(Exception):
    """The process has no address space any more."""


class KernelThreadError(Exception):
    """The process never had an address space."""


class StopError(Exception):
    """The process does not stop."""


class Status(NamedTuple):
    """Lines of /proc/PID/status; sizes in kB.

    VmPTE is mm_pgtables_bytes(): PTE, PMD and PUD tables. Neither the PGD nor
    a P4D table is counted (Linux mm/memory.c __p4d_alloc()).
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
    def user(self) -> npt.NDArray[np.bool_]:
        """All but the vsyscall page, which pagemap can't show."""
        return np.less(self.start, KERNEL_HALF)

    def only(self, keep: npt.NDArray[np.bool_]) -> "Vmas":
        """Return the rows that are set in ``keep``."""
        rows: list[Any] = [field[keep] for field in self]
        return Vmas(*rows)


class Reading(NamedTuple):
    """An address space as it was read once."""

    vmas: Vmas
    vpn: U64
    entry: U64
    huge_vpn: U64 | None  # None: the kernel did not tell where they are
    status: Status
    settled: bool


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def open_file(where: int | str, name: str, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a file below /proc/``where``."""
    return os.open(f"/proc/{where}/{name}", flags | os.O_CLOEXEC)


def slurp(where: int | str, name: str) -> bytes:
    """Return all that a file below /proc/``where`` has."""
    with open(open_file(where, name), "rb") as file:
        return file.read()


def stat(where: int | str) -> list[bytes]:
    """Return the fields of stat that follow the name, from the state on."""
    # The name in parentheses may hold anything, parentheses too.
    return slurp(where, "stat").rpartition(b")")[2].split()


def status_lines(where: int | str) -> dict[bytes, bytes]:
    """Return the lines of status by their keys."""
    lines = slurp(where, "status").split(b"\n")
    return dict(line.split(b":\t", 1) for line in lines if b":\t" in line)


def threads(pid: int) -> list[int]:
    """Return the threads of a process that live, ascending."""
    found = []
    for tid in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if stat(f"{pid}/task/{tid}")[0] not in (b"Z", b"X"):
                found.append(tid)
    return found


def living(pid: int) -> str:
    """Return what below /proc shows the address space of a process.

    That is ``pid``, or a thread that lives, if the first one has ended.

    Raises
    ------
    GoneError
        If no thread lives.
    OSError
        If there is no such process.
    """
    if stat(pid)[0] not in (b"Z", b"X"):
        return str(pid)
    if not (tids := threads(pid)):
        raise GoneError
    return f"{pid}/task/{tids[0]}"


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
    """Return what /proc/PID/status tells of a process with an address space.

    Raises
    ------
    GoneError
        If it is a zombie or on its way there.
    KernelThreadError
        If it is a kernel thread.
    OSError
        If there is no such process.
    """
    where = living(pid)
    lines = status_lines(where)
    if b"VmPTE" not in lines:
        raise KernelThreadError if int(stat(where)[6]) & _KTHREAD else GoneError
    return Status(
        comm=_text(lines[b"Name"]),
        state=_text(lines[b"State"][:1]),
        tgid=int(lines[b"Tgid"]),
        vmpte_kb=int(lines[b"VmPTE"].split()[0]),
        vmrss_kb=int(lines[b"VmRSS"].split()[0]),
    )


def _base_name(raw: bytes) -> str:
    """Return a mapping's name without the folder of its file."""
    return _text(raw.rpartition(b"/")[2] if raw.startswith(b"/") else raw)


def parse_smaps(text: bytes) -> Vmas:
    """Return the VMAs that /proc/PID/smaps lists.

    Raises
    ------
    GoneError
        If there is none, or one is cut short.
    """
    rows = _VMA.findall(text)
    flags = _FLAGS.findall(text)
    sizes = _PAGE_SIZE.findall(text)
    # Absent before Linux 5.4; then no file could be mapped by PMDs.
    mapped = _PMD_MAPPED.findall(text) or [(b"0", b"0")] * len(rows)
    # Absent before Linux 2.6.38, which had no huge pages but hugetlb's.
    anonymous = _ANON_HUGE.findall(text) or [b"0"] * len(rows)
    lengths = {len(found) for found in (rows, flags, sizes, mapped, anonymous)}
    if not rows or len(lengths) > 1:
        raise GoneError
    vmas = Vmas(
        start=np.array([int(row[0], 16) for row in rows], np.uint64),
        end=np.array([int(row[1], 16) for row in rows], np.uint64),
        perms=np.array([row[2].decode() for row in rows], "U4"),
        flags=np.array([flag.decode() for flag in flags]),
        name=np.array([_base_name(row[3]) for row in rows]),
        page_kb=np.array([int(size) for size in sizes], np.uint64),
        pmd_mapped_kb=np.array([int(a) + int(b) for a, b in mapped], np.uint64),
        anon_huge_kb=np.array([int(kib) for kib in anonymous], np.uint64),
    )
    # The kernel writes smaps piece by piece. A VMA that grew between two
    # pieces is listed again, overlapping: keep what is new of it.
    over = np.maximum.accumulate(vmas.end)
    start = vmas.start.copy()
    start[1:] = np.maximum(start[1:], over[:-1])
    return vmas._replace(start=start).only(start < vmas.end)


def _bounds(text: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Return bounds and permissions of the VMAs in maps or smaps."""
    return [row[:3] for row in _VMA.findall(text)]


def populated(fd: int, vmas: Vmas) -> tuple[U64, U64] | None:
    """Ask the kernel where the pages are.

    Parameters
    ----------
    fd : int
        An open /proc/PID/pagemap.
    vmas : Vmas

    Returns
    -------
    ranges : (R, 2) uint64 ndarray
        Bytes [first, end) of present, swapped and marker PTEs.
    huge_vpn : (H,) uint64 ndarray
        First vpns of the 2 MiB leaves: huge pages that one PMD maps, hugetlb's too.
    or None, where the kernel (before 6.7) has no PAGEMAP_SCAN.
    """
    user = vmas.user
    if not user.any():
        return np.empty((0, 2), np.uint64), np.empty(0, np.uint64)
    try:
        found = pagemap_scan.pagemap_scan(
            fd,
            int(vmas.start[user][0]),
            int(vmas.end[user][-1]),
            anyof=PageIs.PRESENT | PageIs.SWAPPED,
            returned=PageIs.HUGE,
        )
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
            return None
        raise
    huge = found[found[:, 2] == PageIs.HUGE]
    first = huge[:, 0] >> LEAF_SHIFT
    count = ((huge[:, 1] >> LEAF_SHIFT) - first).astype(np.int64)
    # 0 1 2 0 1 0 1 2 ... : the place of each leaf in its range.
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    index = np.repeat(first, count) + place.astype(np.uint64)
    return found[:, :2], np.asarray(index * np.uint64(LEAF_PAGES))


def _joined(ranges: U64) -> npt.NDArray[np.int64]:
    """Return ranges of bytes as ranges of vpns, those close together as one."""
    vpns = (ranges >> PAGE_SHIFT).astype(np.int64)
    apart = vpns[1:, 0] - vpns[:-1, 1] > GAP_PAGES
    first = vpns[np.concatenate(([True], apart)), 0]
    stop = vpns[np.concatenate((apart, [True])), 1]
    return np.stack((first, stop), axis=1)


def pagemap(fd: int, ranges: U64, progress: Progress | None) -> tuple[U64, U64]:
    """Read the populated pagemap words of some ranges.

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
        Pages that are present, swapped or markers, and their words. Pages
        between the ranges may be among them.

    Raises
    ------
    GoneError
        If the address space goes away meanwhile: pagemap then ends early
        (Linux fs/proc/task_mmu.c pagemap_read()).
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


def _within(vpn: U64, vmas: Vmas) -> npt.NDArray[np.bool_]:
    """Tell which vpns are in a VMA that has PTEs or 2 MiB leaves."""
    # 1 GiB hugetlb pages hang off the PUD table; no entry of ours says so.
    here = vmas.user & (vmas.page_kb <= 1 << (LEAF_SHIFT - 10))
    bounds = np.stack((vmas.start[here], vmas.end[here]), axis=1) >> PAGE_SHIFT
    return pagewords.within(vpn, bounds.ravel())


def read(pid: int, progress: Progress | None = None) -> Reading:
    """Read an address space once, as it is.

    `settled` tells whether VMAs and VmPTE were the same before and after.

    Raises
    ------
    GoneError, KernelThreadError
        If there is no address space, or not long enough.
    OSError
        If the process does not exist or may not be read.
    """
    with contextlib.ExitStack() as stack:
        # Opened first: it holds on to the address space, while smaps opened
        # after an exec shows the next one.
        where = living(pid)
        fd = open_file(where, "pagemap")
        stack.callback(os.close, fd)
        before = status(pid)
        smaps = slurp(where, "smaps")
        vmas = parse_smaps(smaps)
        found = populated(fd, vmas)
        if found is None:
            user = vmas.user
            ranges = np.stack((vmas.start[user], vmas.end[user]), axis=1)
            huge_vpn = None
        else:
            ranges, huge_vpn = found
        vpn, entry = pagemap(fd, ranges, progress)
        after = status(pid)
        same = _bounds(smaps) == _bounds(slurp(living(pid), "maps"))
    keep = _within(vpn, vmas)
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
    for tid in threads(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if stat(f"{pid}/task/{tid}")[0] not in (b"T", b"t", b"Z", b"X"):
                return True
    return False


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process by SIGSTOP, and let it go on afterwards by SIGCONT.

    One that is stopped or traced already is left as it is.

    Raises
    ------
    ValueError
        If it is this very process.
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
    # By pidfd, so that SIGCONT never reaches a stranger that got the number.
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
