"""Missing pages, how a userfaultfd brings them, and what it is told.

The values were compared with Linux 6.18, and 6.12 for soft-dirty, by the oracle.
The text of pages is that of test_addressspace.py.
"""

import copy
import errno
import pickle

import pytest
from spaces import ENCODINGS, PAGE, PMD, A, B, make, shown, tidy, unprotect

import extmeta as em

EVENTS = ("EVENT_FORK", "EVENT_REMAP", "EVENT_REMOVE", "EVENT_UNMAP")
BOTH = "MISSING|WP"


@pytest.fixture(params=ENCODINGS)
def space(request):
    """Eight anonymous pages of which none is there, a userfaultfd of both modes."""
    a = make(request.param)
    a.mmap(A, 8 * PAGE)
    a.clear_refs()
    a.uffd_register(A, 8 * PAGE, ("WP_UNPOPULATED",), mode=BOTH)
    yield a
    tidy(a)


@pytest.fixture
def shared():
    a = make("adaptive")
    a.mmap(A, 8 * PAGE, "rw", "shared|anonymous")
    a.clear_refs()
    a.uffd_register(A, 8 * PAGE, ("WP_UNPOPULATED",), mode=BOTH)
    return a


def refused(code, call, *arguments, done=None):
    """Check a call's errno, and how many pages it did before."""
    why = rf"^\[Errno {getattr(errno, code)}\]"
    with pytest.raises(OSError, match=why) as caught:
        call(*arguments)
    if done is not None:
        assert caught.value.characters_written == done * PAGE


def written(a, addr, pages):
    """Return whether all of a range counts as WRITTEN."""
    regions, _ = a.pagemap_scan(addr, addr + pages * PAGE, category_mask="WRITTEN")
    return sum(int(r["end"] - r["start"]) for r in regions) == pages * PAGE


# -- faults of missing pages ------------------------------------------------


@pytest.mark.parametrize("access", ["read", "write"])
def test_missing_pages_wait_for_their_handler(space, access):
    with pytest.raises(em.UserFault, match="missing") as caught:
        getattr(space, access)(A + PAGE, 2 * PAGE)
    assert (caught.value.address, caught.value.missing) == (A + PAGE, True)
    seen = []

    def bring(a, address):
        seen.append(address)
        a.uffd_copy(address, PAGE)

    features = ("WP_UNPOPULATED",)
    space.uffd_register(A, PAGE, features, mode=BOTH, missing_handler=bring)
    getattr(space, access)(A + PAGE, 3 * PAGE)
    assert seen == [A + i * PAGE for i in (1, 2, 3)]
    assert shown(space) == "- PXD PXD PXD - - - -"


def test_missing_pages_before_it_are_touched(space):
    space.uffd_copy(A, 2 * PAGE, "WP")
    space.clear_refs()
    with pytest.raises(em.UserFault) as caught:
        space.read(A, 8 * PAGE)
    assert caught.value.address == A + 2 * PAGE
    with pytest.raises(em.UserFault) as caught:
        space.write(A, 8 * PAGE)
    assert (caught.value.address, caught.value.missing) == (A, False)


def test_a_handler_that_does_nothing(space):
    space.uffd_register(
        A, PAGE, ("WP_UNPOPULATED",), mode=BOTH, missing_handler=lambda a, address: None
    )
    with pytest.raises(em.UserFault):
        space.read(A)


def test_sigbus_asks_nobody(space):
    space.uffd_unregister(A, 8 * PAGE)
    called = []
    space.uffd_register(
        *(A, 8 * PAGE, ("SIGBUS", "WP_UNPOPULATED")),
        mode=BOTH,
        handler=lambda *about: called.append(about),
        missing_handler=lambda *about: called.append(about),
    )
    refused("EFAULT", space.read, A)
    refused("EFAULT", space.madvise, A, PAGE, "POPULATE_WRITE")
    space.uffd_copy(A, PAGE, "WP")
    refused("EFAULT", space.write, A)
    assert not called


def test_a_marker_is_a_missing_page(space):
    space.uffd_writeprotect(A, 2 * PAGE, True)
    with pytest.raises(em.UserFault) as caught:
        space.write(A)
    assert caught.value.missing
    assert shown(space, A, 3) == "SW SW -"


def test_side_effects_of_a_missing_fault(space):
    """The PTE table comes first, which makes holes WRITTEN; a write's anon_vma."""
    b = em.AddressSpace(em.Fields(uffd_wp=1))
    b.mmap(B, 2 * PAGE)
    b.uffd_register(B, 2 * PAGE, (), mode="MISSING")
    assert not written(b, B, 2)
    with pytest.raises(em.UserFault):
        b.read(B)
    assert written(b, B, 2)


