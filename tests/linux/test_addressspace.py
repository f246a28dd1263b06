"""What Linux does to uffd-wp and soft-dirty, rule by rule, over each encoding.

The text of pages is what pagemap says: P present, S swapped or a marker, F of a
file or shared, W uffd-wp, X mapped once, D soft-dirty. The rules without a number
are those of docs/semantics.md, in its order.
"""

import numpy as np
import pytest
from spaces import ENCODINGS, FIELDS, PAGE, PMD, A, B, make, shown, tidy, unprotect

import extmeta as em

ASYNC = ("WP_ASYNC", "WP_UNPOPULATED")
WITH_EVENTS = ("WP_ASYNC", "EVENT_FORK", "EVENT_REMAP")


@pytest.fixture(params=ENCODINGS)
def encoding(request):
    return request.param


@pytest.fixture
def space(encoding):
    """Eight anonymous pages, the first four written, the fifth read; clean."""
    a = make(encoding)
    a.mmap(A, 8 * PAGE)
    a.write(A, 4 * PAGE)
    a.read(A + 4 * PAGE)
    a.clear_refs()
    yield a
    tidy(a)


@pytest.fixture
def shared(encoding):
    """The same, of shared memory."""
    a = make(encoding)
    a.mmap(A, 8 * PAGE, "rw", "shared|anonymous")
    a.write(A, 4 * PAGE)
    a.clear_refs()
    yield a
    tidy(a)


@pytest.fixture
def huge(encoding):
    """Two huge pages, the first written."""
    a = make(encoding)
    a.mmap(A, 2 * PMD)
    a.madvise(A, 2 * PMD, "HUGEPAGE")
    a.write(A)
    a.clear_refs()
    yield a
    tidy(a)


def is_huge(a, addr=A):
    regions, _end = a.pagemap_scan(
        addr, addr + PAGE, category_mask="HUGE", return_mask="HUGE"
    )
    return len(regions) == 1


# -- soft-dirty -------------------------------------------------------------


def test_a_new_mapping_is_soft_dirty_until_cleared(encoding):
    a = make(encoding)
    a.mmap(A, 2 * PAGE)
    assert shown(a, A, 3) == "D D -"
    a.clear_refs()
    assert shown(a, A, 2) == "- -"
    # And again at the same place.
    a.munmap(A, 2 * PAGE)
    a.mmap(A, 2 * PAGE)
    assert shown(a, A, 2) == "D D"


def test_a_write_makes_soft_dirty_a_read_does_not(space):
    assert shown(space) == "PX PX PX PX P - - -"
    space.read(A, 6 * PAGE)
    assert shown(space) == "PX PX PX PX P P - -"
    space.write(A, PAGE)
    space.write(A + 4 * PAGE, 3 * PAGE)
    assert shown(space) == "PXD PX PX PX PXD PXD PXD -"


def test_populate_reads_clean_and_writes_dirty(space):
    space.madvise(A, 6 * PAGE, "POPULATE_READ")
    assert shown(space) == "PX PX PX PX P P - -"
    space.madvise(A + 3 * PAGE, 4 * PAGE, "POPULATE_WRITE")
    assert shown(space) == "PX PX PX PXD PXD PXD PXD -"


def test_mprotect_keeps_soft_dirty(space):
    space.write(A)
    for prot in ("r", "rw", "none", "rw"):
        space.mprotect(A, 2 * PAGE, prot)
        assert shown(space, A, 3) == "PXD PX PX"


def test_soft_dirty_lives_in_swap(space):
    space.write(A)
    space.madvise(A, 2 * PAGE, "PAGEOUT")
    assert shown(space, A, 3) == "SD S PX"
    space.read(A, 2 * PAGE)
    assert shown(space, A, 3) == "PXD PX PX"
    space.madvise(A, 2 * PAGE, "PAGEOUT")
    space.clear_refs()
    assert shown(space, A, 3) == "S S PX"
    space.write(A + PAGE)
    assert shown(space, A, 3) == "S PXD PX"


def test_fork_copies_soft_dirty(space):
    space.write(A)
    child = space.fork()
    assert shown(child) == "PD P P P P - - -"
    # Copying on write sets it on one side.
    child.write(A + PAGE)
    assert shown(child) == "PD PXD P P P - - -"
    assert shown(space) == "PD PX P P P - - -"


def test_mremap_forces_soft_dirty(space):
    space.madvise(A + PAGE, PAGE, "PAGEOUT")
    space.mremap(A, 8 * PAGE, 8 * PAGE, B)
    assert shown(space) == "- - - - - - - -"
    assert shown(space, B) == "PXD SD PXD PXD PD - - -"


