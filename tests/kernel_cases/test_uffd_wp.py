"""tools/testing/selftests/mm/uffd-unit-tests.c: its write-protection cases."""

import pytest
from cases import (
    MEMORY,
    NO_PAGE,
    ONE_WORD,
    PRESENT,
    SWAPPED,
    fails_on_page_ext,
    huge_of,
    is_huge,
    page_of,
    place,
    told,
    track,
    uffd_wp,
    waits,
)

PAGES = 16

# Without WP_ASYNC: the writer waits.
SYNC = ("PAGEFAULT_FLAG_WP", "WP_UNPOPULATED")
EVENTS = (*SYNC, "EVENT_FORK", "EVENT_REMAP", "EVENT_REMOVE")


@pytest.fixture(params=MEMORY)
def memory(request):
    return request.param


@pytest.fixture
def area(new, memory):
    """An address space, and sixteen pages of a kind of memory, all written."""
    a = new()
    at = place()
    a.mmap(at, PAGES * page_of(a), "rw", MEMORY[memory])
    a.write(at, PAGES * page_of(a))
    return a, at


def protect(a, at, pages=1, on=True):
    """Protect pages, or take the protection off."""
    a.uffd_writeprotect(at, pages * page_of(a), on)


def child_has(a, at):
    """Return whether a child has the bit of a page; the child is gone then."""
    child = a.fork()
    found = uffd_wp(child, at)
    child.table.check()
    child.exit()
    return found


class Monitor:
    """Resolves write faults and remembers them."""

    def __init__(self):
        self.seen = []

    def __call__(self, a, address):
        self.seen.append(address)
        protect(a, address, on=False)


# -- wp, the basic cycle ----------------------------------------------------


def test_wp(area):
    """One fault a protected page; reads none; protected anew, it faults anew."""
    a, at = area
    page, monitor = page_of(a), Monitor()
    a.uffd_register(at, PAGES * page, SYNC, handler=monitor)
    for _ in range(2):
        monitor.seen.clear()
        protect(a, at, PAGES)
        assert all(uffd_wp(a, at, PAGES))
        a.read(at, PAGES * page)
        assert monitor.seen == []
        for _ in range(2):
            a.write(at, PAGES * page)
            assert monitor.seen == [at + i * page for i in range(PAGES)]
        assert not any(uffd_wp(a, at, PAGES))


def test_wp_of_a_huge_page(new):
    """Protected whole; the monitor resolves page by page, so it is split."""
    a = new()
    at, huge, page = place(), huge_of(a), page_of(a)
    pages = huge // page
    monitor = Monitor()
    a.mmap(at, huge)
    a.madvise(at, huge, "HUGEPAGE")
    a.write(at, huge)
    a.uffd_register(at, huge, SYNC, handler=monitor)
    protect(a, at, pages)
    assert is_huge(a, at)
    assert all(uffd_wp(a, at, pages))
    a.write(at + 3 * page, 2 * page)
    assert monitor.seen == [at + 3 * page, at + 4 * page]
    expected = [i not in (3, 4) for i in range(pages)]
    assert uffd_wp(a, at, pages) == expected


# -- wp-fork ----------------------------------------------------------------


@fails_on_page_ext(ONE_WORD, with_event=[False], memory=["anon", "shmem-private"])
@fails_on_page_ext(NO_PAGE, with_event=[False], memory=["shmem"])
@fails_on_page_ext(NO_PAGE, with_event=[True])
@pytest.mark.parametrize("with_event", [False, True])
def test_wp_fork(area, memory, with_event):
    """A child has the bit exactly if EVENT_FORK was asked for; so it is of pages
    present, and of those taken away: by page-out, or of shared memory by dropping
    them, which leaves a marker."""
    a, at = area
    page = page_of(a)
    a.uffd_register(at, page, EVENTS if with_event else ())
    protect(a, at)
    assert uffd_wp(a, at) == [True]
    assert child_has(a, at) == [with_event]
    assert uffd_wp(a, at) == [True]

    a.madvise(at, page, "DONTNEED" if memory == "shmem" else "PAGEOUT")
    assert told(a, PRESENT, at) == [False]
    assert told(a, SWAPPED, at) == [True]
    assert uffd_wp(a, at) == [True]
    assert child_has(a, at) == [with_event]

    # Taken off where the page is not; read back it is without.
    protect(a, at, on=False)
    assert uffd_wp(a, at) == [False]
    assert child_has(a, at) == [False]
    a.read(at)
    assert told(a, PRESENT, at) == [True]
    assert uffd_wp(a, at) == [False]


