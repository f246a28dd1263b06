"""AddressSpace: system calls on one process's memory, with checks of their arguments.

This layer turns bytes into pages and names into bits. It raises OSError with the
kernel's errno.
"""

import copy
import errno
from collections.abc import Callable
from enum import IntFlag
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from extmeta.arch import FIRST, Arch, arch_of
from extmeta.fields import Fields
from extmeta.integers import is_whole, uint64s, whole
from extmeta.linux import faults, huge, move, mux, protect, reclaim
from extmeta.linux.edge import bits_of, names_of, prot_of, vpns_of
from extmeta.linux.fork import copy_mm
from extmeta.linux.mm import Mm
from extmeta.linux.pagemap import Pagemap
from extmeta.linux.physical import Backing, Physical
from extmeta.linux.tlb.tlbs import Tlbs
from extmeta.linux.uffdio import Uffdio
from extmeta.linux.userfault import UffdEvent
from extmeta.linux.vma import Prot, Vma
from extmeta.pagetable import PageTable
from extmeta.release import DEFAULT, RELEASES, release_named, release_text
from extmeta.table.encoding import Encoding

# The semantics of later releases have not been checked.
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

    The fields say which trackers the modelled kernel has: `uffd_wp` for userfaultfd
    write-protection, `soft_dirty` for the soft-dirty bit, 1 bit each. Other fields are
    copied by fork, moved by mremap and kept over swap.

    Addresses and lengths are in bytes. Not for several threads at once.

    Parameters
    ----------
    fields : Fields
    encoding : str or Encoding, default "linked"
    arch : str or Arch, default "x86_64"
        A name means that of `release`, before 6.12 that of 6.12.
    thp : {"madvise", "always", "never"}
        Which anonymous VMAs get huge pages.
    thp_swap : bool, default False
        Huge pages are swapped out whole, as with THP_SWAP and swap on a solid-state
        device. Otherwise they are split, and pages of zeros are freed.
    release : str, default "6.18"
        The kernel's release, from 6.7 to 6.19.
    cpus : int, default 1
        With more than one, each CPU has a TLB, and pages count the writes that reach
        them.
    tlb : int, optional
        Entries of each TLB; any number by default.

    Attributes
    ----------
    table : PageTable
        The page table. Use it to change words of other fields.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :class:`PageTable`; if `uffd_wp` or `soft_dirty` is wider than a bit.

    Notes
    -----
    If the encoding can't hold a result, the operation raises :class:`Refused`, a
    ValueError; changes to earlier pages stay.
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
        cpus: int = 1,
        tlb: int | None = None,
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
        self._tlbs = Tlbs.of(cpus, tlb)
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
        """Map memory at an address, in place of existing mappings: MAP_FIXED.

        Parameters
        ----------
        addr, length : int
            Bytes; the length is rounded up to pages.
        prot : str
            Letters of "rwx", or "none".
        flags : str
            "private" or "shared", and "anonymous" or "file": a new file in memory
            (memfd) of that length.

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
        backing, pgoff = None, first
        if shared or "file" in names:
            backing, pgoff = Backing(mm.physical, stop - first), 0
        account = not shared and bool(bits & Prot.W)
        vma = mm.vmas.add(
            Vma(first, stop, bits, shared, backing, pgoff, False, account)
        )
        # mmap_region() sets it also in an existing VMA that the new one merged into.
        vma.soft_dirty = bool(mm.soft_dirty)
        mm.tell_notes()

    def munmap(self, addr: int, length: int) -> None:
        """Unmap a range.

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
        """Change the protection of pages.

        Words and flags are kept. Linux today clears the bits in `Arch.cleared`; a
        kernel that keeps words there has to add them to _PAGE_CHG_MASK.

        Raises
        ------
        OSError
            EINVAL: not aligned. ENOMEM: a part is not mapped; pages before it have
            been changed.
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
        """Move a mapping, in place of existing ones, or resize it in place.

        Parameters
        ----------
        new_addr : int, optional
            Needed with FIXED.
        flags : int or str
            "MAYMOVE|FIXED" moves; "MAYMOVE|FIXED|DONTUNMAP" leaves an empty mapping; ""
            grows or shrinks the mapping in place. MAYMOVE and DONTUNMAP without FIXED, with
            which the kernel chooses the address, are not modelled.

        Raises
        ------
        OSError
            EINVAL: not aligned, no new length, beyond the address space, the
            ranges overlap, or DONTUNMAP with another length. EFAULT: the old range
            is not mapped, or not in one VMA if it has to be. ENOMEM: no room to grow in
            place.
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
        """Give advice about a range.

        Parameters
        ----------
        advice : str
            DONTNEED, FREE, REMOVE, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE,
            HUGEPAGE, NOHUGEPAGE, COLLAPSE, DONTFORK, DOFORK, WIPEONFORK or KEEPONFORK.
            NORMAL and WILLNEED change nothing.

        Raises
        ------
        OSError
            EINVAL: not aligned, or not for this memory. EACCES: REMOVE of private
            memory. ENOMEM: a part is not mapped; the rest has been done. EBUSY: COLLAPSE
            with a page missing under a userfaultfd.
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
        for vma, low, high in self._mm.vmas.walk(first, stop):
            if vma is None:
                missing = True
            else:
                _ADVICE[advice](self._mm, vma, low, high)
        if missing:
            raise OSError(errno.ENOMEM, f"a part of {addr:#x} is not mapped")

    def _populate(self, first: int, stop: int, *, write: bool) -> None:
        """MADV_POPULATE_*: faultin_page_range()."""
        wanted = Prot.W if write else Prot.R
        for vma, low, high in self._mm.vmas.walk(first, stop):
            if vma is None:
                raise OSError(errno.ENOMEM, f"{low << self._shift:#x} is not mapped")
            if not vma.prot & wanted:
                raise OSError(
                    errno.EINVAL, f"{low << self._shift:#x} can't be accessed"
                )
            faults.access(self._mm, low, high, self._event, write=write, content=False)

    # -- accesses -----------------------------------------------------------

    def _access(self, addr: Any, length: Any, cpu: int, *, write: bool) -> None:
        length, shift = whole("length", length), self._shift
        if cpu or self._tlbs is not None:
            given = [whole("addr", addr)] if is_whole(addr) else uint64s("addr", addr)
            each = np.ravel(given).tolist()
            self._access_by(cpu, each, length, write=write)
            return
        if is_whole(addr):
            addrs = [whole("addr", addr)]
        else:
            given = uint64s("addr", addr)
            if length <= self._page:
                vpns = vpns_of(given, length, shift)
                faults.access_each(self._mm, vpns, self._event, write=write)
                return
            addrs = np.ravel(given).tolist()
        for at in addrs:
            first, stop = at >> shift, -(-(at + length) >> shift)
            faults.access(self._mm, first, stop, self._event, write=write)

    def read(self, addr: int | npt.ArrayLike, length: int = 1, *, cpu: int = 0) -> None:
        """Read every page that has a byte of a range, or of several.

        Parameters
        ----------
        addr : int or array_like of int
            The start of each range. They are read in the given order.
        length : int, default 1
            Bytes of each range.
        cpu : int, default 0
            The CPU that reads.

        Raises
        ------
        OSError
            EFAULT: a process would get SIGSEGV or SIGBUS (as under a userfaultfd with
            SIGBUS).
        UserFault
            At a missing page that no handler brings. In every case the pages before
            have been read.
        """
        self._access(addr, length, cpu, write=False)

    def write(
        self, addr: int | npt.ArrayLike, length: int = 1, *, cpu: int = 0
    ) -> None:
        """Write to every page that has a byte of a range, or of several.

        Parameters
        ----------
        addr : int or array_like of int
            The start of each range. They are written in the given order.
        length : int, default 1
            Bytes of each range.
        cpu : int, default 0
            The CPU that writes. An entry of its TLB is used if there is one.

        Raises
        ------
        OSError
            EFAULT: a process would get SIGSEGV or SIGBUS.
        UserFault
            At a page that a userfaultfd without WP_ASYNC protects or that is missing
            under one, if there is no handler, or it neither resolves the fault nor
            wakes the access. In every case the pages before have been written.
        """
        self._access(addr, length, cpu, write=True)

    # -- processes ----------------------------------------------------------

    def fork(self) -> "AddressSpace":
        """Return the child's address space.

        Private pages are shared until one side writes. If a VMA's userfaultfd has
        EVENT_FORK, the child's VMA gets a userfaultfd of its own, otherwise none.

        Raises
        ------
        MemoryError
        """
        child = AddressSpace.__new__(AddressSpace)
        child._tlbs = self._tlbs and self._tlbs.empty()
        child._adopt(copy_mm(self._mm))
        kept = (vma for vma in self._mm.vmas if vma.copied)
        for vma, copied in zip(kept, child._mm.vmas, strict=True):
            if vma.wp and not copied.wp:
                mux.give(child._mm, copied.start, copied.stop, "soft_dirty")
        child._uffds = list(dict.fromkeys(v.uffd for v in child._mm.vmas if v.uffd))
        for uffd in dict.fromkeys(vma.uffd for vma in self._mm.vmas if vma.copied):
            if uffd and uffd.listener and "EVENT_FORK" in uffd.features:
                uffd.listener(self, UffdEvent("FORK", child=child))
        return child

    def exit(self) -> None:
        """Unmap everything, as at the end of a process."""
        self._mm.unmap(0, self._end >> self._shift)
        self._mm.notes.clear()  # exit_mmap() tells nobody
        self._uffds = []

    def clear_refs(self) -> None:
        """Clear the soft-dirty bits: a 4 written to /proc/PID/clear_refs.

        Raises
        ------
        Refused
            The two trackers share one bit by VMA, and `uffd_wp` has it in one.
        """
        protect.clear_soft_dirty(self._mm)


def _nothing(mm: Mm, vma: Vma, first: int, stop: int) -> None:
    """Ignore advice without a visible effect."""


_ADVICE: dict[str, Callable[[Mm, Vma, int, int], None]] = {
    "NORMAL": _nothing,
    "WILLNEED": _nothing,
    "COLD": reclaim.cold,
    "DONTFORK": partial(protect.advise, copied=False),
    "DOFORK": partial(protect.advise, copied=True),
    "WIPEONFORK": partial(protect.advise_wipe, wiped=True),
    "KEEPONFORK": partial(protect.advise_wipe, wiped=False),
    "DONTNEED": reclaim.dontneed,
    "REMOVE": reclaim.remove,
    "FREE": reclaim.free,
    "PAGEOUT": reclaim.pageout,
    "COLLAPSE": huge.collapse,
    "HUGEPAGE": partial(protect.advise, huge=True),
    "NOHUGEPAGE": partial(protect.advise, huge=False),
    "POPULATE_READ": _nothing,
    "POPULATE_WRITE": _nothing,
}
