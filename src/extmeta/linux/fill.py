"""A userfaultfd brings missing pages: UFFDIO_COPY and UFFDIO_ZEROPAGE.

Linux mm/userfaultfd.c mfill_atomic(). Pages are filled in ascending order up to the
first that can't be. Each gets a PTE, even if a huge page would fit.
"""

import errno

import numpy as np

from extmeta.linux.faults import pages_of, reach_of
from extmeta.linux.mm import Mm
from extmeta.linux.physical import ZERO_PFN
from extmeta.linux.vma import Vma


def fill(
    mm: Mm, first: int, stop: int, *, zeros: bool, protect: bool
) -> tuple[int, int]:
    """Bring pages [first, stop); return how many, and the errno of the next or 0.

    Parameters
    ----------
    zeros : bool
        Zeros, not a copy of the handler's pages.
    protect : bool
        Write-protected: UFFDIO_COPY_MODE_WP.

    Raises
    ------
    OSError
        ENOENT: not in one VMA with a userfaultfd. EINVAL: `protect`, but the VMA's
        writes are not tracked.
    """
    vma = mm.vmas.get(first, errno.ENOENT)
    if not vma.shared:
        # Before any check: find_vma_and_prepare_anon().
        mm.vmas.prepare_anon(vma)
    if stop > vma.stop or vma.uffd is None:
        raise OSError(
            errno.ENOENT,
            f"vpns [{first:#x}, {stop:#x}) are not in one VMA with a userfaultfd",
        )
    if protect and not vma.wp:
        raise OSError(errno.EINVAL, f"writes at vpn {first:#x} are not tracked")
    end, error = _fillable(mm, vma, first, stop, zeros)
    if error and mm.leaf_of(end) not in mm.leaves:
        mm.tables.add(mm.leaf_of(end))  # __pte_alloc(), before the page's check
    vpns = np.arange(first, end, dtype=np.uint64)
    entries = mm.entries(first, end)
    mm.clear(entries.vpn)  # markers
    if vma.shared and vma.backing is not None:
        pages = pages_of(vma, vpns)
        pfns = vma.backing.get(pages)
        vma.backing.dirty(pages)
    elif zeros:
        pfns = np.full(len(vpns), ZERO_PFN, np.uint64)
    else:
        pfns = mm.physical.allocate(len(vpns))
    mm.map(vma, vpns, pfns)
    if vma.shared or not zeros:
        # pte_mkdirty() sets soft-dirty. It is not called for the page of zeros.
        mm.change_words(vpns, 0, mm.soft_dirty | (mm.uffd_wp if protect else 0))
    if not zeros:
        mm.physical.write(pfns)
    return end - first, error


def _fillable(mm: Mm, vma: Vma, first: int, stop: int, zeros: bool) -> tuple[int, int]:
    """Return the end of the free pages, and the errno of the next one or 0.

    A PTE with a marker is free, except for a private page of zeros: pte_none().
    """
    entries = mm.entries(first, stop)
    held = np.ones(len(entries.vpn), np.bool_)
    if vma.shared or not zeros:
        held = entries.present | (entries.value != mm.marker)
    taken = [max(base, first) for base in mm.leaves_within(first, stop)[:1]]
    taken += entries.vpn[held][:1].tolist()
    end = reach = max(first, reach_of(vma, stop))
    if vma.shared and vma.backing is not None:
        vpns = np.arange(first, reach, dtype=np.uint64)
        taken += vpns[vma.backing.has(pages_of(vma, vpns))][:1].tolist()
    error = errno.EFAULT if end < stop else 0
    if taken and min(taken) < end:
        return min(taken), errno.EEXIST
    return end, error
