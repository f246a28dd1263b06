"""The hash table behind `hash`, against a dict."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extmeta.encodings.vpnhash import VpnHash
from extmeta.memory.allowance import fail_after

# Each kind of line: packed, 5, 4 and 3 slots, the narrowest and the widest keys.
WIDTHS = [(36, 8), (2, 8), (53, 11), (36, 28), (36, 64), (38, 64), (27, 40), (48, 64)]
WIDTHS += [(39, 64), (53, 64)]


@st.composite
def histories(draw):
    """Return widths, and words to store: few vpns, so that some go and come back."""
    key_bits, word_bits = draw(st.sampled_from(WIDTHS))
    vpn = st.integers(0, (1 << key_bits) - 1)
    near = st.integers(0, min(1 << key_bits, 300) - 1)
    few = draw(st.lists(vpn | near, min_size=1, max_size=150))
    word = st.sampled_from([0, 1, (1 << word_bits) - 1])
    step = st.lists(st.tuples(st.sampled_from(few), word), max_size=200)
    return key_bits, word_bits, draw(st.lists(step, max_size=4))


@given(histories())
def test_against_a_dict(history):
    key_bits, word_bits, steps = history
    table, model = VpnHash(key_bits, word_bits), {}
    for i, step in enumerate(steps):
        store = table.store_each if i % 2 else table.store
        store([vpn for vpn, _ in step], [word for _, word in step])
        model |= dict(step)
        table.check()
        assert len(table) == sum(word != 0 for word in model.values())
        around = [*model, *((vpn + 1) % (1 << key_bits) for vpn in model)]
        expected = [model.get(vpn, 0) for vpn in around]
        assert table.load(around).tolist() == expected
        assert table.load_each(around).tolist() == expected


@pytest.mark.parametrize(("word_bits", "least", "most"), [(64, 16, 21.2), (28, 10, 13)])
def test_bytes_a_word_at_every_size(word_bits, least, most):
    table = VpnHash(36, word_bits)
    for vpn in range(0, 3 * 8000, 3):
        table.store([vpn], [1])
        if vpn > 1000:
            assert least <= table.held / len(table) <= most


def test_it_shrinks_and_is_empty_at_last():
    table = VpnHash(36, 64)
    vpns = np.arange(0, 70_000, 7)
    table.store(vpns, vpns + 1)
    full = table.held
    table.store(vpns[100:], np.zeros(len(vpns) - 100, np.uint64))
    assert table.held < full / 50
    assert table.load(vpns[:100]).tolist() == (vpns[:100] + 1).tolist()
    table.check()
    table.store(vpns, np.zeros(len(vpns), np.uint64))
    assert table.held == len(table) == 0


def test_no_decay_by_deletions():
    """Words that come and go leave nothing behind, nor do they move the table."""
    table = VpnHash(36, 64)
    vpns = np.random.default_rng(1).permutation(1 << 16)[:40_000]
    table.store(vpns[:1000], vpns[:1000] + 1)
    held = table.held
    for i in range(0, 39_000, 100):
        table.store(vpns[i : i + 100], np.zeros(100, np.uint64))
        table.store(vpns[i + 1000 : i + 1100], np.ones(100, np.uint64))
        assert table.held == held
    table.check()


def test_memory_that_cannot_be_had():
    table = VpnHash(36, 64)
    table.store([1, 2, 3], [1, 2, 3])
    held = table.held
    try:
        fail_after(0)
        for store in (table.store, table.store_each):
            with pytest.raises(MemoryError, match="for 3 words"):
                store([4, 5], [4, 5])
    finally:
        fail_after()
    assert table.load([1, 2, 3, 4, 5]).tolist() == [1, 2, 3, 0, 0]
    assert table.held == held
    table.check()


def test_lengths_that_differ():
    with pytest.raises(ValueError, match="1 words for 2 vpns"):
        VpnHash(36, 64).store([1, 2], [1])
