"""Every encoding does what a dict does, and keeps its own invariants."""

import numpy as np
import pytest
from hypothesis.stateful import run_state_machine_as_test
from machine import AgainstDict, as_argument, dump

import extmeta as em
from extmeta.frames import fail_after

ALL = slice(0, 2**36)


def test_against_dict(form):
    encoding, fields = form
    machine = type("Machine", (AgainstDict,), {"encoding": encoding, "fields": fields})
    run_state_machine_as_test(machine)


def filled(make, n=2000, seed=1):
    """Return a table with holes and words over several tables, and its content."""
    table = make()
    rng = np.random.default_rng(seed)
    vpns = np.sort(rng.choice(4 * n, n, replace=False).astype(np.uint64) + 0x3FF00)
    bits = table.fields.bits
    words = [int(rng.integers(2**62)) & ((1 << bits) - 1) for _ in vpns]
    table.map(vpns)
    table.store(vpns, as_argument(words, table.encoding.lanes))
    table.check()
    return table, vpns, words


def as_ints(words):
    return [
        sum(int(x) << 64 * i for i, x in enumerate(np.atleast_1d(w))) for w in words
    ]


def test_bulk_in_any_order(make):
    table, vpns, words = filled(make)
    order = np.random.default_rng(2).permutation(len(vpns))
    assert as_ints(table.load(vpns[order])) == [words[i] for i in order]
    assert as_ints(table.load(slice(0x3FF00, 0x42000)))[:0x100] == [
        dict(zip(vpns.tolist(), words, strict=True)).get(v, 0)
        for v in range(0x3FF00, 0x40000)
    ]
    reverse = words[::-1]
    table.store(
        vpns[order], as_argument([reverse[i] for i in order], table.encoding.lanes)
    )
    assert as_ints(table.load(vpns)) == reverse
    table.check()


def test_words_of_zero_give_side_memory_back(make):
    table, vpns, _words = filled(make)
    empty = make()
    empty.map(vpns)
    table.store(vpns, 0)
    table.check()
    assert table.memory() == empty.memory()
    assert not table.flagged(vpns).any()


def test_last_of_duplicates_wins(make):
    table = make()
    table.map([5, 600, 5], pfns=[1, 2, 3])
    assert len(table) == 2
    assert table.tables[0][5] >> 12 & 0xFFFFFFFF == 3
    table.store([5, 600, 5], as_argument([1, 1, 0], table.encoding.lanes))
    assert table.flagged([5, 600]).tolist() == [False, True]
    table.swap_out([5, 5], [7, 8])
    table.swap_in([5, 5], [9, 10])
    assert table.tables[0][5] >> 12 & 0xFFFFFFFF == 10
    table.check()


def test_move_within_a_table_keeps_the_room_made_for_its_neighbour(make):
    """A run that left a table without words once freed what a later run needs."""
    table = make()
    table.map([511, 512])
    table.store(512, 1)
    table.move(511, 0, 2)
    assert table.load(1) == 1
    assert len(table) == 2
    table.check()


def test_child_outlives_its_parent(make):
    table, vpns, words = filled(make)
    child = table.copy()
    grandchild = child.copy()
    del table
    child.store(vpns, 0)
    del child
    assert as_ints(grandchild.load(vpns)) == words
    grandchild.check()


def test_children_are_apart(make):
    table, vpns, words = filled(make)
    child = table.copy()
    assert dump(child) == dump(table)
    child.update(ALL, clear=(1 << table.fields.bits) - 1)
    table.update(vpns[:10], set=1)
    assert as_ints(table.load(vpns[10:])) == words[10:]
    assert not child.flagged(vpns).any()
    child.unmap(0, 2**36)
    assert len(child) == 0
    assert len(table) == len(vpns)


OPERATIONS = {
    "map": lambda t, v: t.map(np.arange(0x90000, 0x90800, dtype=np.uint64)),
    "map_huge": lambda t, v: t.map_huge([0x80000, 0x1000000]),
    "store": lambda t, v: t.store(v, 1),
    "store one": lambda t, v: t.store(int(v[-1]), 1),
    "update": lambda t, v: t.update(ALL, set=1),
    "fork": lambda t, v: t.fork(),
    "move": lambda t, v: t.move(int(v[0]), 0x5000003, 1500),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_memory_that_cannot_be_had(make, operation):
    """Whichever allocation fails, the table is as it was; then it succeeds."""
    table, vpns, _words = filled(make, 600)
    table.update(vpns[100:], clear=(1 << table.fields.bits) - 1)
    before = dump(table)
    failures = 0
    try:
        while True:
            fail_after(failures)
            try:
                OPERATIONS[operation](table, vpns)
                break
            except MemoryError:
                failures += 1
            fail_after()
            table.check()
            assert dump(table) == before
    finally:
        fail_after()
    table.check()
    if operation in ("map", "map_huge", "fork", "move"):
        assert failures > 0


def test_no_memory_for_a_table_at_all():
    try:
        fail_after(0)
        with pytest.raises(MemoryError, match="root table"):
            em.PageTable()
    finally:
        fail_after()


@pytest.mark.slow
def test_a_million_rounds_leak_nothing(encoding):
    table = em.PageTable(encoding, em.Fields(soft_dirty=1))
    table.map(0x1000)
    table.store(0x1000, 1)
    before = table.memory()
    room = np.asarray(table.frames_view()).shape
    for round_ in range(1_000_000):
        vpn = 0x40000 + (round_ * 0x10001 & 0xFFFFFFF)
        table.map(vpn)
        if round_ & 7 == 0:
            table.store(vpn, 1)
        table.unmap(vpn, 1)
    assert table.memory() == before
    assert np.asarray(table.frames_view()).shape == room
    table.check()
