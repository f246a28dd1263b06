"""tools/testing/selftests/mm/pagemap_ioctl.c: PAGEMAP_SCAN's answers and what it
protects. The case's names are in docs/kernel-cases.md."""

import errno
import itertools

import numpy as np
import pytest
from cases import (
    NO_PAGE,
    fails_on_page_ext,
    huge_of,
    is_huge,
    page_of,
    place,
    regions,
    track,
    uffd_wp,
    written,
)

ALL = "WPALLOWED|WRITTEN|FILE|PRESENT|SWAPPED|PFNZERO|HUGE|SOFT_DIRTY"
WP = "WP_MATCHING|CHECK_WPASYNC"

# Of the base tests: what is mapped, how many pages, and whether of huge ones.
KINDS = {
    "page": ("private|anonymous", False, 1),
    "pages": ("private|anonymous", False, 10),
    "many pages": ("private|anonymous", False, 1500),
    "huge page": ("private|anonymous", True, 0),
    "shared anonymous": ("shared|anonymous", False, 10),
    "file": ("shared|file", False, 10),
    "private file": ("private|file", False, 10),
}


def mapped(a, pages, flags="private|anonymous", *, number=0, huge=False, prot="rw"):
    """Map pages and track them from the start; return where."""
    at = place(number)
    a.mmap(at, pages * page_of(a), prot, flags)
    if huge:
        a.madvise(at, pages * page_of(a), "HUGEPAGE")
    track(a, at, pages)
    return at


def write(a, at, pages):
    """Write some pages, numbered from `at`."""
    for i in pages:
        a.write(at + i * page_of(a))


def members(found):
    """Return the pages of regions."""
    return list(itertools.chain.from_iterable(range(*one) for one in found))