def test_missing_of_a_huge_page(space):
    """The fault asks for one page, which is copied as one."""
    b = em.AddressSpace(em.Fields(uffd_wp=1))
    b.mmap(A, PMD)
    b.madvise(A, PMD, "HUGEPAGE")
    b.uffd_register(
        *(A, PMD, ()),
        mode="MISSING",
        missing_handler=lambda a, address: a.uffd_copy(address, PAGE),
    )
    b.write(A + 5 * PAGE, 2 * PAGE)
    assert shown(b) == "- - - - - PX PX -"


def test_shared_memory_is_missing_where_its_file_has_a_hole(shared):
    shared.uffd_copy(A, 2 * PAGE)
    shared.madvise(A, 2 * PAGE, "DONTNEED")
    shared.read(A, 2 * PAGE)  # still in the file: no fault of the userfaultfd
    assert shown(shared, A, 3) == "PFX PFX -"
    shared.madvise(A, 2 * PAGE, "PAGEOUT")
    shared.write(A, 2 * PAGE)
    with pytest.raises(em.UserFault):
        shared.read(A, 3 * PAGE)


def test_shared_memory_that_nobody_wrote_is_a_hole_after_pageout(shared):
    shared.uffd_unregister(A, 8 * PAGE)
    shared.read(A, PAGE)
    shared.madvise(A, PAGE, "PAGEOUT")
    shared.uffd_register(A, 8 * PAGE, (), mode="MISSING")
    assert shared.uffd_copy(A, PAGE) == PAGE


# -- UFFDIO_COPY, UFFDIO_ZEROPAGE -------------------------------------------


def test_copy_brings_pages_soft_dirty(space):
    assert space.uffd_copy(A, 2 * PAGE) == 2 * PAGE
    assert space.uffd_copy(A + 2 * PAGE, PAGE, "WP|DONTWAKE") == PAGE
    assert shown(space, A, 4) == "PXD PXD PWXD -"
    assert space.table.load([A // PAGE], "age")[0] == 0


def test_copy_replaces_a_marker_zeropage_does_not(space):
    space.uffd_writeprotect(A, 3 * PAGE, True)
    space.uffd_copy(A, PAGE)
    refused("EEXIST", space.uffd_zeropage, A + PAGE, PAGE)
    assert shown(space, A, 3) == "PXD SW SW"


def test_zeropage_of_private_memory_is_clean(space):
    assert space.uffd_zeropage(A, 2 * PAGE) == 2 * PAGE
    assert shown(space, A, 3) == "P P -"
    space.write(A)
    assert shown(space, A, 3) == "PXD P -"


def test_shared_zeropage_is_a_page_of_the_file(shared):
    shared.uffd_writeprotect(A, PAGE, True)
    shared.uffd_zeropage(A, 2 * PAGE)
    assert shown(shared, A, 3) == "PFXD PFXD -"
    shared.madvise(A, PAGE, "DONTNEED")
    refused("EEXIST", shared.uffd_copy, A, PAGE)


def test_what_is_there_ends_a_copy(space):
    space.uffd_copy(A + 2 * PAGE, PAGE)
    refused("EEXIST", space.uffd_copy, A + 2 * PAGE, PAGE)
    refused("EAGAIN", space.uffd_copy, A, 4 * PAGE, done=2)
    assert shown(space, A, 4) == "PXD PXD PXD -"


def test_a_huge_page_ends_a_copy():
    a = make("linked")
    a.mmap(A, 2 * PMD)
    a.madvise(A + PMD, PMD, "HUGEPAGE")
    a.madvise(A, 2 * PMD, "HUGEPAGE")
    a.write(A + PMD)
    a.uffd_register(A, 2 * PMD, (), mode="MISSING")
    refused("EAGAIN", a.uffd_copy, A + PMD - 2 * PAGE, 4 * PAGE, done=2)
    refused("EEXIST", a.uffd_zeropage, A + PMD, PAGE)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (("uffd_copy", A + 1, PAGE), "EINVAL"),
        (("uffd_copy", A, 0), "EINVAL"),
        (("uffd_copy", B, PAGE), "ENOENT"),
        (("uffd_copy", A + 7 * PAGE, 2 * PAGE), "ENOENT"),
        (("uffd_zeropage", A, PAGE + 1), "EINVAL"),
        (("uffd_zeropage", B, PAGE), "ENOENT"),
        (("uffd_move", A, A, 1), "EINVAL"),
        (("uffd_move", A, B, PAGE), "ENOENT"),
        (("uffd_move", B, A, PAGE), "ENOENT"),
        (("uffd_move", A, A + PAGE, PAGE), "ENOENT"),
        (("uffd_move", A + 4 * PAGE, A, 5 * PAGE), "EINVAL"),
        (("uffd_wake", A, 7), "EINVAL"),
    ],
)
def test_what_is_refused_changes_nothing(space, call, code):
    before = shown(space)
    refused(code, getattr(space, call[0]), *call[1:])
    assert shown(space) == before == "- - - - - - - -"


