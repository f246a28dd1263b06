"""What tells the pages that a process has written: WP_ASYNC or soft-dirty."""

import contextlib
import errno
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from extmeta.captures import procfs, ptrace
from extmeta.captures.ptrace import GoneError, Thread
from extmeta.captures.ranges import Range, Ranges, split_where, vmas
from extmeta.captures.trace import U64
from extmeta.linux import pagemap_scan
from extmeta.linux.pagemap_scan import PageIs
from extmeta.linux.pagewords import PAGE_SHIFT

WP_ASYNC, SOFT_DIRTY = "WP_ASYNC", "soft-dirty"

# Numbers of arch/x86/entry/syscalls/syscall_64.tbl; ioctls of
# include/uapi/linux/userfaultfd.h (Linux v6.12).
_IOCTL, _CLOSE, _USERFAULTFD = 16, 3, 323
_UFFDIO_API, _UFFDIO_REGISTER, _UFFDIO_UNREGISTER = 0xC018AA3F, 0xC020AA00, 0x8010AA01
_UFFD_API, _REGISTER_WP = 0xAA, 2

# PAGEFAULT_FLAG_WP, WP_UNPOPULATED, WP_ASYNC
_FEATURES = 1 << 0 | 1 << 13 | 1 << 15

# UFFD_USER_MODE_ONLY needs no privilege. Writes by the kernel are seen all the same:
# with WP_ASYNC they are resolved without asking anybody.
_FLAGS = os.O_CLOEXEC | 1

_SOFT_DIRTY_BIT = np.uint64(55)

# VmFlags of a VMA that some userfaultfd has: missing, wp, minor.
_UFFD_FLAGS = frozenset(("um", "uw", "ui"))


class TraceError(Exception):
    """The process can't be traced; the message is one line."""


class Tracker(ABC):
    """What tells the pages written; a `Recorder` has one."""

    how: str

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pagemap = procfs.open_file(procfs.living(pid), "pagemap")
        self.tracked = Ranges()
        self.skipped: list[tuple[Range, str]] = []

    @abstractmethod
    def written(self) -> list[U64]:
        """Return arrays of the vpns written since the last call, and start anew.

        Raises
        ------
        GoneError
            If the process has ended, or is another program now.
        """

    def close(self) -> None:
        """Leave the process as it was; it may have ended."""
        os.close(self.pagemap)

    def _runs(self, other_than: Ranges) -> list[list[Range]]:
        """Return the VMAs to be tracked; a list for those with no other VMA between."""
        found = vmas(self.pid)
        if not found:
            raise GoneError(f"process {self.pid} has ended")
        return split_where(
            [(vma.start, vma.end) for vma in found],
            [v.tracked and not other_than.touch(v.start, v.end) for v in found],
        )


class WpAsync(Tracker):
    """By a userfaultfd in the process and PAGEMAP_SCAN from here."""

    how = WP_ASYNC

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self._fd = -1
        self._mm = _start_time(pid), _exe(pid)
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
        """Register VMAs, in one stop of a thread.

        One call is enough for a run of VMAs: userfaultfd_register() passes over the
        holes between them (Linux v6.12 fs/userfaultfd.c).
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
                    # Gone since it was listed: not worth a word.
                    elif error.errno not in (errno.EINVAL, errno.ENOMEM):
                        busy = error.errno == errno.EBUSY
                        why = "another userfaultfd has it" if busy else error.strerror
                        self.skipped.append((one, why or ""))
        self.tracked = self.tracked.add(registered)
        self._other_than = Ranges(vma for vma, _why in self.skipped)

    def _refusal(
        self, thread: Thread, page: int, run: Sequence[Range]
    ) -> OSError | None:
        """Register a run of VMAs; return what the kernel refuses it with."""
        start, end = run[0][0], run[-1][1]
        thread.write(page, struct.pack("=4Q", start, end - start, _REGISTER_WP, 0))
        try:
            thread.call(_IOCTL, self._fd, _UFFDIO_REGISTER, page)
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
        if (_start_time(self.pid), _exe(self.pid)) != self._mm:
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
        """Return the vpns written in a run of VMAs; list those not registered in `new`.

        PAGEMAP_SCAN passes over holes, but refuses a run in which a VMA is not
        registered: one unmapped and mapped again, or mapped in a hole just now.
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
            # No holes: protected, they would need page tables. A page that comes to
            # be there is not protected, and so written, but for the zero page.
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
        if (_start_time(self.pid), _exe(self.pid)) != self._mm:
            return
        with (
            contextlib.suppress(GoneError),
            ptrace.stopped(self.pid) as thread,
            thread.scratch() as page,
        ):
            # Closing would do, but for children, who have the file too.
            for run in self._runs(self._other_than):
                whole = (run[0][0], run[-1][1])
                if not self._unregistered(thread, page, whole):
                    for one in run:
                        self._unregistered(thread, page, one)
            thread.call(_CLOSE, self._fd)

    def _unregistered(self, thread: Thread, page: int, span: Range) -> bool:
        """Unregister what is in a range; return whether the kernel did it."""
        thread.write(page, struct.pack("=2Q", span[0], span[1] - span[0]))
        try:
            thread.call(_IOCTL, self._fd, _UFFDIO_UNREGISTER, page)
        except OSError:
            return False
        return True


class SoftDirty(Tracker):
    """By clear_refs and pagemap, both from here."""

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
        # Between reading and clearing, a write would be lost.
        with _held(self.pid):
            ranges = [one for run in self._runs(Ranges()) for one in run]
            self.tracked = self.tracked.add(ranges)
            found = [self._dirty(start, end) for start, end in ranges]
            os.write(self._clear_refs, b"4")
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
        try:
            vpn, entry = procfs.pagemap(self.pagemap, there, None)
        except procfs.GoneError:
            raise GoneError(f"process {self.pid} has ended") from None
        mine = (vpn >= span[0, 0] >> PAGE_SHIFT) & (vpn < span[0, 1] >> PAGE_SHIFT)
        dirty = (entry >> _SOFT_DIRTY_BIT & np.uint64(1)).astype(np.bool_)
        return np.asarray(vpn[mine & dirty])

    def close(self) -> None:
        os.close(self._clear_refs)
        super().close()


@contextlib.contextmanager
def _held(pid: int) -> Iterator[None]:
    try:
        with procfs.stopped(pid):
            yield
    except (procfs.GoneError, ProcessLookupError, FileNotFoundError):
        raise GoneError(f"process {pid} has ended") from None


def _start_time(pid: int) -> bytes:
    """Return what tells a process from a later one of its pid; b"" if it ended."""
    try:
        procfs.living(pid)
        return procfs.stat(pid)[19]
    except (OSError, procfs.GoneError):
        return b""


def _exe(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{procfs.living(pid)}/exe")
    except (OSError, procfs.GoneError):
        return ""


def has_soft_dirty() -> bool:
    """Tell whether this kernel has soft-dirty: a page just written is so."""
    page = np.ones(2 << PAGE_SHIFT, np.uint8)
    # The second of two, which is whole.
    vpn = (page.ctypes.data + (1 << PAGE_SHIFT)) >> PAGE_SHIFT
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        (word,) = struct.unpack("=Q", os.pread(fd, 8, vpn * 8))
    finally:
        os.close(fd)
    return bool(word >> 55 & 1)
