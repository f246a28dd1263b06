"""Changes of VMAs and PTEs by userfaultfd, clear_refs, mprotect and madvise."""

import errno
from typing import Any

from extmeta.linux import mux
from extmeta.linux.mm import Mm
from extmeta.linux.userfault import Mode, Userfaultfd
from extmeta.linux.vma import Prot, Vma


def register(mm: Mm, uffd: Userfaultfd, mode: Mode, first: int, stop: int) -> None:
    """Register the VMAs of [first, stop): userfaultfd_register().

    A VMA that is registered already keeps its mode if that includes the new one.
    Otherwise it gets the new one, and protected pages keep their bits.
    """
    if Mode.WP in mode and not mm.uffd_wp:
        raise OSError(
            errno.EINVAL,
            "no field uffd_wp: this kernel has no userfaultfd write-protection",
        )
    vmas = mm.vmas.within(first, stop)
    if not vmas:
        raise OSError(errno.EINVAL, f"nothing mapped in vpns [{first:#x}, {stop:#x})")
    for vma in vmas:
        if vma.uffd not in (None, uffd):
            raise OSError(
                errno.EBUSY, f"vpn {vma.start:#x} has another userfaultfd already"
            )
    if Mode.WP in mode:
        mux.refuse(mm, "uffd_wp", vmas)
    for vma, low, high in mm.vmas.parts(first, stop):
        if vma.uffd is uffd and vma.mode & mode == mode:
            continue
        tracked = vma.wp
        mm.modify(vma, low, high, uffd=uffd, mode=mode)
        if tracked != (Mode.WP in mode):
            mux.give(mm, low, high, "soft_dirty" if tracked else "uffd_wp")


def unregister(mm: Mm, uffd: Userfaultfd | None, first: int, stop: int) -> None:
    """Clear all protection and stop tracking: userfaultfd_unregister()."""
    vmas = mm.vmas.within(first, stop)
    if not vmas:
        raise OSError(errno.EINVAL, f"nothing mapped in vpns [{first:#x}, {stop:#x})")
    for vma in vmas:
        # Since 6.17 ("userfaultfd: prevent unregistering VMAs through a different
        # userfaultfd"); the release is unverified.
        if vma.uffd not in (None, uffd) and mm.release >= (6, 17):
            raise OSError(errno.EINVAL, f"vpn {vma.start:#x} has another userfaultfd")
    for vma, low, high in mm.vmas.parts(first, stop):
        if vma.uffd is not None:
            tracked = vma.wp
            if tracked:
                change(mm, vma, low, high, on=False)
            mm.modify(vma, low, high, uffd=None, mode=Mode.NONE)
            if tracked:
                mux.give(mm, low, high, "soft_dirty")


def writeprotect(mm: Mm, first: int, stop: int, *, on: bool) -> None:
    """UFFDIO_WRITEPROTECT: mwriteprotect_range().

    Raises OSError ENOENT at the first VMA that is not tracked, after it has changed
    those before it.
    """
    for vma, low, high in mm.vmas.parts(first, stop):
        if not vma.wp:
            raise OSError(
                errno.ENOENT, f"vpn {vma.start:#x} has no userfaultfd for writes"
            )
        change(mm, vma, low, high, on=on)
    if not mm.vmas.within(first, stop):
        raise OSError(errno.ENOENT, f"nothing mapped in vpns [{first:#x}, {stop:#x})")


def change(mm: Mm, vma: Vma, first: int, stop: int, *, on: bool) -> None:
    """Set or clear uffd-wp in [first, stop) of a VMA: change_protection().

    A leaf is split only if the range cuts it. If the VMA uses markers, missing pages
    get and lose them.
    """
    mm.split_at(first, stop)
    for base in mm.leaves_within(first, stop):
        leaf = mm.leaves[base]
        leaf.word = leaf.word | mm.uffd_wp if on else leaf.word & ~mm.uffd_wp
    if on:
        mm.change_words(slice(first, stop), 0, mm.uffd_wp)
        if vma.uses_markers:
            mm.mark(mm.absent(first, stop))
            mm.tables.update(
                base
                for base, _low, _high in mm.regions(first, stop)
                if base not in mm.leaves
            )
        return
    mm.clear_markers(mm.entries(first, stop))
    mm.change_words(slice(first, stop), mm.uffd_wp)


def clear_soft_dirty(mm: Mm) -> None:
    """Clear all soft-dirty bits: clear_refs_write(), type 4."""
    if not mm.soft_dirty:
        return
    mux.refuse(mm, "soft_dirty", mm.vmas)
    for vma in mm.vmas:
        vma.soft_dirty = False
    mm.change_words(slice(0, mm.arch.nr_vpns), mm.soft_dirty)
    for leaf in mm.leaves.values():
        leaf.word &= ~mm.soft_dirty


def mprotect(mm: Mm, first: int, stop: int, prot: Prot) -> None:
    """Change the protection; words stay: do_mprotect_pkey(), mprotect_fixup()."""
    for vma, low, high in mm.vmas.walk(first, stop):
        if vma is None:
            raise OSError(errno.ENOMEM, f"nothing mapped at vpn {low:#x}")
        if prot == vma.prot:
            continue
        account = vma.account
        if prot & Prot.W:
            account = account or not (vma.prot & Prot.W or vma.shared)
        elif vma.anonymous and vma.anon_vma is None:
            account = False
        advise(mm, vma, low, high, prot=prot, account=account)


def advise(mm: Mm, vma: Vma, first: int, stop: int, **flags: Any) -> None:
    """Change flags of a part of a VMA: madvise_update_vma().

    A VMA that this one merges into gets its VM_SOFTDIRTY.
    """
    if all(getattr(vma, name) is value for name, value in flags.items()):
        return
    soft_dirty = vma.soft_dirty
    changed = mm.modify(vma, first, stop, **flags)
    changed.soft_dirty = soft_dirty or (mm.vmas.sticky and changed.soft_dirty)


def advise_wipe(mm: Mm, vma: Vma, first: int, stop: int, *, wiped: bool) -> None:
    """MADV_WIPEONFORK and MADV_KEEPONFORK, for private anonymous memory.

    Linux mm/madvise.c madvise_vma_behavior().
    """
    if wiped and not vma.anonymous:
        raise OSError(errno.EINVAL, f"the VMA at vpn {vma.start:#x} is not anonymous")
    advise(mm, vma, first, stop, wiped=wiped)
