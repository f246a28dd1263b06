"""Which pages were written since the last time: the two ways a kernel tells.

Both reset what they tell of, so that nothing is told twice and nothing missed.
"""

from collections.abc import Sequence

import numpy as np

from extmeta.arrays import U64
from extmeta.fields import Fields
from extmeta.linux import AddressSpace
from extmeta.linux.pagewords import PAGE_SHIFT, SOFT_DIRTY, populated
from extmeta.workloads.process import Range

NONE = np.empty(0, np.uint64)


class SoftDirty:
    """clear_refs, then the pages whose pagemap word has the bit again.

    There is one for a process: whoever clears the bits clears them for all.
    """

    fields = Fields(soft_dirty=1)

    def __init__(self, space: AddressSpace, ranges: Sequence[Range]) -> None:
        self.space = space
        self.ranges = ranges

    def collect(self) -> U64:
        """Return the vpns of pages written since the last time."""
        found = [NONE]
        for first, stop in self.ranges:
            words = self.space.pagemap(first << PAGE_SHIFT, stop - first << PAGE_SHIFT)
            dirty = populated(words) & (words & SOFT_DIRTY != 0)
            found.append(np.flatnonzero(dirty).astype(np.uint64) + np.uint64(first))
        self.space.clear_refs()
        return np.concatenate(found)


class WpAsync:
    """A userfaultfd with WP_ASYNC, and PAGEMAP_SCAN, which protects what it tells."""

    fields = Fields(uffd_wp=1)

    def __init__(self, space: AddressSpace, ranges: Sequence[Range]) -> None:
        self.space = space
        self.ranges = ranges
        for first, stop in ranges:
            space.uffd_register(first << PAGE_SHIFT, stop - first << PAGE_SHIFT)

    def collect(self) -> U64:
        """Return the vpns of pages written since the last time."""
        found = [NONE]
        for first, stop in self.ranges:
            regions, _walk_end = self.space.pagemap_scan(
                first << PAGE_SHIFT,
                stop << PAGE_SHIFT,
                "WP_MATCHING|CHECK_WPASYNC",
                category_mask="WRITTEN",
                category_anyof_mask="PRESENT|SWAPPED",
            )
            found += [
                np.arange(start >> PAGE_SHIFT, end >> PAGE_SHIFT, dtype=np.uint64)
                for start, end, _categories in regions.tolist()
            ]
        return np.concatenate(found)


TRACKERS: dict[str, type[SoftDirty] | type[WpAsync]] = {
    "WP_ASYNC": WpAsync,
    "soft-dirty": SoftDirty,
}