def scan(a, at, pages, **arguments):
    """Return regions with their categories."""
    page = page_of(a)
    found, _end = a.pagemap_scan(at, at + pages * page, **arguments)
    return [((int(s) - at) // page, (int(e) - at) // page, int(c)) for s, e, c in found]


# -- userfaultfd ------------------------------------------------------------


@fails_on_page_ext(NO_PAGE)
def test_userfaultfd(new):
    """What is protected is not written, whatever may be done with its parts."""
    a = new()
    page = page_of(a)
    at = place()
    a.mmap(at, 10 * page, "none")
    a.uffd_register(at, 10 * page, ("WP_ASYNC",))
    for first, pages, prot in ((0, 2, "r"), (2, 4, "rw"), (6, 1, "none"), (7, 3, "rw")):
        a.mprotect(at + first * page, pages * page, prot)
    a.uffd_writeprotect(at, 10 * page, True)
    assert written(a, at, 10) == []


# -- sanity_tests_sd --------------------------------------------------------


@fails_on_page_ext(NO_PAGE)
@pytest.mark.parametrize(
    ("flags", "masks", "code"),
    [
        # A flag that is none, and beside one that is.
        (1 << 4, {"category_mask": "WRITTEN"}, errno.EINVAL),
        (1 | 1 << 20, {"category_mask": "WRITTEN"}, errno.EINVAL),
        # A category that is none, in each of the masks, and beside one that is.
        (0, {"category_mask": 1 << 12}, errno.EINVAL),
        (0, {"category_anyof_mask": 1 << 12}, errno.EINVAL),
        (0, {"category_inverted": 1 << 12}, errno.EINVAL),
        (0, {"return_mask": 1 << 12}, errno.EINVAL),
        (0, {"return_mask": 1 << 12 | 2}, errno.EINVAL),
        # No mask to choose by, and none to return: all pages, no categories.
        (0, {"return_mask": "WRITTEN"}, 0),
        (0, {"category_mask": "WRITTEN"}, 0),
        # All of them go with WP_MATCHING.
        ("WP_MATCHING", {"category_mask": "WRITTEN", "return_mask": ALL}, 0),
    ],
)
def test_arguments(new, flags, masks, code):
    a = new()
    at = mapped(a, 3)
    write(a, at, [1])
    if not code:
        a.pagemap_scan(at, at + 3 * page_of(a), flags, **masks)
        return
    with pytest.raises(OSError, match="unknown") as refused:
        a.pagemap_scan(at, at + 3 * page_of(a), flags, **masks)
    assert refused.value.errno == code
    assert written(a, at, 3) == [(1, 2)]


@fails_on_page_ext(NO_PAGE)
def test_ranges(new):
    """Nothing is a range; one may have no output; a start is a page's, none ends
    before it begins."""
    a = new()
    page = page_of(a)
    at = mapped(a, 3)
    assert regions(a, at, 0, return_mask="WRITTEN") == ([], 0)
    assert regions(a, at, 0, flags="WP_MATCHING", vec_len=0) == ([], 0)
    assert regions(a, at, 3, return_mask="WRITTEN", vec_len=0)[0] == []
    for start, end, code in (
        (at + 1, at + page, errno.EINVAL),
        (at + page, at, errno.EFAULT),
        (at, 1 << 63, errno.EFAULT),
    ):
        with pytest.raises(OSError, match="Errno") as refused:
            a.pagemap_scan(start, end)
        assert refused.value.errno == code


@fails_on_page_ext(NO_PAGE)
def test_more_room_than_pages(new):
    a = new()
    at = mapped(a, 100)
    write(a, at, range(100))
    assert written(a, at, 100, reset=True, vec_len=1000) == [(0, 100)]
    assert written(a, at, 100) == []


@fails_on_page_ext(NO_PAGE)
def test_every_second_page(new):
    """A region each, at once, in parts, and with max_pages."""
    a = new()
    at = mapped(a, 200)
    write(a, at, range(0, 200, 2))
    found = written(a, at, 200)
    assert found == [(i, i + 1) for i in range(0, 200, 2)]
    # In parts, by the room there is, and going on where the walk has stopped.
    parts, first = [], 0
    while first < 200:
        one, end = regions(
            a,
            at + first * page_of(a),
            200 - first,
            flags=WP,
            category_mask="WRITTEN",
            return_mask="WRITTEN",
            vec_len=33,
        )
        assert len(one) <= 33
        parts += [(s + first, e + first) for s, e in one]
        first += end
    assert parts == found
    assert written(a, at, 200) == []
    write(a, at, range(0, 200, 2))
    got = written(a, at, 200, reset=True, max_pages=50)
    assert got == found[:50]
    assert written(a, at, 200) == found[50:]


@fails_on_page_ext(NO_PAGE)
def test_two_regions(new):
    a = new()
    at = mapped(a, 10)
    write(a, at, [0, 1, 2, 3, 8, 9])
    assert written(a, at, 10) == [(0, 4), (8, 10)]


@fails_on_page_ext(NO_PAGE)
@pytest.mark.parametrize("limit", [{"max_pages": 3}, {"vec_len": 1}])
def test_less_than_there_is(new, limit):
    """Smaller max_pages, smaller vec: the rest is left for the next scan."""
    a = new()
    at = mapped(a, 10)
    write(a, at, [0, 1, 2, 3, 4, 7, 8])
    found = written(a, at, 10, reset=True, **limit)
    assert found == ([(0, 3)] if "max_pages" in limit else [(0, 5)])
    rest = {0, 1, 2, 3, 4, 7, 8}.difference(members(found))
    assert members(written(a, at, 10)) == sorted(rest)


# -- walk_end ---------------------------------------------------------------

PAGES = 8
WHOLE = range(PAGES)
SPARSE = range(0, PAGES, 2)


@fails_on_page_ext(NO_PAGE)
@pytest.mark.parametrize(
    ("pages", "limit", "end"),
    [
        # Same start and end: with and without WP, with and without output.
        (WHOLE, {"end": 0}, 0),
        (WHOLE, {"end": 0, "flags": WP}, 0),
        (WHOLE, {"end": 0, "vec_len": 0}, 0),
        # All written: one region. It may go on where the vec is full.
        (WHOLE, {"vec_len": 100}, 8),
        (WHOLE, {"vec_len": 1}, 8),
        (WHOLE, {"max_pages": 8}, 8),
        (WHOLE, {"max_pages": 4}, 4),
        (WHOLE, {"max_pages": 1}, 1),
        (WHOLE, {"max_pages": 100}, 8),
        # Every second one: the walk stops at the first that has no room.
        (SPARSE, {"vec_len": 100}, 8),
        (SPARSE, {"vec_len": 1}, 2),
        (SPARSE, {"vec_len": 2}, 4),
        (SPARSE, {"vec_len": 4}, 8),
        (SPARSE, {"max_pages": 4}, 8),
        (SPARSE, {"max_pages": 2}, 4),
        (SPARSE, {"max_pages": 1}, 2),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_walk_end(new, pages, limit, end):
    a = new()
    at = mapped(a, PAGES)
    write(a, at, pages)
    limit = dict(limit)
    asked = limit.pop("end", PAGES)
    found, walked = regions(
        a, at, asked, category_mask="WRITTEN", return_mask="WRITTEN", **limit
    )
    assert walked == end
    # All that matches before the walk's end is told, and nothing after it.
    assert members(found) == [p for p in pages if p < end]


# -- base tests, of every kind of memory ------------------------------------


@pytest.fixture(params=KINDS)
def kind(request, new):
    """An address space, a place and how many pages of a kind are tracked there."""
    flags, huge, pages = KINDS[request.param]
    a = new()
    if huge:
        pages = 2 * huge_of(a) // page_of(a)
    return a, mapped(a, pages, flags, huge=huge), pages


@fails_on_page_ext(NO_PAGE)
def test_base_new_pages_are_not_written(kind):
    a, at, pages = kind
    assert written(a, at, pages) == []


@fails_on_page_ext(NO_PAGE)
def test_base_all_pages_written(kind):
    a, at, pages = kind
    a.write(at, pages * page_of(a))
    assert written(a, at, pages) == [(0, pages)]


@fails_on_page_ext(NO_PAGE)
def test_base_all_but_the_first_and_the_last(kind):
    a, at, pages = kind
    a.write(at, pages * page_of(a))
    a.uffd_writeprotect(at, pages * page_of(a), True)
    if pages > 2:
        a.write(at + page_of(a), (pages - 2) * page_of(a))
    assert written(a, at, pages) == ([(1, pages - 1)] if pages > 2 else [])


@fails_on_page_ext(NO_PAGE)
def test_base_protect_what_matches(kind):
    a, at, pages = kind
    a.write(at, pages * page_of(a))
    assert written(a, at, pages, reset=True) == [(0, pages)]
    assert written(a, at, pages) == []
    assert all(uffd_wp(a, at, pages))


@fails_on_page_ext(NO_PAGE)
@pytest.mark.parametrize("width", [1, 2])
def test_base_only_the_middle(kind, width):
    """One page, or two, in the middle; a huge page is split for them."""
    a, at, pages = kind
    a.write(at, pages * page_of(a))
    written(a, at, pages, reset=True)
    middle = pages // 2
    last = min(pages, middle + width)
    write(a, at, range(middle, last))
    assert written(a, at, pages) == [(middle, last)]


# -- huge pages -------------------------------------------------------------


@pytest.fixture
def huge(new):
    """A huge page that is tracked: address space, place, pages."""
    a = new()
    pages = huge_of(a) // page_of(a)
    return a, mapped(a, pages, huge=True), pages


@fails_on_page_ext(NO_PAGE)
def test_huge_new_is_not_written(huge):
    a, at, pages = huge
    assert written(a, at, pages) == []


@fails_on_page_ext(NO_PAGE)
def test_huge_written_and_cleared(huge):
    """Never unpopulated, it is mapped whole; protected and seen as one."""
    a, at, pages = huge
    a.uffd_writeprotect(at, pages * page_of(a), False)
    a.madvise(at, pages * page_of(a), "DONTNEED")
    a.write(at, pages * page_of(a))
    assert written(a, at, pages) == [(0, pages)]
    assert written(a, at, pages, reset=True) == [(0, pages)]
    assert written(a, at, pages) == []


@pytest.fixture
def whole(new):
    """A huge page that is mapped as one, all of it written and tracked since."""
    a = new()
    pages = huge_of(a) // page_of(a)
    at = place()
    a.mmap(at, huge_of(a))
    a.madvise(at, huge_of(a), "HUGEPAGE")
    a.write(at, huge_of(a))
    a.uffd_register(at, huge_of(a), ("WP_ASYNC",))
    assert is_huge(a, at)
    return a, at, pages


def test_huge_reset_leaves_it_whole(whole):
    a, at, pages = whole
    assert written(a, at, pages, reset=True) == [(0, pages)]
    assert is_huge(a, at)
    assert written(a, at, pages) == []


def test_huge_only_the_middle_page(whole):
    a, at, pages = whole
    written(a, at, pages, reset=True)
    write(a, at, [pages // 2])
    assert written(a, at, pages) == [(pages // 2, pages // 2 + 1)]
    assert not is_huge(a, at)


@pytest.mark.parametrize("limited", [False, True])
def test_huge_clear_the_first_half(whole, limited):
    """By the range asked for, or because there is no room for more: it is split."""
    a, at, pages = whole
    half = pages // 2
    if limited:
        found = written(a, at, pages, reset=True, max_pages=half)
    else:
        found = written(a, at, half, reset=True)
    assert found == [(0, half)]
    assert not is_huge(a, at)
    assert written(a, at, pages) == [(half, pages)]


def test_huge_clear_the_second_half(whole):
    a, at, pages = whole
    half = pages // 2
    second = at + half * page_of(a)
    assert written(a, second, half, reset=True) == [(0, half)]
    assert written(a, at, pages) == [(0, half)]


def test_huge_get_half(whole):
    """A scan that only looks tells of the half asked for and splits nothing."""
    a, at, pages = whole
    half = pages // 2
    assert written(a, at, half) == [(0, half)]
    assert written(a, at, pages, max_pages=half) == [(0, half)]
    assert is_huge(a, at)


# -- holes ------------------------------------------------------------------


@fails_on_page_ext(NO_PAGE)
def test_unmapped_region(new):
    """A scan over what is not mapped succeeds, and finds what is around it."""
    a = new()
    page = page_of(a)
    at = place()
    assert regions(a, at, 100, return_mask=ALL) == ([], 100)
    mapped(a, 10)
    write(a, at, range(10))
    a.munmap(at + 3 * page, 4 * page)
    assert written(a, at, 100) == [(0, 3), (7, 10)]
    assert regions(a, at + 3 * page, 4, return_mask=ALL) == ([], 4)
    assert written(a, at, 100, reset=True) == [(0, 3), (7, 10)]
    assert written(a, at, 100) == []


# -- test_simple, sanity_tests ----------------------------------------------


@fails_on_page_ext(NO_PAGE)
def test_simple(new):
    a = new()
    at = mapped(a, 1)
    for _ in range(20):
        assert written(a, at, 1) == []
        a.write(at)
        assert written(a, at, 1) == [(0, 1)]
        a.uffd_writeprotect(at, page_of(a), True)


@fails_on_page_ext(NO_PAGE)
def test_protect_what_is_not_written(new):
    """WP_MATCHING goes with masks that ask for pages not written: nothing changes."""
    a = new()
    at = mapped(a, 6)
    write(a, at, [1, 4])
    masks = {"category_inverted": "WRITTEN", "category_mask": "WRITTEN"}
    found = regions(a, at, 6, flags=WP, return_mask="WRITTEN", **masks)[0]
    assert found == [(0, 1), (2, 4), (5, 6)]
    assert written(a, at, 6) == [(1, 2), (4, 5)]


@pytest.fixture
def some(new):
    """Ten pages tracked: 0-4 there, 5-9 not; 0, 1 and 9 written."""
    a = new()
    at = place()
    a.mmap(at, 10 * page_of(a))
    a.write(at, 5 * page_of(a))
    track(a, at, 10)
    write(a, at, [0, 1, 9])
    return a, at


@fails_on_page_ext(NO_PAGE)
@pytest.mark.parametrize(
    ("masks", "found"),
    [
        # Required, any of, excluded, and both of the first two.
        ({"category_mask": "WRITTEN"}, [0, 1, 9]),
        ({"category_anyof_mask": "WRITTEN"}, [0, 1, 9]),
        ({"category_mask": "PRESENT|WRITTEN"}, [0, 1, 9]),
        ({"category_anyof_mask": "PRESENT|WRITTEN"}, [0, 1, 2, 3, 4, 9]),
        (
            {"category_mask": "PRESENT", "category_anyof_mask": "PRESENT|WRITTEN"},
            [0, 1, 2, 3, 4, 9],
        ),
        (
            {"category_inverted": "WRITTEN", "category_mask": "WRITTEN"},
            [2, 3, 4, 5, 6, 7, 8],
        ),
        (
            {"category_inverted": "PRESENT", "category_mask": "PRESENT"},
            [5, 6, 7, 8],
        ),
        (
            {"category_inverted": "WRITTEN", "category_mask": "WRITTEN|PRESENT"},
            [2, 3, 4],
        ),
        ({}, list(range(10))),
    ],
)
def test_masks(some, masks, found):
    a, at = some
    assert members(regions(a, at, 10, **masks)[0]) == found


@fails_on_page_ext(NO_PAGE)
def test_return_mask(some):
    """Categories that are not asked for are not told, and part no regions."""
    a, at = some
    assert regions(a, at, 10) == ([(0, 10)], 10)
    both = scan(a, at, 10, category_mask="WRITTEN", return_mask="WRITTEN|PRESENT")
    assert [c for _s, _e, c in both] == [2 | 8, 2 | 8]
    assert scan(a, at, 10, category_mask="WRITTEN", return_mask="PRESENT") == [
        (0, 2, 8),
        (9, 10, 8),
    ]


@fails_on_page_ext(NO_PAGE)
@pytest.mark.parametrize("flags", ["shared|file", "shared|anonymous", "private|file"])
def test_mapped_file(new, flags):
    """Of a file and of shared memory: FILE is told, and writes are seen."""
    a = new()
    at = mapped(a, 10, flags)
    write(a, at, [2, 3])
    assert written(a, at, 10, reset=True) == [(2, 4)]
    assert written(a, at, 10) == []
    write(a, at, [3])
    assert written(a, at, 10) == [(3, 4)]
    own = flags == "private|file"
    found = scan(a, at, 10, category_mask="PRESENT", return_mask="FILE|PRESENT")
    assert found == [(2, 4, 8 if own else 8 | 4)]


@fails_on_page_ext(NO_PAGE)
def test_the_kernel_writes_to_memory(new):
    """As read(2) into it does: a fault by the kernel takes the protection off, too."""
    a = new()
    at = mapped(a, 10)
    a.madvise(at + 4 * page_of(a), 2 * page_of(a), "POPULATE_WRITE")
    assert written(a, at, 10) == [(4, 6)]
    a.madvise(at, 10 * page_of(a), "POPULATE_READ")
    assert written(a, at, 10) == [(4, 6)]


# -- mprotect ---------------------------------------------------------------


@fails_on_page_ext(NO_PAGE)
@pytest.mark.parametrize("memory", ["private|anonymous", "shared|file"])
def test_mprotect(new, memory):
    """A page mapped anew, read-only and back: what is written is still told."""
    a = new()
    page = page_of(a)
    at = mapped(a, 2, memory)
    write(a, at, [0, 1])
    assert written(a, at, 2, reset=True) == [(0, 2)]
    assert written(a, at, 2) == []
    a.munmap(at + page, page)
    a.mmap(at + page, page, "rw", memory)
    a.uffd_register(at + page, page, ("WP_ASYNC",))
    for prot in ("none", "r", "rw"):
        a.mprotect(at, 2 * page, prot)
    write(a, at, [0, 1])
    assert written(a, at, 2, reset=True) == [(0, 2)]
    for prot in ("r", "rw", "none", "rw"):
        a.mprotect(at, 2 * page, prot)
        assert written(a, at, 2) == []
    write(a, at, [1])
    assert written(a, at, 2) == [(1, 2)]


# -- transact ---------------------------------------------------------------


@fails_on_page_ext(NO_PAGE)
def test_transact(new):
    """No write is lost: a reset tells of all written before it, the next one of none
    of those, and two of them together of every write, wherever the first falls."""
    a = new()
    writers, pages_each = 6, 8
    pages = writers * pages_each
    at = mapped(a, pages)
    a.write(at, pages * page_of(a))
    assert written(a, at, pages, reset=True) == [(0, pages)]
    assert written(a, at, pages, reset=True) == []
    rng = np.random.default_rng(1)
    for _ in range(20):
        # The writers' pages in the order in which they come to write them.
        order = rng.permutation(pages).tolist()
        cut = int(rng.integers(0, pages))
        write(a, at, order[:cut])
        first = written(a, at, pages, reset=True)
        write(a, at, order[cut:])
        second = written(a, at, pages, reset=True)
        assert members(first) == sorted(order[:cut])
        assert members(second) == sorted(order[cut:])
        assert written(a, at, pages) == []


# -- the page of zeros ------------------------------------------------------


def test_zeropfn(new):
    """What was only read is the page of zeros, what is written is not."""
    a = new()
    page = page_of(a)
    at = place()
    a.mmap(at, 10 * page)
    a.read(at, 10 * page)
    assert regions(a, at, 10, category_mask="PFNZERO") == ([(0, 10)], 10)
    write(a, at, [4])
    assert regions(a, at, 10, category_mask="PFNZERO")[0] == [(0, 4), (5, 10)]
    # Tracked and protected it is still that page.
    track(a, at, 10)
    assert regions(a, at, 10, category_mask="PFNZERO")[0] == [(0, 4), (5, 10)]


def test_huge_zeropfn(new):
    """So is the huge page of zeros, all of it."""
    a = new()
    pages = huge_of(a) // page_of(a)
    at = place()
    a.mmap(at, huge_of(a))
    a.madvise(at, huge_of(a), "HUGEPAGE")
    a.read(at)
    found = regions(a, at, pages, category_mask="PFNZERO|HUGE|PRESENT")
    assert found == ([(0, pages)], pages)
    a.write(at)
    assert regions(a, at, pages, category_mask="PFNZERO")[0] == []
