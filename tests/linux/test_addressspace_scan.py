"""PAGEMAP_SCAN over the model: categories, masks, limits, protection; over each
encoding. The addresses are in pages from A."""

import numpy as np
import pytest
from spaces import ENCODINGS, PAGE, PMD, A, make, shown

import extmeta as em

ALL = "WPALLOWED|WRITTEN|FILE|PRESENT|SWAPPED|PFNZERO|HUGE"


@pytest.fixture(params=ENCODINGS)
def space(request):
    """Sixteen pages tracked by WP_ASYNC and protected; 1, 3 and 9 written."""
    a = make(request.param)
    a.mmap(A, 16 * PAGE)
    a.write(A, 6 * PAGE)
    a.read(A + 7 * PAGE)
    a.clear_refs()
    a.uffd_register(A, 16 * PAGE)
    a.uffd_writeprotect(A, 16 * PAGE, True)
    for page in (1, 3, 9):
        a.write(A + page * PAGE)
    yield a
    a.table.check()


def scan(a, first=0, stop=16, **arguments):
    """Return regions as (first, stop, categories), and walk_end, in pages."""
    regions, end = a.pagemap_scan(A + first * PAGE, A + stop * PAGE, **arguments)
    rows = [((int(s) - A) // PAGE, (int(e) - A) // PAGE, int(c)) for s, e, c in regions]
    return rows, (end - A) // PAGE


def test_what_is_written(space):
    found = scan(space, category_mask="WRITTEN", return_mask=ALL)
    assert found == ([(1, 2, 0xB), (3, 4, 0xB), (9, 10, 0xB)], 16)


def test_all_categories(space):
    found, _end = scan(space, return_mask=ALL)
    assert found == [
        *((0, 1, 0x9), (1, 2, 0xB), (2, 3, 0x9), (3, 4, 0xB), (4, 6, 0x9)),
        *((6, 7, 0x11), (7, 8, 0x29), (8, 9, 0x11), (9, 10, 0xB), (10, 16, 0x11)),
    ]


def test_soft_dirty_of_pages_and_of_a_new_mapping(space):
    wanted = {"category_mask": "SOFT_DIRTY", "return_mask": "SOFT_DIRTY"}
    assert scan(space, **wanted)[0] == [(1, 2, 128), (3, 4, 128), (9, 10, 128)]
    space.mmap(A + 12 * PAGE, 2 * PAGE, "r")
    assert scan(space, **wanted)[0][-1] == (12, 14, 128)


def test_masks(space):
    inverted = {"category_inverted": "PRESENT", "category_mask": "PRESENT"}
    assert scan(space, **inverted)[0] == [(6, 7, 0), (8, 9, 0), (10, 16, 0)]
    anyof = {"category_anyof_mask": "PFNZERO|WRITTEN", "return_mask": "PFNZERO"}
    found = [(1, 2, 0), (3, 4, 0), (7, 8, 32), (9, 10, 0)]
    assert scan(space, **anyof)[0] == found
    both = {"category_mask": "SWAPPED", "category_anyof_mask": "PRESENT"}
    assert scan(space, **both) == ([], 16)
    # As bits.
    assert scan(space, category_mask=2, return_mask=2)[0][0] == (1, 2, 2)


def test_protect_what_was_written(space):
    flags = {"flags": "WP_MATCHING|CHECK_WPASYNC", "category_mask": "WRITTEN"}
    assert len(scan(space, **flags)[0]) == 3
    assert scan(space, **flags) == ([], 16)
    assert "X" in shown(space, A + PAGE, 1)
    assert shown(space, A + PAGE, 1) == "PWXD"


def test_markers_only_where_asked(space):
    space.madvise(A + 10 * PAGE, 6 * PAGE, "DONTNEED")
    scan(space, flags="WP_MATCHING", category_mask="WRITTEN|PRESENT")
    assert shown(space, A + 10 * PAGE, 6) == "- - - - - -"
    scan(space, flags="WP_MATCHING", category_mask="WRITTEN")
    assert shown(space, A + 10 * PAGE, 6) == "SW SW SW SW SW SW"


def test_without_output_masks_are_not_looked_at(space):
    """As Linux has it: PM_SCAN_WP_MATCHING without a vec."""
    space.madvise(A + 10 * PAGE, 6 * PAGE, "DONTNEED")
    space.pagemap_scan(
        A, A + 16 * PAGE, "WP_MATCHING", category_mask="PFNZERO", vec_len=0
    )
    assert scan(space, category_mask="WRITTEN") == ([], 16)


def test_limits(space):
    written = {"category_mask": "WRITTEN", "return_mask": "WRITTEN"}
    # The walk goes on to the next one that it has no room for.
    assert scan(space, max_pages=1, **written) == ([(1, 2, 2)], 3)
    assert scan(space, vec_len=2, **written) == ([(1, 2, 2), (3, 4, 2)], 9)
    assert scan(space, max_pages=3, **written)[1] == 16
    got = scan(space, flags="WP_MATCHING", max_pages=2, **written)
    assert got == ([(1, 2, 2), (3, 4, 2)], 9)
    assert scan(space, **written) == ([(9, 10, 2)], 16)


def test_max_pages_cuts_a_region(space):
    assert scan(space, category_mask="SWAPPED", max_pages=4)[0][-1] == (10, 12, 0)
    assert scan(space, category_mask="SWAPPED", max_pages=4)[1] == 12


def test_every_second_page_and_more_than_a_buffer(space):
    space.uffd_unregister(A, 16 * PAGE)
    space.mmap(A, 2200 * PAGE)
    for page in range(0, 2200, 2):
        space.write(A + page * PAGE)
    wanted = {"category_mask": "PRESENT", "return_mask": "PRESENT"}
    found, end = scan(space, stop=2200, **wanted)
    assert found == [(i, i + 1, 8) for i in range(0, 2200, 2)]
    # Linux leaves walk_end where its buffer of 512 regions was full.
    assert end == 2048
    assert scan(space, stop=1000, **wanted)[1] == 1000


def test_holes_have_no_category(space):
    a = make("linked")
    a.mmap(A, 16 * PAGE)
    a.clear_refs()
    # No PTE table: not even written. With one: written.
    assert scan(a, category_mask="WRITTEN") == ([], 16)
    a.read(A)
    assert scan(a, category_mask="WRITTEN")[0] == [(0, 16, 0)]
    a.madvise(A, 16 * PAGE, "DONTNEED")
    assert scan(a, category_mask="WRITTEN")[0] == [(0, 16, 0)]
    a.munmap(A, 16 * PAGE)
    assert scan(a) == ([], 16)


def test_not_tracked_is_passed_over_or_refused(space):
    space.uffd_unregister(A + 2 * PAGE, 2 * PAGE)
    written = {"category_mask": "WRITTEN"}
    got, _end = scan(space, flags="WP_MATCHING", **written)
    assert got == [(1, 2, 0), (9, 10, 0)]
    space.write(A)
    with pytest.raises(OSError, match="not WP_ASYNC") as refused:
        scan(space, flags="WP_MATCHING|CHECK_WPASYNC", **written)
    assert refused.value.errno == 1
    # What came before is protected.
    assert shown(space, A, 1) == "PWXD"


def test_only_where_protection_is_allowed(space):
    space.uffd_unregister(A + 8 * PAGE, 8 * PAGE)
    assert scan(space, category_mask="WPALLOWED")[0] == [(0, 8, 0)]


def test_a_huge_page(space):
    a = make(space.table.encoding.__class__())
    a.mmap(A, 2 * PMD)
    a.madvise(A, 2 * PMD, "HUGEPAGE")
    a.write(A, 2 * PMD)
    a.uffd_register(A, 2 * PMD)
    wanted = {"category_mask": "WRITTEN", "return_mask": "WRITTEN|HUGE"}
    assert scan(a, stop=1024, **wanted)[0] == [(0, 1024, 0x42)]
    assert scan(a, stop=512, flags="WP_MATCHING", **wanted)[0] == [(0, 512, 0x42)]
    # Whole, it stays; in part, it is split and its pages are told one by one.
    assert scan(a, stop=512, return_mask="HUGE|WRITTEN")[0] == [(0, 512, 0x40)]
    half = scan(a, 512, 768, flags="WP_MATCHING", **wanted)[0]
    assert half == [(512, 768, 2)]
    assert scan(a, 512, 1024, **wanted)[0] == [(768, 1024, 2)]
    few = scan(a, stop=1024, flags="WP_MATCHING", max_pages=100, **wanted)
    assert few == ([(768, 868, 2)], 868)
    a.table.check()


def test_a_part_of_a_huge_page_is_not_joined_to_what_is_before(space):
    """What was reported for the whole is taken back, and starts anew."""
    a = make("linked")
    a.mmap(A, 2 * PMD)
    a.uffd_register(A, 2 * PMD)
    a.write(A, PMD)
    a.madvise(A, 2 * PMD, "HUGEPAGE")
    a.write(A + PMD)
    wanted = {"category_mask": "WRITTEN", "return_mask": "WRITTEN|HUGE"}
    got = scan(a, 500, 600, flags="WP_MATCHING", **wanted)[0]
    assert got == [(500, 512, 2), (512, 600, 2)]


def test_regions_are_an_array():
    a = em.AddressSpace(em.Fields(uffd_wp=1))
    a.mmap(A, PAGE)
    a.write(A)
    regions, end = a.pagemap_scan(A, A + PAGE, category_mask="PRESENT")
    assert regions.dtype.names == ("start", "end", "categories")
    assert regions["end"].tolist() == [end] == [A + PAGE]
    assert np.issubdtype(regions["start"].dtype, np.uint64)


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ((A + 1, A + PAGE), 22),
        ((A + PAGE, A), 14),
        ((A, 1 << 48), 14),
        ((A, A + PAGE, 4), 22),
        ((A, A + PAGE, 0, 0, 1 << 9), 22),
    ],
)
def test_errors(space, arguments, number):
    with pytest.raises(OSError, match=r"is no|is not|unknown") as refused:
        space.pagemap_scan(*arguments)
    assert refused.value.errno == number


def test_guards_are_known_since_6_15():
    a = make("linked", release="6.12.117")
    with pytest.raises(OSError, match="unknown"):
        a.pagemap_scan(A, A + PAGE, category_mask="GUARD")
    make("linked").pagemap_scan(A, A + PAGE, category_mask="GUARD")


def test_the_end_is_rounded_up_and_nothing_may_be_asked(space):
    assert space.pagemap_scan(A, A + 1, return_mask=1)[1] == A + PAGE
    assert space.pagemap_scan(A, A)[1] == A
