"""An address space with several CPUs: TLBs, deferred flushes, contents of pages."""

import copy
import pickle

import hypothesis
import pytest
from hypothesis import strategies as st

import extmeta as em

BASE = 0x10000000
PAGE = 4096
BOTH = em.Fields(uffd_wp=1, soft_dirty=1)


def space(pages=8, fields=BOTH, **values):
    made = em.AddressSpace(fields, "linked", cpus=3, **values)
    made.mmap(BASE, pages * PAGE)
    made.uffd_register(BASE, pages * PAGE)
    return made


def written(a):
    """Tell whether PAGEMAP_SCAN calls the first page written."""
    regions, _end = a.pagemap_scan(
        BASE, BASE + PAGE, "", category_mask="WRITTEN", return_mask="WRITTEN"
    )
    return len(regions) == 1


def test_an_access_fills_the_tlb_of_its_cpu():
    a = space()
    a.write(BASE, cpu=1)
    a.read(BASE, cpu=2)
    assert a.tlb(0) == {}
    (one,), (two,) = a.tlb(1).values(), a.tlb(2).values()
    assert (one.pfn, one.writable, one.dirty) == (two.pfn, True, True)
    assert (two.writable, two.dirty) == (True, False)


def test_a_stale_entry_writes_to_a_page_that_counts_as_not_written():
    a = space()
    a.write(BASE, cpu=2)
    with a.deferred_flush():
        a.uffd_writeprotect(BASE, PAGE, True)
        a.write(BASE, cpu=2)
        assert not written(a)
        assert a.tlb(2)[BASE // PAGE].writable
        # A CPU without an entry faults.
        a.write(BASE, cpu=1)
        assert written(a)
        a.uffd_writeprotect(BASE, PAGE, True)
    assert not written(a)
    assert not a.tlb(2)
    a.write(BASE, cpu=2)
    assert written(a)
    # Since 5.19 no exclusive page is copied, so all writes are there.
    assert a.writes(BASE) == 4


@pytest.mark.parametrize(
    "flushing",
    [
        lambda a: a.clear_refs(),
        lambda a: a.mprotect(BASE, PAGE, "r"),
        lambda a: a.madvise(BASE, PAGE, "DONTNEED"),
        lambda a: a.madvise(BASE, PAGE, "PAGEOUT"),
        lambda a: a.mremap(BASE, PAGE, PAGE, 2 * BASE),
        lambda a: a.munmap(BASE, PAGE),
        lambda a: a.fork(),
    ],
)
def test_other_operations_flush_in_a_deferred_one(flushing):
    a = space()
    a.write(BASE, cpu=2)
    with a.deferred_flush():
        a.uffd_writeprotect(BASE, PAGE, True)
        assert a.tlb(2)
        kept = flushing(a)
        assert not a.tlb(2)
    del kept


def test_a_tlb_evicts_the_entry_used_longest_ago():
    a = space(tlb=2)
    for page in (0, 1, 0, 2):
        a.write(BASE + page * PAGE, cpu=1)
    assert list(a.tlb(1)) == [BASE // PAGE, BASE // PAGE + 2]


def test_both_sides_of_a_fork_keep_the_writes():
    a = space()
    a.write(BASE, cpu=1)
    b = a.fork()
    a.write(BASE, cpu=1)
    b.write(BASE, cpu=2)
    b.write(BASE, cpu=2)
    assert (a.writes(BASE), b.writes(BASE)) == (2, 3)
    assert b.tlb(2)
    assert not b.tlb(1)


def test_contents_live_in_swap():
    a = space()
    a.write(BASE, cpu=1)
    a.madvise(BASE, PAGE, "PAGEOUT")
    a.write(BASE, cpu=2)
    assert a.writes(BASE) == 2


def test_a_copy_and_a_pickle_have_the_tlbs():
    a = space()
    a.write(BASE, cpu=1)
    for again in (copy.copy(a), pickle.loads(pickle.dumps(a))):
        assert again.tlb(1) == a.tlb(1)


def test_one_cpu_has_no_tlb():
    a = em.AddressSpace(BOTH, "linked")
    a.mmap(BASE, PAGE)
    for call in (
        lambda: a.tlb(0),
        lambda: a.writes(BASE),
        a.deferred_flush,
    ):
        with pytest.raises(ValueError, match="cpus=1"):
            call()
    with pytest.raises(ValueError, match="cpu: 1 is not in"):
        a.write(BASE, cpu=1)
    with pytest.raises(ValueError, match="cpu: 3 is not in"):
        space().read(BASE, cpu=3)
    for values in ({"cpus": 0}, {"cpus": 10**9}, {"tlb": 4}, {"cpus": 2, "tlb": 0}):
        with pytest.raises(ValueError, match=next(reversed(values))):
            em.AddressSpace(BOTH, "linked", **values)


OPERATIONS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("read"), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(
        st.sampled_from(["protect", "unprotect", "clear_refs", "defer", "fork", "out"]),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
)


@hypothesis.given(st.lists(OPERATIONS, max_size=25), st.sampled_from([None, 1, 2]))
def test_no_write_is_lost_in_any_order(operations, size):
    """A plain list has the writes to each page; a CPU without a TLB sees the same words."""
    a, plain = space(4, tlb=size), [0] * 4
    deferred, children = None, []
    for name, page, cpu in operations:
        at = BASE + page * PAGE
        if name == "write":
            a.write(at, cpu=cpu)
            plain[page] += 1
        elif name == "read":
            a.read(at, cpu=cpu)
        elif name in ("protect", "unprotect"):
            a.uffd_writeprotect(at, PAGE, name == "protect")
        elif name == "clear_refs":
            a.clear_refs()
        elif name == "fork":
            children.append((a.fork(), list(plain)))
        elif name == "out":
            a.madvise(at, PAGE, "PAGEOUT")
        elif deferred is None:
            deferred = a.deferred_flush()
            deferred.__enter__()
        else:
            deferred.__exit__(None, None, None)
            deferred = None
    for owner, expected in [(a, plain), *children]:
        owner.read(BASE, 4 * PAGE)
        assert [owner.writes(BASE + n * PAGE) for n in range(4)] == expected
