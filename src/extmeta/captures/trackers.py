"""Trackers of the pages that a process writes: WP_ASYNC or soft-dirty."""

import contextlib
import errno
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from extmeta.arrays import U64
from extmeta.captures import procfs, ptrace
from extmeta.captures.ptrace import GoneError, Thread
from extmeta.captures.ranges import Range, Ranges, split_where, vmas
from extmeta.linux import pagemap_scan
from extmeta.linux.pagemap_scan import PageIs
from extmeta.linux.pagewords import PAGE_SHIFT
from extmeta.linux.pagewords import SOFT_DIRTY as SOFT_DIRTY_BIT

WP_ASYNC, SOFT_DIRTY = "WP_ASYNC", "soft-dirty"

# Numbers of arch/x86/entry/syscalls/syscall_64.tbl; ioctls of
# include/uapi/linux/userfaultfd.h (Linux v6.12).
_IOCTL, _CLOSE, _USERFAULTFD = 16, 3, 323
_UFFDIO_API, _UFFDIO_REGISTER, _UFFDIO_UNREGISTER = 0xC018AA3F, 0xC020AA00, 0x8010AA01
_UFFD_API, _REGISTER_WP = 0xAA, 2

# PAGEFAULT_FLAG_WP, WP_UNPOPULATED, WP_ASYNC
_FEATURES = 1 << 0 | 1 << 13 | 1 << 15

# UFFD_USER_MODE_ONLY needs no privilege. With WP_ASYNC, writes by the kernel are tracked
# nevertheless: the kernel resolves their faults itself.
_FLAGS = os.O_CLOEXEC | 1

# VmFlags of a VMA with a userfaultfd: missing, wp, minor.
_UFFD_FLAGS = frozenset(("um", "uw", "ui"))


class TraceError(Exception):
    """The process can't be traced; the message is one line."""


class Tracker(ABC):
    """Returns the pages written; a `Recorder` has one."""

    how: str

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pagemap = procfs.open_file(procfs.living(pid), "pagemap")
        self.tracked = Ranges()
        self.skipped: list[tuple[Range, str]] = []

    @abstractmethod
    def written(self) -> list[U64]:
        """Return arrays of the vpns written since the last call.

        Raises
        ------
        GoneError
            If the process has ended, or runs another program.
        """

    def close(self) -> None:
        """Restore the process, which may have ended."""
        os.close(self.pagemap)

    def _runs(self, other_than: Ranges) -> list[list[Range]]:
        """Return the VMAs to track, in lists of neighbours."""
        found = vmas(self.pid)
        if not found:
            raise GoneError(f"process {self.pid} has ended")
        return split_where(
            [(vma.start, vma.end) for vma in found],
            [v.tracked and not other_than.touch(v.start, v.end) for v in found],
        )