def test_a_table_moved_whole_is_not_looked_at(encoding):
    """move_normal_pmd(); and not where a userfaultfd's bits must be cleared."""
    a = make(encoding)
    a.mmap(A, PMD)
    a.write(A, PAGE)
    a.clear_refs()
    a.mremap(A, PMD, PMD, B)
    assert shown(a, B, 1) == "PX"
    a.uffd_register(B, PMD)
    a.mremap(B, PMD, PMD, A)
    assert shown(a, A, 1) == "PXD"


def test_without_the_field_there_is_no_tracker():
    a = em.AddressSpace(em.Fields(uffd_wp=1))
    a.mmap(A, 2 * PAGE)
    a.write(A)
    a.clear_refs()
    assert shown(a, A, 2) == "PX -"
    b = em.AddressSpace(em.Fields(soft_dirty=1))
    b.mmap(A, PAGE)
    with pytest.raises(OSError, match="no field uffd_wp"):
        b.uffd_register(A, PAGE)


# -- uffd-wp ----------------------------------------------------------------


def test_protect_and_unprotect(space):
    space.uffd_register(A, 8 * PAGE, ())
    space.uffd_writeprotect(A, 8 * PAGE, True)
    assert shown(space) == "PWX PWX PWX PWX PW - - -"
    space.uffd_writeprotect(A, PAGE, False)
    assert shown(space) == "PX PWX PWX PWX PW - - -"


def test_markers_where_nothing_is(space):
    space.uffd_register(A, 8 * PAGE, ("WP_UNPOPULATED",))
    space.uffd_writeprotect(A, 8 * PAGE, True)
    assert shown(space) == "PWX PWX PWX PWX PW SW SW SW"
    # swap type 31, offset 1
    assert space.pagemap(A + 5 * PAGE, PAGE)[0] == 0x420000000000003F
    space.read(A + 5 * PAGE)
    space.uffd_writeprotect(A + 6 * PAGE, PAGE, False)
    assert shown(space) == "PWX PWX PWX PWX PW PW - SW"


def test_async_a_write_takes_the_bit_off(space):
    space.uffd_register(A, 8 * PAGE, ASYNC)
    space.uffd_writeprotect(A, 8 * PAGE, True)
    for page in (0, 4, 5):
        space.write(A + page * PAGE)
    assert shown(space) == "PXD PWX PWX PWX PXD PXD SW SW"


def test_sync_a_write_waits(space):
    space.uffd_register(A, 8 * PAGE, ("WP_UNPOPULATED",))
    space.uffd_writeprotect(A + PAGE, 7 * PAGE, True)
    with pytest.raises(em.UserFault, match=hex(A + PAGE)) as caught:
        space.write(A, 3 * PAGE)
    assert caught.value.address == A + PAGE
    # What is before it is written; nothing after it.
    assert shown(space, A, 3) == "PXD PWX PWX"
    # At a marker the page comes in, protected: do_anonymous_page().
    with pytest.raises(em.UserFault):
        space.write(A + 6 * PAGE)
    assert shown(space, A + 6 * PAGE, 2) == "PWXD SW"


def test_a_handler_resolves(space):
    seen = []

    def handler(a, address):
        seen.append(address)
        unprotect(a, address)

    space.uffd_register(A, 8 * PAGE, ("WP_UNPOPULATED",), handler=handler)
    space.uffd_writeprotect(A, 8 * PAGE, True)
    space.write(A + PAGE, 6 * PAGE)
    assert seen == [A + i * PAGE for i in range(1, 7)]
    assert shown(space) == "PWX PXD PXD PXD PXD PXD PXD SW"


def test_a_handler_that_does_not_resolve(space):
    space.uffd_register(A, PAGE, (), handler=lambda a, address: None)
    space.uffd_writeprotect(A, PAGE, True)
    with pytest.raises(em.UserFault):
        space.write(A)


def test_mprotect_keeps_uffd_wp(space):
    space.uffd_register(A, 8 * PAGE)
    space.uffd_writeprotect(A, 2 * PAGE, True)
    for prot in ("none", "rw"):
        space.mprotect(A, 2 * PAGE, prot)
        assert shown(space, A, 3) == "PWX PWX PX"


def test_dontneed_drops_anonymous_protection(space):
    space.uffd_register(A, 8 * PAGE)
    space.uffd_writeprotect(A, 8 * PAGE, True)
    space.madvise(A, 6 * PAGE, "DONTNEED")
    space.read(A)
    assert shown(space) == "P - - - - - SW SW"


