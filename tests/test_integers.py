"""What callers pass as integers: taken exactly, or refused."""

import array
import decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import extmeta as em
from extmeta.integers import uint64s, whole


class Index:
    """An integer by ``__index__`` only."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


EDGES = [0, 1, 5, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = st.lists(st.sampled_from(EDGES) | st.integers(0, 2**64 - 1), max_size=20)
# Each form has to mean what the list of its items means.
FORMS = {
    "list": list,
    "tuple": tuple,
    "uint64": lambda words: np.array(words, np.uint64),
    "big-endian": lambda words: np.array(words, ">u8"),
    "with steps": lambda words: np.repeat(np.array(words, np.uint64), 2)[::2],
    "objects": lambda words: np.array(words, object),
    "array": lambda words: array.array("Q", words),
    "memoryview": lambda words: memoryview(array.array("Q", words)),
    "iterator": iter,
    "numpy's": lambda words: [np.uint64(word) for word in words],
    "0-d arrays": lambda words: [np.array(word, np.uint64) for word in words],
    "__index__": lambda words: [Index(word) for word in words],
}


@pytest.mark.parametrize("form", FORMS)
@given(words=WORDS)
def test_a_form_means_its_list(form, words):
    assert uint64s("words", FORMS[form](words)).tolist() == words
    table = em.PageTable()
    table.map(range(len(words)))
    table.store(range(len(words)), FORMS[form](words))
    assert table.load(range(len(words))).tolist() == words


@given(
    st.integers(0, 2**64 - 1),
    st.integers(-(2**62), 2**62).filter(bool),
    st.integers(0, 40),
)
def test_a_range_means_its_list(first, step, n):
    words = range(first, first + n * step, step)
    if words and not (0 <= words[-1] < 2**64):
        with pytest.raises(ValueError, match="words: "):
            uint64s("words", words)
        return
    assert uint64s("words", words).tolist() == list(words)
    table = em.PageTable()
    table.map(range(n))
    table.store(range(n), words)
    assert table.load(range(n)).tolist() == list(words)


@given(st.lists(st.integers(0, 2**130 - 1), max_size=10))
def test_words_of_several_lanes(words):
    table = em.PageTable(fields=em.Fields(a=130))
    vpns = range(len(words))
    table.map(vpns)
    rows = [[word >> 64 * i & 2**64 - 1 for i in range(3)] for word in words]
    for form in (
        words,
        np.array(words, object),
        rows,
        np.array(rows, np.uint64).reshape(-1, 3),
    ):
        table.store(vpns, 0)
        table.store(vpns, form)
        assert [table.load(vpn) for vpn in vpns] == words


REFUSED = [
    *(True, np.True_, 1.0, np.float64(1), "1", b"1", decimal.Decimal(1)),
    *([True], [1.0], ["1"], [None], {1}, {1: 2}, bytearray(b"1"), [[1]]),
    *(np.array([1.0]), np.array([True]), np.array([]), np.array(["1"])),
    np.array([1], object).reshape(1, 1),
    np.ma.array([1], mask=[True]),
    np.array([1], "m8[s]"),
]


@pytest.mark.parametrize("value", REFUSED, ids=repr)
def test_what_is_no_integer_is_refused_everywhere(value):
    table = em.PageTable(fields=em.Fields(a=8))
    table.map(1, pfns=1)
    for call in (
        *(lambda: table.map(value), lambda: table.load(value)),
        *(lambda: table.store(1, value), lambda: table.store(1, a=value)),
        *(lambda: table.map(2, pfns=value), lambda: table.swap_out(1, value)),
        *(lambda: table.update(1, set=value), lambda: table.unmap(value)),
        *(
            lambda: table.scan(slice(0, 2), value, 0),
            lambda: em.Fields(a=8).pack(a=value),
        ),
        *(lambda: table.fields.unpack(value), lambda: table.flagged(value)),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert (len(table), table.load(1), table.snapshot(2)) == (1, 0, (0, 0))


def test_one_integer_is_what_has_index():
    table = em.PageTable()
    table.map(Index(5), pfns=Index(3))
    table.store(Index(5), Index(7))
    assert table.load(Index(5)) == table.load(np.array(5)) == 7
    assert em.Fields(a=8, b=1).pack(a=Index(9), b=np.uint8(1)) == 0x109
    assert whole("n", np.int8(5)) == 5
