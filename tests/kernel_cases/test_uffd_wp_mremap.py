"""tools/testing/selftests/mm/uffd-wp-mremap.c: mremap to where no userfaultfd is."""

import pytest
from cases import (
    NO_PAGE,
    PRESENT,
    SWAPPED,
    fails_on_page_ext,
    huge_of,
    is_huge,
    page_of,
    place,
    told,
    uffd_wp,
)

# Without EVENT_REMAP: the userfaultfd is not told, so it loses the range.
FEATURES = ("PAGEFAULT_FLAG_WP", "WP_UNPOPULATED")


def gone_after_mremap(a, at, length, swapped):
    """Protect, perhaps swap out, move: every bit was set, none is."""
    pages = length // page_of(a)
    a.uffd_register(at, length, FEATURES)
    a.uffd_writeprotect(at, length, True)
    assert all(uffd_wp(a, at, pages))
    if swapped:
        a.madvise(at, length, "PAGEOUT")
        assert told(a, SWAPPED, at, pages) == [True] * pages
        assert told(a, PRESENT, at, pages) == [False] * pages
        assert all(uffd_wp(a, at, pages))
    to = place(1)
    a.mremap(at, length, length, to)
    assert not any(uffd_wp(a, to, pages))
    assert not any(uffd_wp(a, at, pages))
    # Nor does it come back with the pages.
    a.read(to, length)
    assert not any(uffd_wp(a, to, pages))
    a.write(to, length)


@fails_on_page_ext(NO_PAGE, swapped=[True])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("memory", ["private", "shared"])
@pytest.mark.parametrize("pages", [1, 7])
def test_base_pages(new, memory, swapped, pages):
    a = new()
    at, length = place(), pages * page_of(a)
    a.mmap(at, length, "rw", f"{memory}|anonymous")
    a.write(at, length)
    gone_after_mremap(a, at, length, swapped)


@fails_on_page_ext(NO_PAGE, swapped=[True])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_huge_page(new, swapped, whole):
    """Private; swapped out by page, or whole (THP_SWAP)."""
    a = new(thp_swap=whole)
    at, huge = place(), huge_of(a)
    a.mmap(at, huge)
    a.madvise(at, huge, "HUGEPAGE")
    a.write(at, huge)
    assert is_huge(a, at)
    gone_after_mremap(a, at, huge, swapped)


def test_a_table_of_pages_that_would_move_whole(new):
    """A table is not moved as it is where its bits must go."""
    a = new()
    at, huge = place(), huge_of(a)
    a.mmap(at, huge)
    a.write(at, huge)
    gone_after_mremap(a, at, huge, False)


@fails_on_page_ext(NO_PAGE, swapped=[True])
@pytest.mark.parametrize("swapped", [False, True])
def test_with_the_event_it_stays(new, swapped):
    """The counterpart: EVENT_REMAP takes userfaultfd and bits along."""
    a = new()
    at, length = place(), 4 * page_of(a)
    a.mmap(at, length)
    a.write(at, length)
    a.uffd_register(at, length, (*FEATURES, "EVENT_REMAP"))
    a.uffd_writeprotect(at, length, True)
    if swapped:
        a.madvise(at, length, "PAGEOUT")
    a.mremap(at, length, length, place(1))
    assert all(uffd_wp(a, place(1), 4))
