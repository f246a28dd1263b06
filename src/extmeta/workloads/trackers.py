"""The kernel's two trackers of pages written since the last collection.

Both reset what they report, so that no page is reported twice and none is missed.
"""

from collections.abc import Sequence

import numpy as np

from extmeta.arrays import U64
from extmeta.fields import Fields
from extmeta.linux import AddressSpace
from extmeta.linux.pagewords import PAGE_SHIFT, SOFT_DIRTY, populated
from extmeta.workloads.process import Range

NONE = np.empty(0, np.uint64)


def pagemap(
    space: AddressSpace, ranges: Sequence[Range], pfns: bool = False
) -> tuple[U64, U64]:
    """Return the pagemap words of ranges of vpns, and the vpns."""
    words, vpns = [NONE], [NONE]
    for first, stop in ranges:
        at, length = first << PAGE_SHIFT, stop - first << PAGE_SHIFT
        words.append(space.pagemap(at, length, pfns=pfns))
        vpns.append(np.arange(first, stop, dtype=np.uint64))
    return np.concatenate(words), np.concatenate(vpns)


class SoftDirty:
    """clear_refs, then the pages whose pagemap word has the bit again.

    A process has one: clear_refs resets the bits for all users.
    """

    fields = Fields(soft_dirty=1)

    def __init__(self, space: AddressSpace, ranges: Sequence[Range]) -> None:
        self.space = space
        self.ranges = ranges

    def collect(self) -> U64:
        """Return the vpns of pages written since the last collection."""
        words, vpns = pagemap(self.space, self.ranges)
        self.space.clear_refs()
        return np.asarray(vpns[populated(words) & (words & SOFT_DIRTY != 0)])


class WpAsync:
    """A userfaultfd with WP_ASYNC; PAGEMAP_SCAN protects the pages that it reports."""

    fields = Fields(uffd_wp=1)

    def __init__(self, space: AddressSpace, ranges: Sequence[Range]) -> None:
        self.space = space
        self.ranges = ranges
        for first, stop in ranges:
            space.uffd_register(first << PAGE_SHIFT, stop - first << PAGE_SHIFT)

    def collect(self) -> U64:
        """Return the vpns of pages written since the last collection."""
        found = [NONE]
        for first, stop in self.ranges:
            regions, _walk_end = self.space.pagemap_scan(
                first << PAGE_SHIFT,
                stop << PAGE_SHIFT,
                "WP_MATCHING|CHECK_WPASYNC",
                category_mask="WRITTEN",
                category_anyof_mask="PRESENT|SWAPPED",
            )
            found.append(_pages(regions["start"], regions["end"]))
        return np.concatenate(found)


def _pages(start: U64, end: U64) -> U64:
    """Return the vpns of ranges of bytes, range by range."""
    shift = np.uint64(PAGE_SHIFT)
    counts = (end - start >> shift).astype(np.int64)
    # How far the vpns are ahead of 0, 1, 2 ...
    ahead = (start >> shift).astype(np.int64) - np.cumsum(counts) + counts
    return (np.repeat(ahead, counts) + np.arange(counts.sum())).astype(np.uint64)


TRACKERS: dict[str, type[SoftDirty] | type[WpAsync]] = {
    "WP_ASYNC": WpAsync,
    "soft-dirty": SoftDirty,
}
