"""The kernel's loops leave what the bulk operations leave, in every encoding."""

import numpy as np
import pytest

import extmeta as em
from extmeta.captures.capture import load_capture, shipped
from extmeta.cost import loop_tasks
from extmeta.cost.forms import default_forms, form
from extmeta.cost.loops import Loops
from extmeta.cost.measure import verify
from extmeta.cost.space import space_of
from extmeta.cost.tasks import Filled, point_words
from extmeta.memory.allowance import fail_after
from extmeta.rows import Point

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=4)
FIRST = 0x1000 - 100
VPNS = range(FIRST, FIRST + 1300)
ALL_BITS = np.array([2**64 - 1], np.uint64)


def loops_of(each):
    return Loops(2048, each)


@pytest.fixture(params=default_forms())
def table(request):
    """Three tables, some entries empty, some swapped, two thirds with words."""
    t = em.PageTable(form(request.param), FIELDS)
    vpns = np.arange(VPNS.start, VPNS.stop, dtype=np.uint64)
    t.map(vpns[vpns % 7 != 0])
    mapped = t.vpns()
    words = 3 + 4 * (mapped % 5)
    t.store(mapped[mapped % 3 != 0], words[mapped % 3 != 0])
    t.update(mapped[::50], clear=(1 << FIELDS.bits) - 1)
    # page_ext has no word in a swap entry, not even by a later update.
    if not t.encoding.by_page:
        t.swap_out(mapped[::50], np.arange(1, len(mapped[::50]) + 1))
    return t


@pytest.mark.parametrize("each", [False, True])
def test_fork_copies_entries_and_words(table, each):
    loops = loops_of(each)
    vpns, words = table.vpns(), table.load(VPNS)
    child = loops.fork(table)
    for t in (table, child):
        t.check()
        assert len(t) == len(vpns)
        assert (t.load(VPNS) == words).all()
    # The child's words are its own.
    if not table.encoding.by_page:
        child.update(VPNS, clear=(1 << FIELDS.bits) - 1)
        child.check()
        assert (table.load(VPNS) == words).all()
    write = 1 << table.arch.write
    ptes, _ = table.snapshot(vpns)
    present = ptes & np.uint64(1 << table.arch.present) != 0
    assert not (ptes[present] & np.uint64(write)).any()
    pfn = int(ptes[present][0]) >> table.arch.pfn_shift & (1 << table.arch.pfn_bits) - 1
    assert loops.counts(pfn) == (1, 1)
    loops.unmap(child, VPNS)
    child.check()
    assert loops.counts(pfn) == (0, 0)
    assert len(child) == 0
    assert child.memory().pte == 0
    if not table.encoding.by_page:
        assert child.memory().side == child.memory().index == 0


@pytest.mark.parametrize("each", [False, True])
def test_a_write_is_that_of_update_and_store(table, each):
    loops, twin = loops_of(each), table.copy()
    twin.update(VPNS, clear=0b1000, set=0b10)
    loops.write(table, VPNS, ALL_BITS ^ np.uint64(0b1000), np.array([0b10], np.uint64))
    table.check()
    assert (table.load(VPNS) == twin.load(VPNS)).all()
    mapped = twin.vpns()
    at = mapped.astype(np.intp) - FIRST
    words = np.zeros(len(VPNS), np.uint64)
    words[at] = at % 4
    twin.store(mapped, words[at])
    loops.write(table, VPNS, ALL_BITS ^ ALL_BITS, words)
    table.check()
    assert (table.load(VPNS) == twin.load(VPNS)).all()


@pytest.mark.parametrize("each", [False, True])
def test_an_unmap_of_a_part_leaves_the_rest(table, each):
    loops, twin = loops_of(each), table.copy()
    # Counts start at 0, so a zap alone takes them below.
    part = range(FIRST + 30, FIRST + 900)
    loops.unmap(table, part)
    twin.unmap(part)
    table.check()
    assert (table.vpns() == twin.vpns()).all()
    assert (table.load(VPNS) == twin.load(VPNS)).all()


def test_each_lock_and_each_changed_descriptor_is_counted():
    t = em.PageTable("linked", FIELDS)
    t.map(range(1024))
    loops = Loops(1024)
    loops.write(t, range(1024), ALL_BITS, np.array([1], np.uint64))
    assert (loops.nr_locked, loops.nr_described) == (2, 2)
    loops.write(t, range(1024), ALL_BITS, np.array([2], np.uint64))
    assert (loops.nr_locked, loops.nr_described) == (4, 2)


def test_huge_pages_go_to_the_child():
    t = em.PageTable("linked")
    t.map_huge(0, deposit=True)
    child = Loops(1).fork(t)
    child.check()
    assert child.memory() == t.memory()


def test_bad_input_is_named():
    t = em.PageTable("inpte", FIELDS)
    t.map(range(4))
    one = np.array([1], np.uint64)
    with pytest.raises(ValueError, match="1 and 3 uint64s"):
        Loops(4).write(t, range(4), one, np.repeat(one, 3))
    t.swap_out(2, 1)
    with pytest.raises(ValueError, match="no place for bits"):
        Loops(4).write(t, range(4), one, np.array([0b111100], np.uint64))


def test_a_fork_without_memory_leaves_the_parent_as_it_was():
    t = em.PageTable("linked")
    t.map(range(1024))
    t.store(range(1024), 5)
    for n in range(6):
        fail_after(n)
        try:
            with pytest.raises(MemoryError):
                Loops(1024).fork(t)
        finally:
            fail_after(None)
        t.check()
        assert (t.load(range(1024)) == 5).all()


@pytest.mark.parametrize("encoding", ["inpte", "linked", "wide"])
@pytest.mark.parametrize("operation", loop_tasks.TASKS)
def test_loops_work_in_a_capture_with_deposits(encoding, operation):
    """`compare all` failed in the loop that unmaps: it leaves huge pages."""
    space = space_of(load_capture(shipped()["ml"]), "ml")
    assert len(space.deposited)
    fields = em.Fields(uffd_wp=1, soft_dirty=1)
    words, _ = point_words(space, fields, fields, Point(0.01, "random"), 0, "different")
    verify(loop_tasks.TASKS[operation](Filled(space.bare(encoding, fields), words)))
