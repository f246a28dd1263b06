"""AddressSpace: system calls on one process's memory, their arguments checked.

Here is the edge: bytes become pages, names become bits, and what the kernel would
refuse raises OSError with its errno.
"""

import copy
import errno
from collections.abc import Callable
from enum import IntFlag
from functools import partial
from typing import Any

from extmeta.arch import FIRST, Arch, arch_of
from extmeta.fields import Fields
from extmeta.integers import whole
from extmeta.linux import faults, huge, move, mux, protect, reclaim
from extmeta.linux.edge import bits_of, names_of, prot_of
from extmeta.linux.fork import copy_mm
from extmeta.linux.mm import Mm
from extmeta.linux.pagemap import Pagemap
from extmeta.linux.physical import Physical
from extmeta.linux.uffdio import Uffdio
from extmeta.linux.userfault import UffdEvent
from extmeta.linux.vma import Prot, Vma
from extmeta.pagetable import PageTable
from extmeta.release import DEFAULT, RELEASES, release_named, release_text
from extmeta.table.encoding import Encoding

# The semantics of later releases were not looked at.
LAST = (6, 19)

_TYPES = {"private", "shared"}
_KINDS = {"anonymous", "file"}


class _RemapFlags(IntFlag):
    """MREMAP_*: include/uapi/linux/mman.h."""

    MAYMOVE = 1
    FIXED = 2
    DONTUNMAP = 4


class AddressSpace(Uffdio, Pagemap):
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
        The kernel's release, from 6.7 to 6.19.

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

    @property
    def table(self) -> PageTable:
        return self._mm.table

    def _adopt(self, mm: Mm) -> None:
        super()._adopt(mm)
        mm.tell = self._tell

    def __repr__(self) -> str:
        return f"<AddressSpace of {self.table!r}>"

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
        bits, names = prot_of(prot), names_of("flags", flags)
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
        bits = prot_of(prot)
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
        bits = bits_of("flags", flags, _RemapFlags)
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
        child._adopt(copy_mm(self._mm))
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

    def clear_refs(self) -> None:
        """Clear the soft-dirty bits: a 4 written to /proc/PID/clear_refs.

        Raises
        ------
        Refused
            The two trackers have one bit by VMA, and `uffd_wp` holds it in one with
            a userfaultfd.
        """
        protect.clear_soft_dirty(self._mm)


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
    "COLLAPSE": huge.collapse,
    "HUGEPAGE": partial(protect.advise_huge, huge=True),
    "NOHUGEPAGE": partial(protect.advise_huge, huge=False),
    "POPULATE_READ": _nothing,
    "POPULATE_WRITE": _nothing,
}
