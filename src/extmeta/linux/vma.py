"""VMAs, split and merged as Linux does.

Merging is visible to user space: fork copies the zero pages of a VMA only if it was
written to (`anon_vma`), fault-around and huge pages stay inside one VMA, and before
6.19 a merged VMA has the VM_SOFTDIRTY of the one that survives.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntFlag
from itertools import islice, takewhile
from operator import attrgetter
from typing import Any

from extmeta.linux.physical import Backing
from extmeta.linux.userfault import Mode, Userfaultfd

# Since this release a merged VMA is soft-dirty if either was ("mm: propagate
# VM_SOFTDIRTY on merge"); the release is unverified.
STICKY = (6, 19)


class Prot(IntFlag):
    """PROT_* of include/uapi/asm-generic/mman-common.h."""

    NONE = 0
    R = 1
    W = 2
    X = 4


class AnonVma:
    """struct anon_vma: VMAs that may share anonymous pages share one."""


@dataclass(eq=False)
class Vma:
    """Pages [start, stop), by vpn.

    Attributes
    ----------
    backing : Backing or None
        The file or shared memory; None: private anonymous memory.
    pgoff : int
        First page in the backing; in anonymous memory the vpn it was mapped at.
    soft_dirty : bool
        VM_SOFTDIRTY: all pages count as soft-dirty.
    uffd : Userfaultfd or None
        The one registered here.
    mode : Mode
        VM_UFFD_MISSING and VM_UFFD_WP. Valid only with a `uffd`.
    huge : bool or None
        MADV_HUGEPAGE, MADV_NOHUGEPAGE, or neither.
    account : bool
        VM_ACCOUNT, which prevents a merge if it differs.
    anon_vma : AnonVma or None
        None until the first page of its own.
    chain : int
        Number of anon_vmas that its pages may have: more than one after a fork.
    copied : bool
        Not VM_DONTCOPY: a fork's child gets the VMA.
    wiped : bool
        VM_WIPEONFORK: a fork's child gets none of the pages.
    """

    start: int
    stop: int
    prot: Prot
    shared: bool
    backing: Backing | None
    pgoff: int
    soft_dirty: bool
    account: bool
    uffd: Userfaultfd | None = None
    mode: Mode = Mode.NONE
    huge: bool | None = None
    anon_vma: AnonVma | None = None
    chain: int = 0
    copied: bool = True
    wiped: bool = False

    @property
    def anonymous(self) -> bool:
        """vma_is_anonymous(): shared anonymous memory is a file's."""
        return self.backing is None

    @property
    def missing(self) -> bool:
        """userfaultfd_missing(): a userfaultfd has to bring missing pages."""
        return self.uffd is not None and Mode.MISSING in self.mode

    @property
    def wp(self) -> bool:
        """userfaultfd_wp(): a userfaultfd tracks writes."""
        return self.uffd is not None and Mode.WP in self.mode

    @property
    def asynchronous(self) -> bool:
        """Whether a write clears protection without waiting for a userfaultfd."""
        return self.uffd is None or self.uffd.asynchronous

    @property
    def uses_markers(self) -> bool:
        """userfaultfd_wp_use_markers(): missing pages can be protected."""
        return self.wp and bool(
            not self.anonymous or (self.uffd and self.uffd.unpopulated)
        )

    def part(self, first: int, stop: int, **changes: Any) -> "Vma":
        """Return a copy for pages [first, stop), with ``changes``."""
        pgoff = self.pgoff + first - self.start
        return replace(self, start=first, stop=stop, pgoff=pgoff, **changes)

    def take_anon(self, source: "Vma | None") -> None:
        """Take over a merged VMA's anon_vma if there is none: dup_anon_vma()."""
        if source is not None and self.anon_vma is None:
            self.anon_vma, self.chain = source.anon_vma, source.chain

    def fits(self, above: "Vma") -> bool:
        """is_mergeable_vma(): `above` starts where this ends, in the backing too."""
        return (
            self.stop == above.start
            and self.pgoff + self.stop - self.start == above.pgoff
            and self.backing is above.backing
            and self.uffd is above.uffd
            and (self.uffd is None or self.mode == above.mode)
            and _FLAGS(self) == _FLAGS(above)
        )


# Flags that must be equal in VMAs that merge.
_FLAGS = attrgetter("prot", "shared", "huge", "account", "copied", "wiped")


