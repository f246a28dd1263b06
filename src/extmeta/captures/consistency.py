"""Check that a capture's parts agree with each other.

Every `Capture` is checked, whether it comes from a process or from a file that anyone
may have written. The checks are array operations, some 10 ns for each entry.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from extmeta.captures.npz import ROWS
from extmeta.linux.pagewords import (
    LEAF_PAGES,
    PAGE_BYTES,
    PAGE_SHIFT,
    PFN_BITS,
    PFN_MASK,
    PRESENT,
    leaves_within,
    vpn_bounds,
    whole_leaves,
    within,
)

if TYPE_CHECKING:
    from extmeta.captures.capture import Capture

# The user half with five levels: 2**56 bytes.
USER_VPNS = 1 << 44
KERNEL_HALF = 1 << 63

# The bits of a present page's word that no PFN has, and the bit that tells it.
WIDE = np.uint64(PRESENT | PFN_MASK >> PFN_BITS << PFN_BITS)


def _first(bad: npt.NDArray[Any]) -> int | None:
    """Return the first index that is set, or None."""
    return int(np.argmax(bad)) if bad.any() else None


def _lengths(c: "Capture") -> str | None:
    for first, *others in ROWS:
        wanted = len(getattr(c, first))
        for key in others:
            if (found := len(getattr(c, key))) != wanted:
                return f"{key} has {found} elements, {first} {wanted}"
    return None


def _vmas(c: "Capture") -> str | None:
    start, end, perms = c.vma_start, c.vma_end, c.vma_perms

    def at(i: int) -> str:
        return f"VMA {i} [{int(start[i]):#x}, {int(end[i]):#x})"

    if (i := _first((start | end) % PAGE_BYTES)) is not None:
        return f"{at(i)} is not page-aligned"
    if (i := _first(start >= end)) is not None:
        return f"{at(i)} ends before it starts"
    if (i := _first(start[1:] < end[:-1])) is not None:
        return f"{at(i + 1)} starts before the end of {at(i)}"
    user = USER_VPNS << PAGE_SHIFT
    if (i := _first((end > user) & (start < KERNEL_HALF))) is not None:
        return f"{at(i)} leaves the user half, {user:#x}"
    good = np.strings.str_len(perms) == 4
    chars = perms.astype("U4").view(np.uint32).reshape(len(perms), 4)
    for column, allowed in enumerate(("r-", "w-", "x-", "ps")):
        good &= np.isin(chars[:, column], [ord(char) for char in allowed])
    if (i := _first(~good)) is not None:
        return f"{at(i)} has permissions {str(perms[i])[:20]!r}"
    return None


def _entries(c: "Capture") -> str | None:
    vpn, entry = c.vpn, c.entry

    def at(i: int) -> str:
        return f"vpn {int(vpn[i]):#x}"

    if (i := _first(vpn[1:] <= vpn[:-1])) is not None:
        return f"{at(i + 1)} comes after {at(i)}"
    if len(vpn) and vpn[-1] >= USER_VPNS:
        return f"{at(-1)} is beyond the user half"
    if (i := _first(~within(vpn, vpn_bounds(c.vma_start, c.vma_end)))) is not None:
        return f"{at(i)} is in no VMA"
    if (i := _first(entry == 0)) is not None:
        return f"{at(i)} has entry 0"
    # A word that is present, and has such a bit, is above PRESENT. One array is made.
    if (i := _first(entry & WIDE > PRESENT)) is not None:
        return f"{at(i)}: entry {int(entry[i]):#x} has a PFN above {PFN_BITS} bits"
    return None


def _leaves(c: "Capture") -> str | None:
    huge = c.huge_vpn
    if not c.huge_marked and (i := _first(c.vma_anon_huge_kb)) is not None:
        kib = c.vma_anon_huge_kb[i]
        return f"vma_anon_huge_kb {kib} of a capture whose huge_marked is false"

    def at(i: int) -> str:
        return f"huge_vpn {int(huge[i]):#x}"

    if (i := _first(huge % LEAF_PAGES)) is not None:
        return f"{at(i)} is not 2 MiB-aligned"
    if (i := _first(huge[1:] <= huge[:-1])) is not None:
        return f"{at(i + 1)} comes after {at(i)}"
    if len(huge) and huge[-1] >= USER_VPNS:
        return f"{at(-1)} is beyond the user half"
    if (
        i := _first(~leaves_within(huge, vpn_bounds(c.vma_start, c.vma_end)))
    ) is not None:
        return f"{at(i)} is in no VMA"
    if (i := _first(~whole_leaves(huge, c.vpn, c.entry))) is not None:
        return f"{at(i)}: not all of its {LEAF_PAGES} pages are present"
    return None


def fault(c: "Capture") -> str | None:
    """Return one line about the first wrong value of a capture, or None.

    The arrays of `c` must have the right type and one dimension.
    """
    return _lengths(c) or _vmas(c) or _entries(c) or _leaves(c)