def test_what_no_call_could_say(space):
    with pytest.raises(ValueError, match="MODE_WP"):
        space.uffd_copy(A, PAGE, "MODE_WP")
    with pytest.raises(ValueError, match="'WP'"):
        space.uffd_zeropage(A, PAGE, "WP")
    with pytest.raises(TypeError, match="mode: 1"):
        space.uffd_move(A, A, PAGE, 1)
    with pytest.raises(TypeError, match="missing_handler: 'x'"):
        space.uffd_register(A, PAGE, (), missing_handler="x")
    with pytest.raises(ValueError, match="MINOR"):
        space.uffd_register(A, PAGE, (), mode="MINOR")


def test_protected_copies_need_tracked_writes():
    a = em.AddressSpace(em.Fields(soft_dirty=1))
    a.mmap(A, PAGE)
    refused("EINVAL", a.uffd_register, A, PAGE)
    a.uffd_register(A, PAGE, (), mode="MISSING")
    refused("EINVAL", a.uffd_copy, A, PAGE, "WP")
    refused("ENOENT", a.uffd_writeprotect, A, PAGE, True)
    a.uffd_copy(A, PAGE)
    assert shown(a, A, 1) == "PXD"


# -- UFFDIO_WAKE ------------------------------------------------------------


@pytest.mark.parametrize("wakes", [True, False])
def test_who_is_not_woken_goes_on_waiting(space, wakes):
    def bring(a, address):
        a.uffd_copy(address, PAGE, "DONTWAKE")
        if wakes:
            a.uffd_wake(A, 8 * PAGE)

    features = ("WP_UNPOPULATED",)
    space.uffd_register(A, PAGE, features, mode=BOTH, missing_handler=bring)
    if wakes:
        space.write(A)
    else:
        with pytest.raises(em.UserFault):
            space.write(A)
    space.read(A)  # it is there now


# -- UFFDIO_MOVE ------------------------------------------------------------