class WpAsync(Tracker):
    """A userfaultfd in the process, and PAGEMAP_SCAN from here."""

    how = WP_ASYNC

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self._fd = -1
        self._program = _program(pid)
        with contextlib.ExitStack() as failing:
            failing.callback(super().close)
            foreign = self._foreign()
            self._other_than = Ranges(foreign)
            self.skipped += [(vma, "another userfaultfd has it") for vma in foreign]
            self._register(self._runs(self._other_than))
            failing.pop_all()

    def _foreign(self) -> list[Range]:
        rows = procfs.parse_smaps(procfs.slurp(procfs.living(self.pid), "smaps"))
        return [
            (int(start), int(end))
            for start, end, flags in zip(rows.start, rows.end, rows.flags, strict=True)
            if _UFFD_FLAGS & {*str(flags).split()}
        ]

    def _register(self, runs: Sequence[Sequence[Range]]) -> None:
        """Register VMAs, with one stop of a thread.

        One call registers a run of VMAs: userfaultfd_register() skips the holes between
        them (Linux v6.12 fs/userfaultfd.c).
        """
        if not runs:
            return
        registered: list[Range] = []
        with ptrace.stopped(self.pid) as thread, thread.scratch() as page:
            if self._fd < 0:
                self._open(thread, page)
            for run in runs:
                if len(run) > 1 and not self._refusal(thread, page, run):
                    registered += run
                    continue
                for one in run:
                    error = self._refusal(thread, page, [one])
                    if not error:
                        registered.append(one)
                    # These mean that it was unmapped since it was listed.
                    elif error.errno not in (errno.EINVAL, errno.ENOMEM):
                        busy = error.errno == errno.EBUSY
                        why = "another userfaultfd has it" if busy else error.strerror
                        self.skipped.append((one, why or ""))
        self.tracked = self.tracked.add(registered)
        self._other_than = Ranges(vma for vma, _why in self.skipped)

    def _refusal(
        self,
        thread: Thread,
        page: int,
        run: Sequence[Range],
        ioctl: int = _UFFDIO_REGISTER,
    ) -> OSError | None:
        """Register, or unregister, a run of VMAs; return the kernel's error or None."""
        start, end = run[0][0], run[-1][1]
        # struct uffdio_register, which starts with struct uffdio_range.
        thread.write(page, struct.pack("=4Q", start, end - start, _REGISTER_WP, 0))
        try:
            thread.call(_IOCTL, self._fd, ioctl, page)
        except OSError as error:
            return error
        return None

    def _open(self, thread: Thread, page: int) -> None:
        try:
            fd = thread.call(_USERFAULTFD, _FLAGS)
        except OSError as error:
            raise TraceError(
                f"process {self.pid} gets no userfaultfd: {error.strerror}"
            ) from None
        thread.write(page, struct.pack("=3Q", _UFFD_API, _FEATURES, 0))
        try:
            thread.call(_IOCTL, fd, _UFFDIO_API, page)
        except OSError as error:
            thread.call(_CLOSE, fd)
            raise TraceError(
                f"this kernel's userfaultfd has no WP_ASYNC (Linux 6.7): "
                f"{error.strerror}"
            ) from None
        self._fd = fd

    def written(self) -> list[U64]:
        if _program(self.pid) != self._program:
            raise GoneError(f"process {self.pid} has ended, or runs another program")
        found: list[U64] = []
        new: list[list[Range]] = []
        for run in self._runs(self._other_than):
            known = [self.tracked.cover(*one) for one in run]
            new += split_where(run, [not one for one in known])
            for part in split_where(run, known):
                found += self._scan_run(part, new)
        self._register(new)
        for run in new:
            found += self._scan_run(run, [])
        return found

    def _scan_run(self, run: Sequence[Range], new: list[list[Range]]) -> list[U64]:
        """Return the vpns written in a run of VMAs; add those not registered to `new`.

        PAGEMAP_SCAN skips holes, but refuses a run with a VMA that is not registered:
        one that was mapped again, or mapped in a hole since the listing.
        """
        with contextlib.suppress(PermissionError):
            return self._scan(run[0][0], run[-1][1])
        if len(run) == 1:
            new.append(list(run))
            return []
        return [vpns for one in run for vpns in self._scan_run([one], new)]

    def _scan(self, start: int, end: int) -> list[U64]:
        """Return the vpns written in a range, and write-protect them again."""
        try:
            # Holes stay unprotected: protected, they would need page tables. So a page
            # that is populated later counts as written, except for the zero page.
            ranges = pagemap_scan.pagemap_scan(
                self.pagemap,
                start,
                end,
                every=PageIs.WRITTEN,
                anyof=PageIs.PRESENT | PageIs.SWAPPED,
                no=PageIs.PFNZERO,
                returned=PageIs.WRITTEN,
                flags=pagemap_scan.WP_MATCHING | pagemap_scan.CHECK_WPASYNC,
            )
        except ProcessLookupError:
            raise GoneError(f"process {self.pid} has ended") from None
        return [
            np.arange(a, b, dtype=np.uint64)
            for a, b in (ranges[:, :2] >> np.uint64(PAGE_SHIFT)).tolist()
        ]

    def close(self) -> None:
        super().close()
        if _program(self.pid) != self._program:
            return
        with (
            contextlib.suppress(GoneError),
            ptrace.stopped(self.pid) as thread,
            thread.scratch() as page,
        ):
            # To close the file is not enough: children may have it too.
            for run in self._runs(self._other_than):
                if self._refusal(thread, page, run, _UFFDIO_UNREGISTER):
                    for one in run:
                        self._refusal(thread, page, [one], _UFFDIO_UNREGISTER)
            thread.call(_CLOSE, self._fd)


class SoftDirty(Tracker):
    """clear_refs and pagemap, both from here."""

    how = SOFT_DIRTY

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        try:
            where = procfs.living(pid)
            self._clear_refs = procfs.open_file(where, "clear_refs", os.O_WRONLY)
        except OSError:
            super().close()
            raise

    def written(self) -> list[U64]:
        try:
            # A write between reading and clearing would be lost.
            with procfs.stopped(self.pid):
                ranges = [one for run in self._runs(Ranges()) for one in run]
                self.tracked = self.tracked.add(ranges)
                found = [self._dirty(start, end) for start, end in ranges]
                os.write(self._clear_refs, b"4")
        except (procfs.GoneError, ProcessLookupError, FileNotFoundError):
            raise GoneError(f"process {self.pid} has ended") from None
        return found

    def _dirty(self, start: int, end: int) -> U64:
        span = np.array([[start, end]], np.uint64)
        try:
            there = pagemap_scan.pagemap_scan(
                self.pagemap,
                start,
                end,
                anyof=PageIs.PRESENT | PageIs.SWAPPED,
                returned=PageIs.PRESENT,
            )[:, :2]
        except OSError:  # before Linux 6.7
            there = span
        vpn, entry = procfs.pagemap(self.pagemap, there, None)
        mine = (vpn >= span[0, 0] >> PAGE_SHIFT) & (vpn < span[0, 1] >> PAGE_SHIFT)
        dirty = entry & SOFT_DIRTY_BIT != 0
        return np.asarray(vpn[mine & dirty])

    def close(self) -> None:
        os.close(self._clear_refs)
        super().close()


def _program(pid: int) -> tuple[bytes, str]:
    """Return start time and executable of a process; two empty values if it has ended.

    They differ in a later process with its pid, and after exec.
    """
    try:
        where = procfs.living(pid)
        return procfs.stat(pid)[19], _exe(where)
    except (OSError, procfs.GoneError):
        return b"", ""


def _exe(where: str) -> str:
    try:
        return os.readlink(f"/proc/{where}/exe")
    except OSError:
        return ""


def has_soft_dirty() -> bool:
    """Tell whether this kernel has soft-dirty: whether a page just written has it."""
    page = np.ones(2 << PAGE_SHIFT, np.uint8)
    # The array contains at least the second page that it touches.
    vpn = (page.ctypes.data >> PAGE_SHIFT) + 1
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        (word,) = struct.unpack("=Q", os.pread(file.fileno(), 8, vpn * 8))
    return bool(word & SOFT_DIRTY_BIT)
