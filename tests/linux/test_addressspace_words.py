"""What PTEs that have words do differently: the flag is in the PTE, the word is not."""

import numpy as np
import pytest
from spaces import PAGE, PMD, A

import extmeta as em

PRESENT, EXCLUSIVE = 1 << 63, 1 << 56


def huge(written=PMD, *, release="6.12", **options):
    """Return a space with a huge page of which a part was written."""
    fields = em.Fields(uffd_wp=1, soft_dirty=1, word=62)
    space = em.AddressSpace(fields, "linked", release=release, **options)
    space.mmap(A, PMD)
    space.madvise(A, PMD, "HUGEPAGE")
    space.write(A, written)
    return space


def by_ptes(space):
    """Have the huge page mapped by PTEs."""
    space.mprotect(A, PAGE, "r")
    space.mprotect(A, PAGE, "rw")
    assert not space._mm.leaves
    return space


def give(space, first, count, word=1):
    """Store words that differ in `count` pages."""
    start, number = first + A // PAGE, np.arange(count, dtype=np.uint64)
    kept = space.table.load(slice(start, start + count))
    shift = np.uint64(space.table.fields.shift("word"))
    words = kept | (np.uint64(word) + number) << shift
    space.table.store(slice(start, start + count), words)


def count(space, bit):
    """Return how many pages have a bit of pagemap."""
    return int(np.count_nonzero(space.pagemap(A, PMD) & np.uint64(bit)))


def test_a_huge_page_comes_back_from_swap_whole_if_only_words_differ():
    """Linux compares swap entries, which have a flag and no word."""
    space = huge(thp_swap=True)
    space.madvise(A, PMD, "PAGEOUT")
    give(space, 0, 512)
    space.read(A)
    assert count(space, PRESENT) == 512


def test_a_huge_page_comes_back_from_swap_by_pages_if_flags_differ():
    space = huge(thp_swap=True)
    space.madvise(A, PMD, "PAGEOUT")
    give(space, 0, 511)
    space.read(A)
    assert count(space, PRESENT) == 1


@pytest.mark.parametrize(("flagged", "own"), [(512, 512), (100, 256)])
def test_cold_splits_a_huge_page_if_flags_differ(flagged, own):
    """What was never written becomes the page of zeros."""
    space = by_ptes(huge(PMD // 2, thp_swap=True))
    give(space, 0, flagged)
    space.madvise(A, PMD, "COLD")
    assert count(space, EXCLUSIVE) == own


def test_words_are_in_the_way_of_a_collapse_only_in_the_prototype():
    for prototype in (False, True):
        space = by_ptes(huge(release="6.18"))
        give(space, 7, 1)
        space._mm.collapses_words = not prototype
        space = space.fork()
        if prototype:
            with pytest.raises(OSError, match=r"\[Errno 22\]"):
                space.madvise(A, PMD, "COLLAPSE")
        else:
            space.madvise(A, PMD, "COLLAPSE")
            assert space._mm.leaves
