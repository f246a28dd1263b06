"""AddressSpace: system calls on one process's memory, their arguments checked.

Here is the edge: bytes become pages, names become bits, and what the kernel would
refuse raises OSError with its errno.
"""

import copy
import errno
from collections.abc import Callable, Iterable
from enum import IntFlag
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from extmeta.arch import FIRST, Arch, arch_of
from extmeta.fields import Fields
from extmeta.integers import is_whole, whole
from extmeta.linux import faults, move, mux, protect, reclaim, scan
from extmeta.linux.mm import Mm
from extmeta.linux.pagemap_scan import PageIs
from extmeta.linux.physical import Physical
from extmeta.linux.uffdio import Uffdio
from extmeta.linux.userfault import (
    FEATURES,
    Handler,
    Listener,
    Mode,
    UffdEvent,
    Userfaultfd,
)
from extmeta.linux.vma import Prot, Vma
from extmeta.pagetable import PageTable
from extmeta.release import DEFAULT, RELEASES, release_named, release_text
from extmeta.table.encoding import Encoding

# vm.mmap_min_addr, as distributions have it.
MIN_ADDRESS = 65536

# The semantics of later releases were not looked at.
LAST = (6, 19)

_TYPES = {"private", "shared"}
_KINDS = {"anonymous", "file"}


class _RemapFlags(IntFlag):
    """MREMAP_*: include/uapi/linux/mman.h."""

    MAYMOVE = 1
    FIXED = 2
    DONTUNMAP = 4


class _ScanFlags(IntFlag):
    WP_MATCHING = scan.WP_MATCHING
    CHECK_WPASYNC = scan.CHECK_WPASYNC


def _names(name: str, text: Any) -> set[str]:
    """Return the names of "a|b" or of an iterable."""
    if isinstance(text, str):
        return set(text.split("|")) - {"", "-"}
    if isinstance(text, Iterable) and not isinstance(text, bytes):
        return set(text)
    raise TypeError(f"{name}: {text!r} is neither names nor text")


def _prot(text: Any) -> Prot:
    """Return the PROT_* of "rw", "r", "none" and so on."""
    if not isinstance(text, str):
        raise TypeError(f"prot: {text!r} is not text such as 'rw'")
    if text in ("none", ""):
        return Prot.NONE
    prot = Prot.NONE
    for letter in text:
        if letter not in "rwx":
            raise ValueError(
                f"prot: {text!r} has {letter!r}; 'rwx' and 'none' are known"
            )
        prot |= Prot[letter.upper()]
    return prot


def _bits(name: str, value: Any, names: type[IntFlag]) -> int:
    """Return a mask that is given as an int or as names."""
    if is_whole(value):
        return whole(name, value)
    bits = 0
    for one in sorted(_names(name, value)):
        if one not in names.__members__:
            raise ValueError(f"{name}: no {one!r}; there are {list(names.__members__)}")
        bits |= names[one]
    return bits


