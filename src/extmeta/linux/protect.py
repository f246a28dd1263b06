"""Write-protection by a userfaultfd, and the soft-dirty bits cleared."""

import errno

from extmeta.linux import mux
from extmeta.linux.mm import Mm
from extmeta.linux.userfault import Mode, Userfaultfd
from extmeta.linux.vma import Prot, Vma


def register(mm: Mm, uffd: Userfaultfd, mode: Mode, first: int, stop: int) -> None:
    """Let a userfaultfd have the VMAs of [first, stop): userfaultfd_register().

    A VMA that it has already keeps its mode if that includes the new one; else it
    gets the new one, and what was protected stays marked as that.
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
        if vma.uffd is not None and vma.uffd is not uffd:
            raise OSError(
                errno.EBUSY, f"vpn {vma.start:#x} has another userfaultfd already"
            )
    if Mode.WP in mode:
        mux.refuse_uffd_wp(mm, vmas)
    for vma in vmas:
        if vma.uffd is uffd and vma.mode & mode == mode:
            continue
        low, high = max(first, vma.start), min(stop, vma.stop)
        tracked = vma.wp
        mm.modify(vma, low, high, uffd=uffd, mode=mode)
        if tracked != (Mode.WP in mode):
            mux.give(mm, low, high, "soft_dirty" if tracked else "uffd_wp")


def unregister(mm: Mm, uffd: Userfaultfd | None, first: int, stop: int) -> None:
    """Take off all protection, and the tracking: userfaultfd_unregister()."""
    vmas = mm.vmas.within(first, stop)
    if not vmas:
        raise OSError(errno.EINVAL, f"nothing mapped in vpns [{first:#x}, {stop:#x})")
    for vma in vmas:
        # Since 6.17 ("userfaultfd: prevent unregistering VMAs through a different
        # userfaultfd"); which release is unverified.
        other = vma.uffd is not None and vma.uffd is not uffd
        if other and mm.release >= (6, 17):
            raise OSError(errno.EINVAL, f"vpn {vma.start:#x} has another userfaultfd")
    for vma in vmas:
        if vma.uffd is not None:
            low, high = max(first, vma.start), min(stop, vma.stop)
            tracked = vma.wp
            if tracked:
                change(mm, vma, low, high, on=False)
            mm.modify(vma, low, high, uffd=None, mode=Mode.NONE)
            if tracked:
                mux.give(mm, low, high, "soft_dirty")


def writeprotect(mm: Mm, first: int, stop: int, *, on: bool) -> None:
    """UFFDIO_WRITEPROTECT: mwriteprotect_range().

    Raises OSError ENOENT at the first VMA that is not tracked; those before it
    are done.
    """
    vmas = mm.vmas.within(first, stop)
    for vma in vmas:
        if not vma.wp:
            raise OSError(
                errno.ENOENT, f"vpn {vma.start:#x} has no userfaultfd for writes"
            )
        change(mm, vma, max(first, vma.start), min(stop, vma.stop), on=on)
    if not vmas:
        raise OSError(errno.ENOENT, f"nothing mapped in vpns [{first:#x}, {stop:#x})")


def change(mm: Mm, vma: Vma, first: int, stop: int, *, on: bool) -> None:
    """Protect [first, stop) of a VMA, or resolve it: change_protection().

    A leaf is split only if the range cuts it. Where markers are used, what is not
    there gets one, and loses it again.
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
    entries = mm.entries(first, stop)
    mm.clear(entries.vpn[~entries.present & (entries.value == mm.marker)])
    mm.change_words(slice(first, stop), mm.uffd_wp)


def clear_soft_dirty(mm: Mm) -> None:
    """Clear what the tracker knows: clear_refs_write(), type 4."""
    if not mm.soft_dirty:
        return
    mux.refuse_soft_dirty(mm)
    for vma in mm.vmas:
        vma.soft_dirty = False
    mm.change_words(slice(0, mm.arch.nr_vpns), mm.soft_dirty)
    for leaf in mm.leaves.values():
        leaf.word &= ~mm.soft_dirty


def mprotect(mm: Mm, first: int, stop: int, prot: Prot) -> None:
    """Change what may be done with pages; the bits stay: do_mprotect_pkey()."""
    at = first
    while at < stop:
        vma = mm.vmas.find(at)
        if vma is None:
            raise OSError(errno.ENOMEM, f"nothing mapped at vpn {at:#x}")
        end = min(stop, vma.stop)
        _fix(mm, vma, at, end, prot)
        at = end


def _fix(mm: Mm, vma: Vma, first: int, stop: int, prot: Prot) -> None:
    """mprotect_fixup(): a merged VMA gets this one's VM_SOFTDIRTY."""
    if prot == vma.prot:
        return
    account = vma.account
    if prot & Prot.W:
        account = account or not (vma.prot & Prot.W or vma.shared)
    elif vma.anonymous and vma.anon_vma is None:
        account = False
    soft_dirty = vma.soft_dirty
    changed = mm.modify(vma, first, stop, prot=prot, account=account)
    changed.soft_dirty = soft_dirty or (mm.vmas.sticky and changed.soft_dirty)


def _advise(mm: Mm, vma: Vma, first: int, stop: int, **flag: bool) -> None:
    """Change a flag of a part of a VMA: madvise_update_vma()."""
    ((name, value),) = flag.items()
    if getattr(vma, name) is value:
        return
    soft_dirty = vma.soft_dirty
    changed = mm.modify(vma, first, stop, **flag)
    changed.soft_dirty = soft_dirty or (mm.vmas.sticky and changed.soft_dirty)


def advise_huge(mm: Mm, vma: Vma, first: int, stop: int, *, huge: bool) -> None:
    """MADV_HUGEPAGE and MADV_NOHUGEPAGE: hugepage_madvise()."""
    _advise(mm, vma, first, stop, huge=huge)


def advise_fork(mm: Mm, vma: Vma, first: int, stop: int, *, copied: bool) -> None:
    """MADV_DONTFORK and MADV_DOFORK: VM_DONTCOPY."""
    _advise(mm, vma, first, stop, copied=copied)


def advise_wipe(mm: Mm, vma: Vma, first: int, stop: int, *, wiped: bool) -> None:
    """MADV_WIPEONFORK and MADV_KEEPONFORK: VM_WIPEONFORK, of private anonymous memory.

    Linux mm/madvise.c madvise_vma_behavior().
    """
    if wiped and not vma.anonymous:
        raise OSError(errno.EINVAL, f"the VMA at vpn {vma.start:#x} is not anonymous")
    _advise(mm, vma, first, stop, wiped=wiped)
