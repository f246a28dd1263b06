"""Fields: names, widths, and where they lie in a word."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import extmeta as em

names = st.sampled_from("abcdefgh")
layouts = st.dictionaries(names, st.integers(1, 64), min_size=1)


def test_lowest_bits_first():
    fields = em.Fields(uffd_wp=1, soft_dirty=1, age=8)
    assert fields.bits == 10
    assert fields.mask("uffd_wp") == 1
    assert fields.mask("age") == 0x3FC
    assert fields.pack(age=3, soft_dirty=1) == 0b1110
    assert list(fields) == ["uffd_wp", "soft_dirty", "age"]
    assert fields["age"] == 8
    assert repr(fields) == "Fields(uffd_wp=1, soft_dirty=1, age=8)"


def test_order_makes_another_layout():
    assert em.Fields(a=1, b=2) == em.Fields(a=1, b=2)
    assert em.Fields(a=1, b=2) != em.Fields(b=2, a=1)
    assert em.Fields(a=1) != {"a": 1}
    assert len({em.Fields(a=1), em.Fields(a=1), em.Fields(a=2)}) == 2


@pytest.mark.parametrize(
    ("widths", "error", "message"),
    [
        ({}, ValueError, "needs a field"),
        ({"a": 0}, ValueError, "'a': width 0"),
        ({"a": -3}, ValueError, "width -3"),
        ({"a": 1.5}, TypeError, "width: 1.5"),
        ({"a": True}, TypeError, "width: True"),
        ({"a": "8"}, TypeError, "width: '8'"),
        ({"a": 513}, ValueError, "513 bits; at most 512"),
        ({"vpns": 1}, ValueError, "'vpns'"),
        ({"words": 1}, ValueError, "'words'"),
    ],
)
def test_refused(widths, error, message):
    with pytest.raises(error, match=message):
        em.Fields(**widths)


def test_unknown_and_too_wide():
    fields = em.Fields(age=8)
    for call in (fields.mask, fields.shift, fields.__getitem__):
        with pytest.raises(KeyError, match="'old'"):
            call("old")
    with pytest.raises(ValueError, match="8 bits can't hold 256"):
        fields.pack(age=256)


@given(layouts, st.data())
def test_pack_and_unpack(layout, data):
    fields = em.Fields(**layout)
    values = {n: data.draw(st.integers(0, 2**b - 1)) for n, b in layout.items()}
    word = fields.pack(**values)
    assert fields.unpack(word) == values
    assert word < 1 << fields.bits
    lanes = -(-fields.bits // 64)
    words = np.array([[word >> 64 * i & 2**64 - 1 for i in range(lanes)]], np.uint64)
    again = np.zeros_like(words)
    for name, value in values.items():
        assert fields.extract(words, name).tolist() == [value]
        fields.deposit(np.array([[value]], np.uint64), name, again)
    assert (again == words).all()