@fails_on_page_ext(ONE_WORD, memory=["anon", "shmem-private"])
def test_wp_fork_child_goes_on(area):
    """Without the event nobody resolves for the child, so nothing must stop it;
    with it, the child's own monitor is asked."""
    a, at = area
    a.uffd_register(at, PAGES * page_of(a), SYNC)
    protect(a, at, PAGES)
    child = a.fork()
    child.write(at, PAGES * page_of(a))
    with waits(a):
        a.write(at)


# -- wp-unpopulated ---------------------------------------------------------


@pytest.fixture
def unpopulated(new):
    """Anonymous memory, nothing of it there, with WP_UNPOPULATED."""
    a = new()
    at = place()
    a.mmap(at, PAGES * page_of(a))
    a.uffd_register(at, PAGES * page_of(a), SYNC)
    return a, at


@fails_on_page_ext(NO_PAGE)
def test_wp_unpopulated_sets_and_takes_off(unpopulated):
    a, at = unpopulated
    protect(a, at)
    assert uffd_wp(a, at, 2) == [True, False]
    protect(a, at, on=False)
    assert uffd_wp(a, at) == [False]
    assert told(a, SWAPPED, at) == [False]


@fails_on_page_ext(NO_PAGE)
def test_wp_unpopulated_is_dropped_by_dontneed(unpopulated):
    """Of anonymous memory dropping drops all: of a marker, of a page."""
    a, at = unpopulated
    protect(a, at)
    a.madvise(at, page_of(a), "DONTNEED")
    assert uffd_wp(a, at) == [False]
    # What comes in afterwards is not protected.
    a.write(at)
    assert uffd_wp(a, at) == [False]
    protect(a, at)
    assert uffd_wp(a, at) == [True]
    a.madvise(at, page_of(a), "DONTNEED")
    assert uffd_wp(a, at) == [False]


@fails_on_page_ext(NO_PAGE)
def test_wp_unpopulated_read_is_protected(unpopulated):
    """A read brings the page of zeros in, protected; dropped, it is not any more."""
    a, at = unpopulated
    protect(a, at)
    a.read(at)
    assert told(a, PRESENT, at) == [True]
    assert uffd_wp(a, at) == [True]
    with waits(a):
        a.write(at)
    a.madvise(at, page_of(a), "DONTNEED")
    assert uffd_wp(a, at) == [False]


@fails_on_page_ext(NO_PAGE, memory=["shmem", "shmem-private"])
def test_wp_needs_unpopulated_for_what_is_not_there(new, memory):
    """Without the feature anonymous pages not there are passed over; of shared
    memory and files they always get a marker, as the page may be in memory."""
    a = new()
    at = place()
    a.mmap(at, 2 * page_of(a), "rw", MEMORY[memory])
    a.write(at)
    a.uffd_register(at, 2 * page_of(a), ("PAGEFAULT_FLAG_WP",))
    protect(a, at, 2)
    assert uffd_wp(a, at, 2) == [True, memory != "anon"]


# -- pagemap ----------------------------------------------------------------


