"""What `hash` holds, and ranges that it works off by a list or a walk."""

import numpy as np
import pytest

import extmeta as em
from extmeta.memory.allowance import fail_after


def made(nr_words, bits=64, nr_ptes=1 << 14, seed=1):
    table = em.PageTable("hash", em.Fields(m=bits))
    table.map(range(nr_ptes))
    rng = np.random.default_rng(seed)
    vpns = np.sort(rng.choice(nr_ptes, nr_words, replace=False).astype(np.uint64))
    words = rng.integers(1, 1 << bits, nr_words, np.uint64, endpoint=bits < 64)
    words &= np.uint64((1 << bits) - 1)
    words[words == 0] = 1
    table.store(vpns, words)
    return table, vpns, words


@pytest.mark.parametrize("bits", [8, 64])
@pytest.mark.parametrize("nr_words", [1, 150, 3000, 8000, 16000])
@pytest.mark.parametrize("can_allocate", [True, False])
def test_ranges(nr_words, bits, can_allocate):
    """By a sorted list where words are few and there is memory, else by probing."""
    table, vpns, words = made(nr_words, bits)
    try:
        if not can_allocate:
            fail_after(0)
        for first, stop in ((0, 1 << 14), (100, 9001), (512, 1024), (5, 6)):
            inside = (vpns >= first) & (vpns < stop)
            odd = inside & (words & np.uint64(1) == 1)
            assert (table.scan(slice(first, stop), 1) == vpns[odd]).all()
            even = np.setdiff1d(np.arange(first, stop), vpns[odd])
            assert (table.scan(slice(first, stop), 1, 0) == even).all()
            expected = np.zeros(stop - first, np.uint64)
            expected[vpns[inside] - first] = words[inside]
            assert (table.load(slice(first, stop)) == expected).all()
            assert (table.load(np.arange(first, stop)) == expected).all()
        table.update(slice(100, 9001), clear=1)
        inside = (vpns >= 100) & (vpns < 9001)
        words[inside] &= ~np.uint64(1)
        assert (table.load(vpns) == words).all()
        table.unmap(slice(700, 9700))
        words[(vpns >= 700) & (vpns < 9700)] = 0
        assert (table.load(vpns) == words).all()
    finally:
        fail_after()
    table.check()
    table.unmap(slice(0, 1 << 14))
    assert table.memory().total == 4096


def test_the_word_is_side_and_the_key_is_index():
    table, _vpns, _words = made(1000)
    memory = table.memory()
    # A line of 64 bytes has 5 words.
    assert memory.side * 64 == (memory.side + memory.index) * 40
    table, _vpns, _words = made(1000, 8)
    memory = table.memory()
    assert memory.side * 64 == (memory.side + memory.index) * 8


def test_no_bit_of_the_pte_is_spent():
    table, vpns, _words = made(100)
    bare = em.PageTable("hash")
    bare.map(range(1 << 14))
    for first, ptes in table.tables.items():
        assert (ptes == bare.tables[first]).all()
    assert table.flagged(vpns).all()


def test_a_move_to_where_nothing_is_makes_room():
    """Words of entries that are only moved there later once had no room."""
    table, _vpns, _words = made(1)
    for n in range(1, 400):
        table.store(n, n)
    table.move(slice(0, 1 << 14), 1 << 20)
    assert table.load(range((1 << 20) + 1, (1 << 20) + 400)).tolist() == [
        *range(1, 400)
    ]
    table.check()
