"""What words by page are: shared, and gone with the page."""

import gc
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

import extmeta as em

SECTION = 1 << 15
ARRAY = {8: SECTION, 9: 2 * SECTION, 17: 4 * SECTION, 64: 8 * SECTION}


def made(bits=8):
    return em.PageTable("page_ext", em.Fields(m=bits))


def test_ptes_of_a_page_share_its_word():
    table = made()
    table.map([1, 2000, 3], pfns=[7, 7, 8])
    table.store(1, 5)
    assert table.load([1, 2000, 3]).tolist() == [5, 5, 0]
    assert table.scan(slice(0, 4096), 0xFF, 5).tolist() == [1, 2000]
    table.store(2000, 6)
    assert table.load(1) == 6
    table.check()


def test_the_word_goes_with_the_last_pte():
    table = made()
    table.map([1, 2], pfns=[7, 7])
    table.store(1, 5)
    table.unmap(1)
    assert table.load(2) == 5
    table.unmap(2)
    assert table.memory().side == table.memory().index == 0
    table.map(9, pfns=7)
    assert table.load(9) == 0
    table.check()


def test_a_child_shares_its_parents_words():
    parent = made()
    parent.map([1, 2], pfns=[7, 8])
    parent.store([1, 2], [5, 6])
    child = parent.fork()
    child.store(1, 9)
    assert parent.load([1, 2]).tolist() == [9, 6]
    parent.unmap(slice(0, 512))
    assert child.load([1, 2]).tolist() == [9, 6]
    child.check()
    # A page of its own, as after copy-on-write.
    child.unmap(1)
    child.map(1, pfns=100)
    assert child.load([1, 2]).tolist() == [0, 6]


def test_a_table_that_is_gone_maps_nothing():
    parent = made()
    child = parent.fork()
    child.map(1, pfns=7)
    child.store(1, 5)
    parent.map(3, pfns=7)
    assert parent.load(3) == 5
    parent.unmap(3)
    assert parent.memory().side == ARRAY[8]
    cycle = [child]
    cycle.append(cycle)
    del child, cycle
    gc.collect()
    assert parent.memory().side == 0
    parent.map(3, pfns=7)
    assert parent.load(3) == 0
    parent.check()


def test_new_pages_are_no_pages_of_the_family():
    parent = made()
    parent.map(1)
    child = parent.fork()
    parent.map(2)
    child.map(2)
    parent.store([1, 2], [5, 6])
    assert child.load([1, 2]).tolist() == [5, 0]


def test_a_copy_shares_nothing():
    table = made()
    table.map([1, 2, 3], pfns=[7, 7, 9])
    table.store([1, 3], [5, 6])
    copy = table.copy()
    copy.store(1, 9)
    assert table.load([1, 2, 3]).tolist() == [5, 5, 6]
    assert copy.load([1, 2, 3]).tolist() == [9, 9, 6]
    copy.check()
    del table
    copy.check()


def test_a_page_that_is_swapped_out_has_no_word():
    table = made()
    table.map([1, 2], pfns=[7, 8])
    table.store(1, 5)
    with pytest.raises(ValueError, match=r"0x1: PageExt.*of word 0x5 in a swap"):
        table.swap_out([2, 1], [0, 1])
    assert table.load([1, 2]).tolist() == [5, 0]
    table.swap_out(2, 0)
    with pytest.raises(ValueError, match=r"0x2: PageExt.*no place"):
        table.store(2, 1)
    # Its page is free now, and another's.
    table.map(3, pfns=8)
    table.store(3, 6)
    table.swap_in(2, 8)
    assert table.load(2) == 6
    table.check()


def test_moved_ptes_keep_their_pages():
    table = made()
    table.map(range(100, 140), pfns=np.arange(40) % 20)
    table.store(range(100, 120), np.arange(1, 21))
    table.move(slice(100, 140), 500)
    assert table.load(range(500, 540)).tolist() == [*range(1, 21)] * 2
    table.check()