class AddressSpace(Uffdio):
    """A process's memory with Linux's semantics, over an encoding of words.

    The trackers of the modelled kernel are the fields: `uffd_wp` for userfaultfd
    write-protection, `soft_dirty` for the soft-dirty bit, 1 bit each. Without the
    field that tracker does not exist. Other fields ride along: they are copied by
    fork, moved by mremap and kept over swap.

    Addresses and lengths are in bytes. Not for several threads at once.

    Parameters
    ----------
    fields : Fields
    encoding : str or Encoding, default "linked"
    arch : str or Arch, default "x86_64"
        A name is that of `release`; before 6.12 its bits are those of 6.12.
    thp : {"madvise", "always", "never"}
        Which anonymous VMAs get huge pages.
    thp_swap : bool, default False
        Huge pages go to swap whole, as with THP_SWAP and swap on a solid-state
        device; else they are split, and what of them is all zeros is freed.
    release : str, default "6.18"
        Of the kernel, from 6.7 to 6.19, where they differ.

    Attributes
    ----------
    table : PageTable
        The page table underneath. Change words of other fields through it.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :class:`PageTable`; if `uffd_wp` or `soft_dirty` is wider than a bit.

    Notes
    -----
    An operation whose result the encoding can't hold raises :class:`Refused`, a
    ValueError; what it did to earlier pages stays.
    """

    def __copy__(self) -> "AddressSpace":
        return copy.deepcopy(self)

    def __init__(
        self,
        fields: Fields,
        encoding: str | Encoding = "linked",
        arch: str | Arch = "x86_64",
        *,
        thp: str = "madvise",
        thp_swap: bool = False,
        release: str = DEFAULT,
    ) -> None:
        for name in ("uffd_wp", "soft_dirty"):
            if isinstance(fields, Fields) and fields.get(name, 1) != 1:
                raise ValueError(f"field {name!r} is one bit, not {fields[name]}")
        if thp not in ("madvise", "always", "never"):
            raise ValueError(f"thp: {thp!r} is not 'madvise', 'always' or 'never'")
        version = release_named(release, RELEASES[0], LAST)
        if not isinstance(arch, Arch):
            arch = arch_of(arch, release_text(max(version, FIRST)))
        table = PageTable(encoding, fields, arch)
        self._adopt(Mm(table, arch, Physical(), version, thp, thp_swap))

    def _adopt(self, mm: Mm) -> None:
        self._mm = mm
        self._shift = mm.arch.page_shift
        self._page = 1 << self._shift
        # As TASK_SIZE: the lower half without its last page, on x86-64.
        self._end = (mm.arch.nr_vpns // 2 << self._shift) - self._page
        # Those of this process, the one used last at the end.
        self._uffds: list[Userfaultfd] = []
        self._asleep: set[int] = set()
        mm.tell = self._tell

    @property
    def table(self) -> PageTable:
        return self._mm.table

    def __repr__(self) -> str:
        return f"<AddressSpace of {self.table!r}>"

    # -- arguments ----------------------------------------------------------

    def _whole_pages(self, addr: Any, length: Any, beyond: int) -> tuple[int, int]:
        """Return a range as vpns, its length rounded up; unaligned is EINVAL.

        `beyond` is the errno of a range that leaves the address space.
        """
        addr, length = whole("addr", addr), whole("length", length)
        if addr % self._page:
            raise OSError(errno.EINVAL, f"address {addr:#x} is not of a page")
        stop = addr + -(-length // self._page) * self._page
        if stop > self._end:
            raise OSError(beyond, f"[{addr:#x}, {stop:#x}) leaves the address space")
        return addr >> self._shift, stop >> self._shift

    def _uffd_range(self, addr: Any, length: Any) -> tuple[int, int]:
        """Return a range as vpns: validate_range()."""
        addr, length = whole("addr", addr), whole("length", length)
        if addr % self._page or length % self._page or not length:
            raise OSError(
                errno.EINVAL, f"address {addr:#x}, length {length:#x}: no whole pages"
            )
        if addr < MIN_ADDRESS or addr + length > self._end:
            raise OSError(
                errno.EINVAL,
                f"[{addr:#x}, {addr + length:#x}) leaves the address space",
            )
        return addr >> self._shift, addr + length >> self._shift

    # -- mappings -----------------------------------------------------------

    def mmap(
        self,
        addr: int,
        length: int,
        prot: str = "rw",
        flags: str = "private|anonymous",
    ) -> None:
        """Map memory at an address, in place of what is there: MAP_FIXED.

        Parameters
        ----------
        addr, length : int
            Bytes; the length is rounded up to pages.
        prot : str
            Letters of "rwx", or "none".
        flags : str
            "private" or "shared", and "anonymous" or "file": an own new file in
            memory (memfd) of that length.

        Raises
        ------
        OSError
            EINVAL: not aligned, or no length. ENOMEM: beyond the address space.
        """
        bits, names = _prot(prot), _names("flags", flags)
        if len(names & _TYPES) != 1 or len(names & _KINDS) != 1 or len(names) != 2:
            raise ValueError(
                f"flags: {flags!r} is not one of {sorted(_TYPES)} and one of "
                f"{sorted(_KINDS)}"
            )
        first, stop = self._whole_pages(addr, length, errno.ENOMEM)
        if first == stop:
            raise OSError(errno.EINVAL, "no length")
        mm = self._mm
        mm.unmap(first, stop)
        mux.give(mm, first, stop, "soft_dirty")
        shared = "shared" in names
        backing = None
        if shared or "file" in names:
            backing = mm.new_backing(stop - first)
        vma = mm.vmas.add(
            Vma(
                start=first,
                stop=stop,
                prot=bits,
                shared=shared,
                backing=backing,
                pgoff=0 if backing is not None else first,
                soft_dirty=False,
                account=not shared and bool(bits & Prot.W),
            )
        )
        # "New (or expanded) vma": the one it has joined, too (mmap_region()).
        vma.soft_dirty = bool(mm.soft_dirty)
        mm.tell_notes()

    def munmap(self, addr: int, length: int) -> None:
        """Unmap what is mapped in a range.

        Raises
        ------
        OSError
            EINVAL: not aligned, no length, or beyond the address space.
        """
        first, stop = self._whole_pages(addr, length, errno.EINVAL)
        if first == stop:
            raise OSError(errno.EINVAL, "no length")
        self._mm.unmap(first, stop)
        self._mm.tell_notes()

    def mprotect(self, addr: int, length: int, prot: str) -> None:
        """Change what may be done with pages.

        Words and flags are kept. Linux as it is would clear those in `Arch.cleared`,
        which a kernel that keeps words there has to add to _PAGE_CHG_MASK.

        Raises
        ------
        OSError
            EINVAL: not aligned. ENOMEM: a part is not mapped; what is before it
            has been changed.
        """
        bits = _prot(prot)
        first, stop = self._whole_pages(addr, length, errno.ENOMEM)
        protect.mprotect(self._mm, first, stop, bits)

    def mremap(
        self,
        old: int,
        old_len: int,
        new_len: int,
        new_addr: int | None = None,
        flags: int | str = "MAYMOVE|FIXED",
    ) -> None:
        """Move a mapping, in place of what is there, or resize it where it is.

        Parameters
        ----------
        new_addr : int, optional
            Needed with FIXED.
        flags : int or str
            "MAYMOVE|FIXED" moves; with "|DONTUNMAP" the pages move and an empty mapping
            stays; "" grows or shrinks the mapping where it is. A place that the
            kernel would choose (MAYMOVE or DONTUNMAP without FIXED) is not modelled.

        Raises
        ------
        OSError
            EINVAL: not aligned, no new length, beyond the address space, the
            ranges overlap, or DONTUNMAP with another length. EFAULT: the old range
            is not mapped, or not one VMA where that is needed. ENOMEM: no room to
            grow where it is.
        """
        bits = _bits("flags", flags, _RemapFlags)
        fixed = bits & _RemapFlags.FIXED
        if bits >> len(_RemapFlags) or (fixed and not bits & _RemapFlags.MAYMOVE):
            raise OSError(errno.EINVAL, f"flags {bits:#x} don't go together")
        if bits and not fixed:
            raise ValueError(f"flags: {flags!r} has no FIXED: no place is chosen here")
        to = whole("new_addr", new_addr) if fixed else 0
        src, src_stop = self._whole_pages(old, old_len, errno.EFAULT)
        count, wanted = src_stop - src, -(-whole("new_len", new_len) // self._page)
        if fixed:
            self._whole_pages(to, new_len, errno.EINVAL)
        if not wanted:
            raise OSError(errno.EINVAL, "no new length")
        keep = bool(bits & _RemapFlags.DONTUNMAP)
        if keep and wanted != count:
            raise OSError(errno.EINVAL, "DONTUNMAP does not change the length")
        try:
            if fixed:
                dst = to >> self._shift
                move.mremap(self._mm, src, count, wanted, dst, keep=keep)
            else:
                end = self._end >> self._shift
                move.resize(self._mm, src, count, wanted, end)
        finally:
            self._mm.tell_notes()

    def madvise(self, addr: int, length: int, advice: str) -> None:
        """Give advice.

        Parameters
        ----------
        advice : str
            DONTNEED, FREE, REMOVE, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, HUGEPAGE,
            NOHUGEPAGE, COLLAPSE, DONTFORK, DOFORK, WIPEONFORK or KEEPONFORK. NORMAL
            and WILLNEED change nothing.

        Raises
        ------
        OSError
            EINVAL: not aligned, or not for this memory. EACCES: REMOVE of private
            memory. ENOMEM: a part is not
            mapped; the rest has been done. EBUSY: COLLAPSE with a page missing
            under a userfaultfd.
        UserFault
            POPULATE_READ as `read`, POPULATE_WRITE as `write`.
        """
        if not isinstance(advice, str):
            raise TypeError(f"advice: {advice!r} is not a name")
        if advice not in _ADVICE:
            raise ValueError(f"advice: no {advice!r}; there are {sorted(_ADVICE)}")
        first, stop = self._whole_pages(addr, length, errno.EINVAL)
        if advice in ("POPULATE_READ", "POPULATE_WRITE"):
            self._populate(first, stop, write=advice == "POPULATE_WRITE")
            return
        # madvise_walk_vmas()
        missing = False
        at = first
        while at < stop:
            vma = self._mm.vmas.find(at)
            if vma is None:
                missing = True
                after = self._mm.vmas.within(at, stop)
                at = after[0].start if after else stop
                continue
            end = min(stop, vma.stop)
            _ADVICE[advice](self._mm, vma, at, end)
            at = end
        if missing:
            raise OSError(errno.ENOMEM, f"a part of {addr:#x} is not mapped")

    def _populate(self, first: int, stop: int, *, write: bool) -> None:
        """MADV_POPULATE_*: faultin_page_range()."""
        at = first
        wanted = Prot.W if write else Prot.R
        while at < stop:
            vma = self._mm.vmas.find(at)
            if vma is None:
                raise OSError(errno.ENOMEM, f"{at << self._shift:#x} is not mapped")
            if not vma.prot & wanted:
                raise OSError(errno.EINVAL, f"{at << self._shift:#x} can't be accessed")
            end = min(stop, vma.stop)
            if write:
                faults.write(self._mm, at, end, self._event, content=False)
            else:
                faults.read(self._mm, at, end, self._event)
            at = end

    # -- accesses -----------------------------------------------------------

    def _touched(self, addr: Any, length: Any) -> tuple[int, int]:
        """Return the vpns of bytes, which may start and end within a page."""
        addr, length = whole("addr", addr), whole("length", length)
        return addr >> self._shift, -(-(addr + length) >> self._shift)

    def read(self, addr: int, length: int = 1) -> None:
        """Read every page that has a byte of a range.

        Raises
        ------
        OSError
            EFAULT, where a process would get SIGSEGV or SIGBUS (as under a
            userfaultfd with SIGBUS).
        UserFault
            At a missing page that no handler brings. In every case the pages before
            have been read.
        """
        first, stop = self._touched(addr, length)
        faults.read(self._mm, first, stop, self._event)

    def write(self, addr: int, length: int = 1) -> None:
        """Write to every page that has a byte of a range.

        Raises
        ------
        OSError
            EFAULT, where a process would get SIGSEGV or SIGBUS.
        UserFault
            At a page protected by a userfaultfd without WP_ASYNC, or missing under
            one, without a handler, or whose handler left it so or woke nobody. In
            every case the pages before have been written.
        """
        first, stop = self._touched(addr, length)
        faults.write(self._mm, first, stop, self._event)

    # -- processes ----------------------------------------------------------

    def fork(self) -> "AddressSpace":
        """Return the child's address space.

        Private pages are shared until one side writes. A VMA stays with a
        userfaultfd, the child's own, only if that has EVENT_FORK.

        Raises
        ------
        MemoryError
            If memory can't be had.
        """
        child = AddressSpace.__new__(AddressSpace)
        child._adopt(self._mm.copy())
        kept = (vma for vma in self._mm.vmas if vma.copied)
        for vma, copied in zip(kept, child._mm.vmas, strict=True):
            if vma.wp and not copied.wp:
                mux.give(child._mm, copied.start, copied.stop, "soft_dirty")
        uffds = dict.fromkeys(vma.uffd for vma in child._mm.vmas if vma.uffd)
        child._uffds = list(uffds)
        for uffd in dict.fromkeys(vma.uffd for vma in self._mm.vmas if vma.copied):
            if uffd and uffd.listener and "EVENT_FORK" in uffd.features:
                uffd.listener(self, UffdEvent("FORK", child=child))
        return child

    def exit(self) -> None:
        """Unmap everything, as a process's end does."""
        self._mm.unmap(0, self._end >> self._shift)
        self._mm.notes.clear()  # exit_mmap() tells nobody
        self._uffds = []

    # -- the two trackers ---------------------------------------------------

    def uffd_register(
        self,
        addr: int,
        length: int,
        features: Iterable[str] = ("WP_ASYNC", "WP_UNPOPULATED"),
        *,
        mode: str | Iterable[str] = "WP",
        handler: Handler | None = None,
        missing_handler: Handler | None = None,
        listener: Listener | None = None,
    ) -> None:
        """Have a userfaultfd told of faults: UFFDIO_REGISTER.

        There is one userfaultfd for each set of features; the one that was
        registered last is also used to unregister.

        Parameters
        ----------
        features : iterable of str
            UFFD_FEATURE_* without the prefix, or text joined by "|".
        mode : str or iterable of str
            WP: writes are tracked. MISSING: it is to bring pages that are not there.
        handler : callable, optional
            ``handler(space, address)`` is called at a write to a protected page,
            without WP_ASYNC, and should unprotect it.
        missing_handler : callable, optional
            ``missing_handler(space, address)`` is called at an access to a missing
            page and should bring it, by `uffd_copy` for example.
        listener : callable, optional
            ``listener(space, event)`` is called with a :class:`UffdEvent` for each
            event of the features EVENT_*. REMOVE comes before pages go, the others
            when the call is done.

        Raises
        ------
        OSError
            EINVAL: no mode, no whole pages, nothing mapped, a feature that this
            release has not, or WP without a field `uffd_wp`. EBUSY: another
            userfaultfd is there.
        Refused
            The two trackers have one bit by VMA, and `soft_dirty` holds it since
            clear_refs.
        """
        names = frozenset(_names("features", features))
        if unknown := names - FEATURES.keys():
            raise ValueError(f"features: {sorted(unknown)} are not modelled")
        callbacks = {
            "handler": handler,
            "missing_handler": missing_handler,
            "listener": listener,
        }
        for name, called in callbacks.items():
            if called is not None and not callable(called):
                raise TypeError(f"{name}: {called!r} can't be called")
        modes = Mode(_bits("mode", _names("mode", mode), Mode))
        for name in sorted(names):
            if self._mm.release < FEATURES[name]:
                raise OSError(errno.EINVAL, f"no {name} in {self._mm.release}")
        if not modes:
            raise OSError(errno.EINVAL, f"mode {mode!r}: none")
        uffd = self._uffd(names)
        protect.register(self._mm, uffd, modes, *self._uffd_range(addr, length))
        self._uffds = [one for one in self._uffds if one is not uffd] + [uffd]
        for name, called in callbacks.items():
            if called is not None:
                setattr(uffd, name, called)

    def _uffd(self, features: frozenset[str]) -> Userfaultfd:
        """Return the userfaultfd of these features, a new one if there is none."""
        for uffd in self._uffds:
            if uffd.features == features:
                return uffd
        return Userfaultfd(features)

    def uffd_unregister(self, addr: int, length: int) -> None:
        """Take protection off and stop tracking: UFFDIO_UNREGISTER.

        Raises
        ------
        OSError
            EINVAL: no whole pages, nothing mapped, or tracked by a userfaultfd
            that is not the one registered last.
        """
        uffd = self._uffds[-1] if self._uffds else None
        first, stop = self._uffd_range(addr, length)
        protect.unregister(self._mm, uffd, first, stop)
        self._wake(first, stop)

    def uffd_writeprotect(self, addr: int, length: int, on: bool | int) -> None:
        """Protect pages, or take protection off: UFFDIO_WRITEPROTECT.

        Raises
        ------
        OSError
            EINVAL: no whole pages. ENOENT: a part is not tracked, or nothing is
            mapped; what is before it has been changed.
        """
        first, stop = self._uffd_range(addr, length)
        protect.writeprotect(self._mm, first, stop, on=bool(on))
        if not on:
            self._wake(first, stop)

    def clear_refs(self) -> None:
        """Clear the soft-dirty bits: a 4 written to /proc/PID/clear_refs.

        Raises
        ------
        Refused
            The two trackers have one bit by VMA, and `uffd_wp` holds it in one with
            a userfaultfd.
        """
        protect.clear_soft_dirty(self._mm)

    # -- what is shown ------------------------------------------------------

    def pagemap(
        self, addr: int, length: int, *, pfns: bool = False
    ) -> npt.NDArray[np.uint64]:
        """Return what /proc/PID/pagemap has of a range.

        Parameters
        ----------
        pfns : bool, default False
            With frame numbers and swap slots, which need privileges.

        Returns
        -------
        (n,) uint64 ndarray
            A word a page; none past the end of the address space.
        """
        first, _ = self._whole_pages(addr, 0, errno.EINVAL)
        stop = first + -(-whole("length", length) // self._page)
        stop = min(stop, self._end >> self._shift)
        return scan.pagemap(self._mm, first, max(first, stop), pfns=pfns)

    def pagemap_scan(
        self,
        start: int,
        end: int,
        flags: int | str = 0,
        category_inverted: int | str = 0,
        category_mask: int | str = 0,
        category_anyof_mask: int | str = 0,
        return_mask: int | str = 0,
        max_pages: int = 0,
        vec_len: int | None = None,
    ) -> tuple[npt.NDArray[np.void], int]:
        """Find pages of some categories and protect them: the ioctl PAGEMAP_SCAN.

        Parameters
        ----------
        start, end : int
            Bytes; the end is rounded up to pages.
        flags : int or str
            WP_MATCHING, CHECK_WPASYNC.
        category_inverted, category_mask, category_anyof_mask, return_mask : int or str
            PAGE_IS_*, as bits or as names joined by "|".
        max_pages : int, default 0
            0: no limit.
        vec_len : int, optional
            Regions that there is room for. 0: no output is wanted; by default
            as many as there are.

        Returns
        -------
        regions : structured ndarray of start, end, categories
        walk_end : int
            Where the walk stopped. With more than 512 regions it may be before
            the last one's end, as the kernel's may.

        Raises
        ------
        OSError
            EINVAL: an unknown flag or category, or not aligned. EFAULT: beyond
            the address space. EPERM: CHECK_WPASYNC, and a VMA is not tracked by
            WP_ASYNC; pages before it have been protected.
        """
        bits = _bits("flags", flags, _ScanFlags)
        masks = {
            "category_inverted": category_inverted,
            "category_mask": category_mask,
            "category_anyof_mask": category_anyof_mask,
            "return_mask": return_mask,
        }
        categories = {name: _bits(name, value, PageIs) for name, value in masks.items()}
        known = sum(int(one) for one in PageIs)
        for one, since in ((PageIs.SOFT_DIRTY, (6, 8)), (PageIs.GUARD, (6, 15))):
            known -= int(one) if self._mm.release < since else 0
        if bits >> len(_ScanFlags) or any(
            mask & ~known for mask in categories.values()
        ):
            raise OSError(
                errno.EINVAL,
                f"flags {bits:#x} or a category of {categories} is unknown",
            )
        start, end = whole("start", start), whole("end", end)
        if start % self._page:
            raise OSError(errno.EINVAL, f"start {start:#x} is not of a page")
        if not start <= end <= self._end:
            raise OSError(errno.EFAULT, f"[{start:#x}, {end:#x}) is no range")
        stop = -(-end // self._page)
        walk = scan.Scan(
            mm=self._mm,
            flags=bits,
            max_pages=whole("max_pages", max_pages) or 1 << 64,
            vec_len=1 << 64 if vec_len is None else whole("vec_len", vec_len),
            **categories,
        )
        found = walk.run(start >> self._shift, stop)
        regions = np.array(found, np.uint64).reshape(-1, 3)
        regions[:, :2] <<= np.uint64(self._shift)
        walked = stop if walk.walk_end is None else walk.walk_end
        return (
            np.rec.fromarrays(regions.T, dtype=scan.REGION).view(np.ndarray),
            walked << self._shift,
        )


def _nothing(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """Advice that can't be seen."""


_ADVICE: dict[str, Callable[[Mm, Vma, int, int], None]] = {
    "NORMAL": _nothing,
    "WILLNEED": _nothing,
    "COLD": reclaim.cold,
    "DONTFORK": partial(protect.advise_fork, copied=False),
    "DOFORK": partial(protect.advise_fork, copied=True),
    "WIPEONFORK": partial(protect.advise_wipe, wiped=True),
    "KEEPONFORK": partial(protect.advise_wipe, wiped=False),
    "DONTNEED": reclaim.dontneed,
    "REMOVE": reclaim.remove,
    "FREE": reclaim.free,
    "PAGEOUT": reclaim.pageout,
    "COLLAPSE": faults.collapse,
    "HUGEPAGE": partial(protect.advise_huge, huge=True),
    "NOHUGEPAGE": partial(protect.advise_huge, huge=False),
    "POPULATE_READ": _nothing,
    "POPULATE_WRITE": _nothing,
}