@fails_on_page_ext(NO_PAGE)
def test_pagemap(area, memory):
    """Bit 57 of pages present, swapped out, and of markers; and off again of each."""
    a, at = area
    page = page_of(a)
    a.uffd_register(at, PAGES * page, SYNC)
    a.madvise(at, page, "PAGEOUT")
    a.madvise(at + page, page, "DONTNEED")
    protect(a, at, 4)
    assert uffd_wp(a, at, 5) == [True] * 4 + [False]
    assert told(a, PRESENT, at, 5) == [False, False, True, True, True]
    assert told(a, SWAPPED, at, 5) == [True, True, False, False, False]
    a.madvise(at + 2 * page, page, "PAGEOUT")
    assert told(a, PRESENT, at + 2 * page) == [False]
    assert uffd_wp(a, at, 5) == [True] * 4 + [False]
    a.read(at, 3 * page)
    assert uffd_wp(a, at, 5) == [True] * 4 + [False]
    protect(a, at, 2, on=False)
    assert uffd_wp(a, at, 5) == [False, False, True, True, False]


# -- sigbus-wp --------------------------------------------------------------


def test_sigbus_wp(area):
    """Without somebody to resolve, a write to a protected page fails and leaves it
    protected; everything else goes on. In the model `UserFault` is the signal."""
    a, at = area
    page = page_of(a)
    a.uffd_register(at, PAGES * page, SYNC)
    protect(a, at + 4 * page, 4)
    for i in range(PAGES):
        a.read(at + i * page)
        if 4 <= i < 8:
            with waits(a) as caught:
                a.write(at + i * page)
            assert caught.value.address == at + i * page
        else:
            a.write(at + i * page)
    assert uffd_wp(a, at, PAGES) == [4 <= i < 8 for i in range(PAGES)]
    # The forked child has no userfaultfd, so no signal either.
    a.fork().write(at, PAGES * page)


# -- events-wp --------------------------------------------------------------


@fails_on_page_ext(ONE_WORD)
def test_events_wp_fork(area):
    """The child's faults are the child's: resolved there, still protected here."""
    a, at = area
    page, monitor = page_of(a), Monitor()
    a.uffd_register(at, PAGES * page, EVENTS, handler=monitor)
    protect(a, at, PAGES)
    child = a.fork()
    child.write(at, PAGES * page)
    assert monitor.seen == [at + i * page for i in range(PAGES)]
    assert not any(uffd_wp(child, at, PAGES))
    assert all(uffd_wp(a, at, PAGES))
    child.exit()
    a.write(at, PAGES * page)
    assert len(monitor.seen) == 2 * PAGES


def test_events_wp_remap(area):
    """Moved with its userfaultfd, memory faults at the new address."""
    a, at = area
    page, monitor = page_of(a), Monitor()
    a.uffd_register(at, PAGES * page, EVENTS, handler=monitor)
    protect(a, at, PAGES)
    to = place(1)
    a.mremap(at, PAGES * page, PAGES * page, to)
    assert all(uffd_wp(a, to, PAGES))
    a.write(to, PAGES * page)
    assert monitor.seen == [to + i * page for i in range(PAGES)]


@fails_on_page_ext(NO_PAGE, memory=["shmem", "shmem-private"])
def test_events_wp_remove(area, memory):
    """Dropped, anonymous memory comes back unprotected, shared and files as it was."""
    a, at = area
    page, monitor = page_of(a), Monitor()
    a.uffd_register(at, PAGES * page, EVENTS, handler=monitor)
    protect(a, at, PAGES)
    a.madvise(at, PAGES * page, "DONTNEED")
    a.write(at, PAGES * page)
    stays = memory != "anon"
    assert monitor.seen == [at + i * page for i in range(PAGES)] * stays
    assert not any(uffd_wp(a, at, PAGES))


# -- the two ways of resolving ----------------------------------------------


def test_wp_async(area):
    """With WP_ASYNC nobody waits: a write takes the bit off one page."""
    a, at = area
    page = page_of(a)
    track(a, at, PAGES)
    a.write(at + 5 * page, 2 * page)
    assert uffd_wp(a, at, PAGES) == [i not in (5, 6) for i in range(PAGES)]