def test_dontneed_leaves_a_marker_in_shared_memory(shared):
    shared.uffd_register(A, 8 * PAGE, ())
    shared.uffd_writeprotect(A, 6 * PAGE, True)
    # A marker without WP_UNPOPULATED: pages may be in the cache.
    assert shown(shared) == "PFWX PFWX PFWX PFWX SW SW - -"
    shared.madvise(A, 5 * PAGE, "DONTNEED")
    assert shown(shared) == "SW SW SW SW SW SW - -"
    shared.read(A)
    assert shown(shared) == "PFWX SW SW SW SW SW - -"
    shared.uffd_unregister(A, 8 * PAGE)
    assert shown(shared) == "PFX - - - - - - -"


def test_swap_of_shared_memory_leaves_a_marker(shared):
    shared.uffd_register(A, 8 * PAGE)
    shared.uffd_writeprotect(A, 2 * PAGE, True)
    shared.madvise(A, 4 * PAGE, "PAGEOUT")
    assert shown(shared) == "SW SW - - - - - -"
    shared.read(A)
    shared.write(A + PAGE)
    assert shown(shared) == "PFWX PFXD - - - - - -"


def test_uffd_wp_lives_in_swap(space):
    space.uffd_register(A, 8 * PAGE)
    space.uffd_writeprotect(A, 4 * PAGE, True)
    space.madvise(A, 4 * PAGE, "PAGEOUT")
    space.uffd_writeprotect(A + 2 * PAGE, PAGE, False)
    assert shown(space, A, 4) == "SW SW S SW"
    space.read(A)
    space.write(A + PAGE)
    space.read(A + 2 * PAGE)
    space.madvise(A + 3 * PAGE, PAGE, "DONTNEED")
    assert shown(space, A, 4) == "PWX PXD PX -"


def test_fork_without_the_event_takes_protection_off(space):
    space.uffd_register(A, 8 * PAGE)
    space.uffd_writeprotect(A, 8 * PAGE, True)
    space.madvise(A + PAGE, PAGE, "PAGEOUT")
    child = space.fork()
    assert shown(child) == "P S P P P - - -"
    assert shown(space) == "PW SW PW PW PW SW SW SW"
    with pytest.raises(OSError, match="has no userfaultfd"):
        child.uffd_writeprotect(A, PAGE, True)
    tidy(child)


def test_fork_with_the_event_keeps_it(space):
    space.uffd_register(A, 8 * PAGE, WITH_EVENTS)
    space.uffd_writeprotect(A, 8 * PAGE, True)
    child = space.fork()
    assert shown(child) == "PW PW PW PW PW SW SW SW"
    child.write(A)
    assert shown(child, A, 2) == "PXD PW"
    assert shown(space, A, 2) == "PWX PW"
    child.uffd_unregister(A, 8 * PAGE)
    assert shown(child) == "PXD P P P P - - -"


def test_fork_copies_shared_memory_only_for_a_userfaultfd(shared):
    assert shown(shared.fork()) == "- - - - - - - -"
    shared.uffd_register(A, 8 * PAGE, WITH_EVENTS)
    shared.uffd_writeprotect(A, 5 * PAGE, True)
    assert shown(shared.fork()) == "PFW PFW PFW PFW SW - - -"


def test_mremap_without_the_event_takes_protection_off(space):
    space.uffd_register(A, 8 * PAGE)
    space.uffd_writeprotect(A, 8 * PAGE, True)
    space.madvise(A + PAGE, PAGE, "PAGEOUT")
    space.mremap(A, 8 * PAGE, 8 * PAGE, B)
    assert shown(space, B) == "PXD SD PXD PXD PD - - -"
    with pytest.raises(OSError, match="has no userfaultfd"):
        space.uffd_writeprotect(B, PAGE, True)


def test_mremap_with_the_event_keeps_it(space):
    space.uffd_register(A, 8 * PAGE, WITH_EVENTS)
    space.uffd_writeprotect(A, 8 * PAGE, True)
    space.mremap(A, 8 * PAGE, 8 * PAGE, B)
    assert shown(space, B) == "PWXD PWXD PWXD PWXD PWD SWD SWD SWD"
    # A child's marker is a new one: copy_pte_marker().
    assert shown(space.fork(), B) == "PWD PWD PWD PWD PWD SW SW SW"