class Vmas:
    """The VMAs of one address space, ascending.

    Parameters
    ----------
    release : (int, int)
        The kernel's version.
    """

    def __init__(self, release: tuple[int, int]) -> None:
        self._all: list[Vma] = []
        self._release = release
        self.sticky = release >= STICKY

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._all)

    def _index(self, vpn: int) -> int:
        """Return the index of the first VMA that ends above ``vpn``."""
        return bisect_right(self._all, vpn, key=lambda vma: vma.stop)

    def find(self, vpn: int) -> Vma | None:
        """Return the VMA that has ``vpn``."""
        i = self._index(vpn)
        if i < len(self._all) and self._all[i].start <= vpn:
            return self._all[i]
        return None

    def get(self, vpn: int, error: int) -> Vma:
        """Return the VMA that has ``vpn``; without one, raise OSError ``error``."""
        if (vma := self.find(vpn)) is None:
            raise OSError(error, f"nothing mapped at vpn {vpn:#x}")
        return vma

    def within(self, first: int, stop: int) -> list[Vma]:
        """Return the VMAs that have a page of [first, stop)."""
        later = islice(self._all, self._index(first), None)
        return list(takewhile(lambda vma: vma.start < stop, later))

    def parts(self, first: int, stop: int) -> Iterator[tuple[Vma, int, int]]:
        """Yield each VMA with a page of [first, stop), and its part of the range."""
        for vma in self.within(first, stop):
            yield vma, max(first, vma.start), min(stop, vma.stop)

    def walk(self, first: int, stop: int) -> Iterator[tuple[Vma | None, int, int]]:
        """Yield each VMA and each gap (None), with its part of [first, stop).

        VMAs up to the end of the part yielded last may be split and merged meanwhile.
        """
        at = first
        while at < stop:
            vma = self.find(at)
            if vma is not None:
                end = min(stop, vma.stop)
            else:
                end = next((later.start for later in self.within(at, stop)), stop)
            yield vma, at, end
            at = end

    def beside(self, first: int, stop: int) -> tuple[Vma | None, Vma | None]:
        """Return the VMAs before and after a range."""
        i = bisect_left(self._all, first, key=lambda vma: vma.start)
        j = bisect_left(self._all, stop, key=lambda vma: vma.start)
        before = self._all[i - 1] if i else None
        return before, self._all[j] if j < len(self._all) else None

    def _compatible(self, new: Vma, old: Vma) -> bool:
        """is_mergeable_anon_vma() of a range and the VMA that it would join."""
        if new.anon_vma is None and old.anon_vma is not None:
            return old.chain == 1
        if new.anon_vma is not None and old.anon_vma is None:
            # Disallowed by mistake until 6.16: "mm/vma: fix incorrectly
            # disallowed anonymous VMA merges".
            return self._release >= (6, 16) and new.chain == 1
        return new.anon_vma is old.anon_vma

    def add(self, new: Vma) -> Vma:
        """Insert a VMA into free space, or extend its neighbours over it.

        Linux mm/vma.c vma_merge_new_range(). Returns the VMA that has the range
        now. Before 6.19 a neighbour's VM_SOFTDIRTY does not change.
        """
        return self._merge(new, *self.beside(new.start, new.stop))

    def _merge(self, new: Vma, before: Vma | None, after: Vma | None) -> Vma:
        """Merge a range with its neighbours if possible, else insert it."""
        if before and not (before.fits(new) and self._compatible(new, before)):
            before = None
        if after and not (new.fits(after) and self._compatible(new, after)):
            after = None
        if before and after and before.anon_vma is not after.anon_vma:
            after = after if None in (before.anon_vma, after.anon_vma) else None
        stays = before or after
        if stays and self.sticky:
            stays.soft_dirty = any(v.soft_dirty for v in (before, new, after) if v)
        if before:
            before.stop = after.stop if after else new.stop
            if after:
                self._all.remove(after)
            for source in (after, new):
                before.take_anon(source)
            return before
        if after:
            after.pgoff -= after.start - new.start
            after.start = new.start
            after.take_anon(new)
            return after
        self.insert(new)
        return new

    def insert(self, new: Vma) -> None:
        """Insert a VMA into free space without a merge."""
        self._all.insert(self._index(new.start), new)

    def cut(self, first: int, stop: int) -> list[Vma]:
        """Remove pages [first, stop); return the parts of VMAs removed."""
        gone = []
        for vma, start, end in self.parts(first, stop):
            gone.append(vma.part(start, end))
            if vma.start < start and end < vma.stop:
                self._all.insert(self._index(vma.start) + 1, vma.part(end, vma.stop))
                vma.stop = start
            elif vma.start < start:
                vma.stop = start
            elif end < vma.stop:
                vma.pgoff += end - vma.start
                vma.start = end
            else:
                self._all.remove(vma)
        return gone

    def modify(self, vma: Vma, first: int, stop: int, **changes: Any) -> Vma:
        """Change a part of a VMA, with split and merge: vma_modify().

        Returns the VMA that has the range now. If that is a neighbour, its
        VM_SOFTDIRTY does not change before 6.19 (vma_merge_existing_range()).
        """
        new = vma.part(first, stop, **changes)
        before, after = self.beside(vma.start, vma.stop)
        before = before if first == vma.start else None
        after = after if stop == vma.stop else None
        self.cut(first, stop)
        return self._merge(new, before, after)

    def prepare_anon(self, vma: Vma) -> None:
        """Give a VMA an anon_vma, a neighbour's if possible: __anon_vma_prepare()."""
        if vma.anon_vma is not None:
            return
        before, after = self.beside(vma.start, vma.stop)
        for old in (after, before):
            if old is None or old.anon_vma is None or old.chain != 1:
                continue
            # anon_vma_compatible() ignores the protection.
            alike = old.part(old.start, old.stop, prot=vma.prot)
            if vma.fits(alike) or alike.fits(vma):
                vma.anon_vma, vma.chain = old.anon_vma, 1
                return
        vma.anon_vma, vma.chain = AnonVma(), 1