def test_move_takes_protection_off_pages(space):
    space.uffd_copy(A, 2 * PAGE, "WP")
    space.clear_refs()
    space.table.update([A // PAGE], set=space.table.fields.mask("age"))
    assert space.uffd_move(A + 4 * PAGE, A, 2 * PAGE) == 2 * PAGE
    assert shown(space) == "- - - - PXD PXD - -"
    assert list(space.table.load([A // PAGE + 4, A // PAGE + 5], "age")) == [1, 0]


def test_move_swap_keeps_protection(space):
    space.uffd_copy(A, PAGE, "WP")
    space.madvise(A, PAGE, "PAGEOUT")
    space.clear_refs()
    space.uffd_move(A + PAGE, A, PAGE)
    assert shown(space, A, 2) == "- SWD"


def test_move_zeros_sets_nothing(space):
    space.uffd_zeropage(A, PAGE)
    space.uffd_writeprotect(A, PAGE, True)
    space.uffd_move(A + PAGE, A, PAGE)
    assert shown(space, A, 2) == "- P"


def test_move_over_something_and_of_nothing(space):
    space.uffd_copy(A, PAGE)
    space.uffd_writeprotect(A + PAGE, 2 * PAGE, True)
    refused("EEXIST", space.uffd_move, A + PAGE, A, PAGE)  # over a marker
    refused("EFAULT", space.uffd_move, A + 4 * PAGE, A + PAGE, PAGE)  # of one
    refused("ENOENT", space.uffd_move, A + 5 * PAGE, A + 4 * PAGE, PAGE)
    assert space.uffd_move(A + 5 * PAGE, A + 4 * PAGE, PAGE, "ALLOW_SRC_HOLES") == PAGE
    refused("EAGAIN", space.uffd_move, A + 6 * PAGE, A, 2 * PAGE, done=1)
    assert shown(space) == "- SW SW - - - PXD -"


def test_move_of_what_a_fork_shared(space):
    space.uffd_copy(A, 3 * PAGE)
    space.madvise(A, PAGE, "PAGEOUT")
    child = space.fork()
    for page in (A, A + PAGE):
        refused("EBUSY", space.uffd_move, A + 4 * PAGE, page, PAGE)
    child.exit()
    for page in (A, A + PAGE):
        refused("EBUSY", space.uffd_move, A + 4 * PAGE, page, PAGE)
    space.write(A, 2 * PAGE)
    assert space.uffd_move(A + 4 * PAGE, A, 2 * PAGE) == 2 * PAGE


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_move_of_a_huge_page_and_of_a_part(encoding):
    a = make(encoding)
    a.mmap(A, 2 * PMD)
    a.madvise(A, 2 * PMD, "HUGEPAGE")
    a.write(A, PMD)
    a.uffd_register(A, 2 * PMD, (), mode=BOTH)
    a.uffd_writeprotect(A, PMD, True)
    a.clear_refs()
    assert a.uffd_move(A + PMD, A, PMD) == PMD
    regions, _ = a.pagemap_scan(A, A + 2 * PMD, category_mask="HUGE")
    assert [(int(r["start"]), int(r["end"])) for r in regions] == [
        (A + PMD, A + 2 * PMD)
    ]
    assert shown(a, A + PMD, 1) == "PXD"
    a.uffd_move(A + PAGE, A + PMD, 2 * PAGE)
    regions, _ = a.pagemap_scan(A, A + 2 * PMD, category_mask="HUGE")
    assert not len(regions)
    assert shown(a, A, 4) == "- PXD PXD -"
    assert shown(a, A + PMD, 3) == "- - PXD"
    tidy(a)


def test_move_came_with_6_8():
    a = make("linked", release="6.7")
    a.mmap(A, 2 * PAGE)
    refused("EINVAL", a.uffd_register, A, PAGE, ("MOVE",))
    a.uffd_register(A, 2 * PAGE, (), mode="MISSING")
    a.uffd_copy(A, PAGE)
    refused("EINVAL", a.uffd_move, A + PAGE, A, PAGE)


# -- modes and events -------------------------------------------------------


def test_a_mode_replaces_another_that_has_not_all_of_it(space):
    space.uffd_copy(A, PAGE, "WP")
    space.uffd_register(A, 8 * PAGE, ("WP_UNPOPULATED",))  # WP: it has that
    with pytest.raises(em.UserFault):
        space.read(A + PAGE)
    space.uffd_unregister(A, 8 * PAGE)
    space.uffd_register(A, 8 * PAGE, ("WP_UNPOPULATED",))
    space.uffd_writeprotect(A, PAGE, True)
    space.uffd_register(A, 8 * PAGE, ("WP_UNPOPULATED",), mode="MISSING")
    space.write(A)  # the bit stays, nobody looks at it
    assert shown(space, A, 2) == "PWXD -"
    refused("ENOENT", space.uffd_writeprotect, A, PAGE, False)


def test_events():
    told = []
    a = make("linked")
    a.mmap(A, 8 * PAGE)
    a.uffd_register(
        *(A, 8 * PAGE, EVENTS), mode=BOTH, listener=lambda who, e: told.append((who, e))
    )
    a.uffd_copy(A, 8 * PAGE)
    a.madvise(A, 2 * PAGE, "DONTNEED")
    a.madvise(A + 2 * PAGE, PAGE, "FREE")
    a.munmap(A + 7 * PAGE, 4 * PAGE)
    child = a.fork()
    a.mremap(A, 7 * PAGE, 7 * PAGE, B)
    a.mmap(B, PAGE)
    a.exit()
    assert [event for _who, event in told] == [
        em.UffdEvent("REMOVE", A, A + 2 * PAGE),
        em.UffdEvent("REMOVE", A + 2 * PAGE, A + 3 * PAGE),
        em.UffdEvent("UNMAP", A + 7 * PAGE, A + 11 * PAGE),
        em.UffdEvent("FORK", child=child),
        em.UffdEvent("REMAP", A, A + 7 * PAGE, B),
        em.UffdEvent("UNMAP", A, A + 7 * PAGE),
        em.UffdEvent("UNMAP", B, B + PAGE),
    ]
    told.clear()
    child.madvise(A, PAGE, "DONTNEED")  # the child's userfaultfd has the listener
    assert told == [(child, em.UffdEvent("REMOVE", A, A + PAGE))]


def test_the_fault_is_a_value():
    fault = em.UserFault(A, True)
    for again in (pickle.loads(pickle.dumps(fault)), copy.deepcopy(fault)):
        assert (again.address, again.missing, str(again)) == (A, True, str(fault))


def test_a_handler_of_one_kind_is_not_asked_the_other(space):
    space.uffd_register(A, PAGE, ("WP_UNPOPULATED",), mode=BOTH, handler=unprotect)
    with pytest.raises(em.UserFault) as caught:
        space.write(A)
    assert caught.value.missing
    space.uffd_copy(A, PAGE, "WP")
    space.write(A)
    assert shown(space, A, 1) == "PXD"


@pytest.mark.parametrize("call", ["read", "write"])
def test_a_page_past_the_end_of_a_file_is_not_missing(call):
    a = make("linked")
    a.mmap(A, 8 * PAGE, "rw", "private|file")
    a.uffd_register(A, 8 * PAGE, features="", mode="MISSING")
    a.mremap(A, 8 * PAGE, 11 * PAGE, flags="")
    with pytest.raises(OSError, match="past the file's end"):
        getattr(a, call)(A + 9 * PAGE)