def test_unregister_takes_all_off(space):
    space.uffd_register(A, 8 * PAGE)
    space.uffd_writeprotect(A, 8 * PAGE, True)
    space.uffd_unregister(A, 2 * PAGE)
    assert shown(space) == "PX PX PWX PWX PW SW SW SW"
    space.uffd_unregister(A, 8 * PAGE)
    assert shown(space) == "PX PX PX PX P - - -"


# -- pages ------------------------------------------------------------------


def test_pages_are_exclusive_when_mapped_once(space):
    child = space.fork()
    child.write(A)
    assert shown(child, A, 2) == "PXD P"
    assert shown(space, A, 2) == "PX P"
    child.exit()
    assert shown(space, A, 2) == "PX PX"


def test_frames_tell_what_is_shared(space):
    child = space.fork()

    def frame(a):
        return int(a.pagemap(A, PAGE, pfns=True)[0]) & (1 << 55) - 1

    before = frame(space)
    assert frame(child) == before != 0
    child.write(A)
    assert frame(child) != before == frame(space)
    # The last one left need not copy.
    space.write(A)
    assert frame(space) == before


def test_a_page_in_swap_that_both_need(space):
    space.madvise(A, 2 * PAGE, "PAGEOUT")
    child = space.fork()
    space.read(A)
    assert shown(space, A, 2) == "PX S"
    child.read(A)
    assert shown(space, A, 2) == shown(child, A, 2) == "P S"
    # One is written before the other side has it from swap: a copy.
    space.write(A + PAGE)
    child.read(A + PAGE)
    assert shown(space, A, 2) == "P PXD"
    assert shown(child, A, 2) == "P PX"


def test_shared_pages_stay_in_memory(space):
    child = space.fork()
    space.madvise(A, 4 * PAGE, "PAGEOUT")
    assert shown(space, A, 4) == "P P P P"
    child.exit()
    space.madvise(A, 4 * PAGE, "PAGEOUT")
    assert shown(space, A, 4) == "S S S S"


def test_zero_pages_of_memory_never_written_are_not_copied(encoding):
    a = make(encoding)
    a.mmap(A, 2 * PAGE)
    a.clear_refs()
    a.read(A)
    assert shown(a.fork(), A, 2) == "- -"


def test_a_read_maps_what_is_in_memory_around_it(shared):
    child = shared.fork()
    child.read(A + 5 * PAGE)
    assert shown(child) == "PF PF PF PF - PFX - -"
    # Not under a userfaultfd.
    child.madvise(A, 8 * PAGE, "DONTNEED")
    child.uffd_register(A, 8 * PAGE)
    child.read(A)
    assert shown(child) == "PF - - - - - - -"


def test_private_files_are_copied_on_write(encoding):
    a = make(encoding)
    a.mmap(A, 4 * PAGE, "rw", "private|file")
    a.clear_refs()
    a.read(A, 3 * PAGE)
    a.write(A + PAGE)
    assert shown(a, A, 4) == "PFX PXD PFX -"
    a.uffd_register(A, 4 * PAGE)
    a.uffd_writeprotect(A, 4 * PAGE, True)
    a.madvise(A, 2 * PAGE, "DONTNEED")
    # In a file mapping, the protection of its own pages outlives them too.
    assert shown(a, A, 4) == "SW SW PFWX SW"
    tidy(a)


def test_other_fields_ride_along(space):
    bits = FIELDS.mask("age")

    def ages(a, addr=A):
        return a.table.load(np.arange(4) + (addr >> 12), "age").tolist()

    space.table.update([(A >> 12) + 1, (A >> 12) + 2], set=bits)
    child = space.fork()
    child.write(A, 4 * PAGE)
    assert ages(child) == ages(space) == [0, 1, 1, 0]
    space.mremap(A, 4 * PAGE, 4 * PAGE, B)
    assert ages(space, B) == [0, 1, 1, 0]


# -- huge pages -------------------------------------------------------------


def test_a_huge_page_is_protected_whole(huge):
    huge.uffd_register(A, 2 * PMD)
    huge.uffd_writeprotect(A, 2 * PMD, True)
    assert is_huge(huge)
    assert shown(huge, A, 2) == "PWX PWX"
    # Where there was none, there are markers now.
    assert shown(huge, A + PMD, 2) == "SW SW"