@pytest.mark.parametrize("bits", ARRAY)
def test_an_array_for_each_section_that_has_a_word(bits):
    table = made(bits)
    pfns = np.array([5, SECTION - 1, SECTION, 2**40 - 1])
    table.map(range(4), pfns=pfns)
    assert table.memory().side == table.memory().index == 0
    for vpn, arrays in enumerate([1, 1, 2, 3]):
        table.store(vpn, 1)
        assert table.memory().side == arrays * ARRAY[bits]
        assert table.memory().index == arrays * 16
    table.store([0, 3], 0)
    assert table.memory().side == 2 * ARRAY[bits]
    assert table.load(range(4)).tolist() == [0, 1, 1, 0]
    table.check()


@given(st.lists(st.integers(0, 60), max_size=40), st.lists(st.integers(0, 60)))
def test_pfns_named_twice(vpns, pfns):
    """The last pfn of a vpn wins, and no page is counted twice for it."""
    n = min(len(vpns), len(pfns))
    table = made()
    table.map(vpns[:n], pfns=[pfn * 1000 for pfn in pfns[:n]])
    table.store(vpns[:n], 1)
    table.check()
    table.unmap(slice(0, 512))
    assert table.memory().side == 0


class Family(RuleBasedStateMachine):
    """Forks of one table, and a model that has a word for each page."""

    def __init__(self):
        super().__init__()
        self.tables = [(made(), {})]
        self.words = {}

    def one(self, which):
        return self.tables[which % len(self.tables)]

    def forget(self):
        held = {pfn for _table, ptes in self.tables for pfn in ptes.values()}
        self.words = {p: w for p, w in self.words.items() if p in held and w}

    @rule(which=st.integers(0, 9), vpn=st.integers(0, 20), pfn=st.integers(0, 9))
    def map(self, which, vpn, pfn):
        table, ptes = self.one(which)
        if vpn not in ptes:
            table.map(vpn * 100, pfns=pfn * 20_000)
            ptes[vpn] = pfn

    @rule(which=st.integers(0, 9), vpn=st.integers(0, 20), word=st.integers(0, 3))
    def store(self, which, vpn, word):
        table, ptes = self.one(which)
        if vpn in ptes:
            table.store(vpn * 100, word)
            self.words[ptes[vpn]] = word

    @rule(which=st.integers(0, 9), first=st.integers(0, 20), n=st.integers(0, 5))
    def unmap(self, which, first, n):
        table, ptes = self.one(which)
        table.unmap(slice(first * 100, first * 100 + n * 100))
        for vpn in range(first, first + n):
            ptes.pop(vpn, None)
        self.forget()

    @rule(which=st.integers(0, 9))
    def fork(self, which):
        if len(self.tables) < 4:
            table, ptes = self.one(which)
            self.tables.append((table.fork(), dict(ptes)))

    @rule(which=st.integers(0, 9))
    def drop(self, which):
        if len(self.tables) > 1:
            self.tables.pop(which % len(self.tables))
            self.forget()

    @invariant()
    def same(self):
        for table, ptes in self.tables:
            expected = [self.words.get(ptes.get(vpn), 0) for vpn in range(21)]
            assert table.load(range(0, 2100, 100)).tolist() == expected
            table.check()
        arrays = {pfn * 20_000 // SECTION for pfn, word in self.words.items() if word}
        assert self.tables[0][0].memory().side == len(arrays) * ARRAY[8]


def test_a_family_against_a_dict():
    run_state_machine_as_test(Family)


def test_threads_on_tables_of_a_family():
    """Two threads once had a lock each, and the words of both."""
    parent = made()
    parent.map(range(2000))
    child = parent.fork()
    failed = []

    def work(table, first):
        try:
            for round_ in range(1, 60):
                table.store(slice(first, first + 1000), round_)
                assert (table.load(slice(first, first + 1000)) == round_).all()
                table.map(range(5000, 5100))
                table.store(range(5000, 5100), 1)
                table.unmap(slice(5000, 5100))
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [
        threading.Thread(target=work, args=arguments)
        for arguments in ((parent, 0), (child, 1000))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    parent.check()
    child.check()
