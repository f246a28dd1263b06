"""Accesses to several addresses equal the single ones in that order."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from spaces import ENCODINGS, PAGE, PMD, A, make, tidy

import extmeta as em
from extmeta.linux.pagewords import PFN_MASK, PRESENT

PAGES = 16
PFNS = ((1 << 40) - 1) << 12  # of x86-64


def machine(encoding, log, watched):
    """Private pages: some protected if watched, shared, swapped out or unmapped."""
    a = make(encoding)
    a.mmap(A, PAGES * PAGE)
    a.write(A, 8 * PAGE)
    a.madvise(A + 2 * PAGE, PAGE, "PAGEOUT")
    child = a.fork()
    a.clear_refs()

    a.munmap(A + 12 * PAGE, PAGE)
    a.write(A + 7 * PAGE)
    a.write(A + 5 * PAGE)
    if not watched:
        return a, child

    def handler(space, address):
        log.append(address)
        space.uffd_writeprotect(address, PAGE, False)

    a.uffd_register(A + 4 * PAGE, 2 * PAGE, "WP_UNPOPULATED", handler=handler)
    a.uffd_writeprotect(A + 4 * PAGE, 2 * PAGE, True)
    a.uffd_register(A + 6 * PAGE, PAGE, features="")
    a.uffd_writeprotect(A + 6 * PAGE, PAGE, True)
    return a, child


def words(space):
    """Return the entries of a table, without frames, and their words."""
    found = []
    for base in space.table.table_vpns().tolist():
        ptes = space.table.table_at(base)
        vpns = base + np.flatnonzero(ptes)
        bare = np.where(ptes & 1, ptes & np.uint64(~PFNS & 2**64 - 1), ptes)
        found.append((base, bare.tolist(), space.table.load(vpns).tolist()))
    return found


def seen(spaces, pages=PAGES):
    """Return pagemap's words of all spaces, with frames numbered as they come.

    Which frame a page gets is the allocator's choice; which pages share one is not.
    """
    numbers = {}
    found = []
    for word in np.concatenate([a.pagemap(A, pages * PAGE, pfns=True) for a in spaces]):
        frame = int(word) & PFN_MASK if word & np.uint64(PRESENT) else None
        bits = int(word) if frame is None else int(word) & ~PFN_MASK
        found.append((bits, numbers.setdefault(frame, len(numbers))))
    return found


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(
    at=st.lists(st.integers(0, PAGES * PAGE - 1), max_size=12),
    length=st.sampled_from([1, PAGE, 2 * PAGE]),
    write=st.booleans(),
    watched=st.booleans(),
)
def test_batch_equals_singles(encoding, at, length, write, watched):
    logs, outcomes, states = ([], []), [], []
    for batch, log in zip((True, False), logs, strict=True):
        a, child = machine(encoding, log, watched)
        call = a.write if write else a.read
        addresses = [A + one for one in at]
        try:
            if batch:
                call(addresses, length)
            else:
                for one in addresses:
                    call(one, length)
            outcomes.append(None)
        except (OSError, em.UserFault) as error:
            outcomes.append((type(error), str(error)))
        states.append((seen((a, child)), words(tidy(a))))
    assert outcomes[0] == outcomes[1]
    assert logs[0] == logs[1]
    assert states[0] == states[1]


def test_an_address_that_is_none_is_refused_before_any_access():
    a = make("linked")
    a.mmap(A, PAGE)
    with pytest.raises(ValueError, match="negative"):
        a.write([A, -1])
    assert not int(a.pagemap(A, PAGE)[0]) >> 63


def several(thp):
    """Two mappings of one file, private pages of a file, and room for huge pages."""
    a = make("linked", thp=thp)
    a.mmap(A, 40 * PAGE, "rw", "shared|file")
    a.read(A + 3 * PAGE)
    a.mremap(A, 40 * PAGE, 40 * PAGE, A + 64 * PAGE, "MAYMOVE|FIXED|DONTUNMAP")
    a.mmap(A + 48 * PAGE, 8 * PAGE, "rw", "private|file")
    a.mmap(A + PMD, 2 * PMD)
    a.uffd_register(A + 2 * PMD, PMD)
    a.pagemap_scan(A + 2 * PMD, A + 3 * PMD, "WP_MATCHING", category_mask="WRITTEN")
    return a


@pytest.mark.parametrize("thp", ["always", "never"])
@given(
    at=st.lists(
        st.integers(0, 39)
        | st.integers(64, 103)
        | st.integers(48, 60)
        | st.integers(510, 515)
        | st.integers(1020, 1028),
        min_size=2,
        max_size=10,
    ),
    write=st.booleans(),
)
@example(at=[39, 39, 39, 5, 64 + 6, 4], write=False)
def test_batch_in_several_mappings_equals_singles(thp, at, write):
    states = []
    for batch in (True, False):
        a = several(thp)
        call = a.write if write else a.read
        addresses = [A + one * PAGE for one in at]
        try:
            for each in [addresses] if batch else addresses:
                call(each)
            error = None
        except OSError as refused:
            error = str(refused)
        a.fork()
        states.append((error, seen([a], 3 * 512), words(tidy(a)), a._mm.tables))
    assert states[0] == states[1]


def test_pagemap_of_several_ranges_is_that_of_each():
    a = several("always")
    a.write(A + PMD)
    a.write(A + 48 * PAGE, 3 * PAGE)
    a.clear_refs()
    a.mmap(A + 4 * PMD, PAGE)
    last = (1 << 47) - 2 * PAGE
    starts = [A + PMD + 5 * PAGE, A + 49 * PAGE, A + 4 * PMD, A, A + 64 * PAGE, last]
    for pfns in (False, True):
        each = [a.pagemap(start, 4 * PAGE, pfns=pfns) for start in starts]
        assert a.pagemap(starts, 4 * PAGE, pfns=pfns).tolist() == (
            np.concatenate(each).tolist()
        )
    assert a.pagemap([], PAGE).tolist() == []


@pytest.mark.parametrize("bad", [A + 1, 1 << 47])
def test_pagemap_refuses_one_bad_address_of_several(bad):
    a = make("linked")
    a.mmap(A, PAGE)
    with pytest.raises(OSError, match=f"{bad:#x}"):
        a.pagemap([A, bad], PAGE)