@pytest.mark.parametrize("how", ["write", "unprotect", "zap", "mprotect", "move"])
def test_a_part_splits_it_and_the_bits_are_copied(huge, how):
    huge.uffd_register(A, 2 * PMD, WITH_EVENTS)
    huge.uffd_writeprotect(A, PMD, True)
    {
        "write": lambda: huge.write(A + 5 * PAGE),
        "unprotect": lambda: huge.uffd_writeprotect(A + 5 * PAGE, PAGE, False),
        "zap": lambda: huge.madvise(A + 5 * PAGE, PAGE, "DONTNEED"),
        "mprotect": lambda: huge.mprotect(A + 5 * PAGE, PAGE, "r"),
        "move": lambda: huge.mremap(A + 5 * PAGE, PAGE, PAGE, B),
    }[how]()
    assert not is_huge(huge)
    one = {"write": "PXD", "unprotect": "PXD", "mprotect": "PWXD"}.get(how, "-")
    # Soft-dirty too, which the huge page was not: pte_mkdirty() of a dirty one.
    assert shown(huge, A, 512).split() == ["PWXD"] * 5 + [one] + ["PWXD"] * 506


def test_a_huge_page_moves_whole(huge):
    huge.mremap(A, PMD, PMD, B)
    assert is_huge(huge, B)
    assert shown(huge, B, 1) == "PXD"


def test_a_huge_page_is_shared_and_copied_by_page(huge):
    child = huge.fork()
    assert is_huge(child)
    child.write(A + PAGE)
    assert not is_huge(child)
    assert shown(child, A, 3) == "PD PXD PD"
    # The first page of a huge page tells for all of it (6.15).
    assert is_huge(huge)
    assert shown(huge, A, 3) == "P P P"


def test_the_huge_zero_page(encoding):
    for release, stays in (("6.12", False), ("6.18", True)):
        a = make(encoding, release=release)
        a.mmap(A, PMD)
        a.madvise(A, PMD, "HUGEPAGE")
        a.clear_refs()
        a.read(A)
        assert is_huge(a)
        regions, _end = a.pagemap_scan(A, A + PMD, return_mask="PFNZERO|PRESENT")
        assert regions["categories"].tolist() == [8 | 32]
        a.write(A)
        assert is_huge(a) == stays
        tidy(a)


def test_collapse_asks_for_a_writable_pte():
    """Linux 6.12: SCAN_PAGE_RO; who shared the page may have gone since."""
    for release, refused in (("6.12", True), ("6.18", False)):
        a = make("linked", release=release)
        a.mmap(A, PMD)
        a.write(A + PAGE)
        child = a.fork()
        a.munmap(A, PMD)
        if refused:
            with pytest.raises(OSError, match="can't be collapsed"):
                child.madvise(A, PMD, "COLLAPSE")
            child.write(A + PAGE)
        child.madvise(A, PMD, "COLLAPSE")
        assert is_huge(child)


def test_collapse(huge):
    huge.uffd_register(A, 2 * PMD)
    huge.uffd_writeprotect(A, PMD, True)
    huge.uffd_writeprotect(A + PAGE, PAGE, False)
    with pytest.raises(OSError, match="can't be collapsed") as refused:
        huge.madvise(A, PMD, "COLLAPSE")
    assert refused.value.errno == 22
    huge.uffd_unregister(A, 2 * PMD)
    huge.madvise(A, PMD, "COLLAPSE")
    assert is_huge(huge)
    # pmd_mkdirty(): more than was written.
    assert shown(huge, A, 2) == "PXD PXD"


def test_collapse_with_a_page_missing_under_a_userfaultfd(huge):
    huge.madvise(A + PAGE, PAGE, "DONTNEED")
    huge.uffd_register(A, 2 * PMD)
    with pytest.raises(OSError, match="can't be collapsed") as refused:
        huge.madvise(A, PMD, "COLLAPSE")
    assert refused.value.errno == 16


def test_pages_of_zeros_of_a_split_huge_page(huge):
    """Only what was written goes to swap; the rest becomes the page of zeros."""
    huge.madvise(A, PMD, "PAGEOUT")
    assert shown(huge, A, 512).split() == ["S"] + ["P"] * 511


def test_a_huge_page_that_goes_to_swap_whole(encoding):
    a = make(encoding, thp_swap=True)
    a.mmap(A, PMD)
    a.madvise(A, PMD, "HUGEPAGE")
    a.write(A)
    a.madvise(A, PMD, "PAGEOUT")
    a.clear_refs()
    assert shown(a, A, 512).split() == ["S"] * 512
    child = a.fork()
    # From the swap cache it comes back by all of its PTEs.
    a.read(A + 7 * PAGE)
    assert shown(a, A, 512).split() == ["PX"] * 512
    # Not where one of them is no longer like the others.
    child.madvise(A, PAGE, "DONTNEED")
    child.write(A + PAGE)
    assert shown(child, A, 4) == "- PXD S S"
    tidy(a)
    tidy(child)
