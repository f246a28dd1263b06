"""Build the page tables of a captured process."""

from typing import TYPE_CHECKING, Any

import numpy as np

from extmeta.captures import huge
from extmeta.fields import Fields
from extmeta.linux.pagewords import (
    PAGE_SHIFT,
    PFN_MASK,
    SOFT_DIRTY,
    UFFD_WP,
    present,
    slots,
)
from extmeta.pagetable import PageTable

if TYPE_CHECKING:
    from extmeta.captures.capture import Capture


def build(c: "Capture", encoding: Any, fields: Fields | None, arch: str) -> PageTable:
    """Return the table: see `Capture.build`."""
    options = {} if fields is None else {"fields": fields}
    table = PageTable(encoding=encoding, arch=arch, **options)
    ptes = huge.ptes(c)
    vpn, entry = c.vpn[ptes], c.entry[ptes]
    first = np.searchsorted(c.vpn, c.vma_start >> PAGE_SHIFT)
    stop = np.searchsorted(c.vpn, c.vma_end >> PAGE_SHIFT)
    vma_writable = np.strings.find(c.vma_perms, "w") >= 0
    writable = np.repeat(vma_writable, stop - first)[ptes]
    here = present(entry)
    # Swap entries first: the PFNs that the table assigns to them are free again before
    # the capture's PFNs are mapped.
    for may_write in (False, True):
        chosen = ~here & (writable == may_write)
        table.map(vpn[chosen], writable=may_write)
    table.swap_out(vpn[~here], slots(entry[~here]))
    for may_write in (False, True):
        chosen = here & (writable == may_write)
        pfns = entry[chosen] & PFN_MASK if c.has_pfns else None
        table.map(vpn[chosen], pfns, writable=may_write)
    deposited = c.deposited_vpn
    others = np.setdiff1d(c.huge_vpn, deposited)
    for leaves, deposit in ((deposited, True), (others, False)):
        words = c.entry[np.searchsorted(c.vpn, leaves)]
        pfns = words & PFN_MASK if c.has_pfns else None
        table.map_huge(leaves, pfns, deposit)
    for name, bit in (("uffd_wp", UFFD_WP), ("soft_dirty", SOFT_DIRTY)):
        if fields is not None and name in fields:
            table.update(vpn[entry & bit != 0], set=fields.pack(**{name: 1}))
    return table
