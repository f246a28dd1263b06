"""Accesses to several addresses equal the single ones in that order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spaces import ENCODINGS, PAGE, A, make, tidy

import extmeta as em

PAGES = 16


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
    """Return the entries of a table and their words."""
    found = []
    for base in space.table.table_vpns().tolist():
        ptes = space.table.table_at(base)
        vpns = base + np.flatnonzero(ptes)
        found.append((base, ptes.tolist(), space.table.load(vpns).tolist()))
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
        seen = [x.pagemap(A, PAGES * PAGE, pfns=True).tolist() for x in (a, child)]
        states.append((seen, words(tidy(a))))
    assert outcomes[0] == outcomes[1]
    assert logs[0] == logs[1]
    assert states[0] == states[1]


def test_an_address_that_is_none_is_refused_before_any_access():
    a = make("linked")
    a.mmap(A, PAGE)
    with pytest.raises(ValueError, match="negative"):
        a.write([A, -1])
    assert not int(a.pagemap(A, PAGE)[0]) >> 63
