"""Words as codes: where they lie, what is refused, and what VMAs choose."""

import ctypes
import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import extmeta as em
from extmeta.arch import ARCHES
from extmeta.memory.allowance import fail_after
from extmeta.testing.machine import dump, legal

X86 = ARCHES["x86_64"]
PAIR = ("uffd_wp", "soft_dirty")
TRACKERS = em.Fields(uffd_wp=1, soft_dirty=1)
FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=4)
XOR = em.Compact(excludes=[PAIR])
MUX = em.Compact(per_vma=[PAIR])

UFFD_WP, SOFT_DIRTY = 1, 2


def mux(nr_ptes=0x3000):
    """Return a table in which [0x1000, 0x2000) uses soft_dirty."""
    table = em.PageTable(MUX, FIELDS)
    table.encoding.choose(0x1000, 0x2000, "soft_dirty")
    table.map(slice(0, nr_ptes))
    return table


# -- where codes lie -------------------------------------------------------------


def test_the_code_is_where_the_plan_says():
    table = em.PageTable(XOR, FIELDS)
    found = table.encoding.plan
    assert found == em.plan(FIELDS, excludes=[PAIR])
    codes = found.codes()
    table.map(slice(0, len(codes)))
    bare = table.tables[0].copy()
    table.store(slice(0, len(codes)), np.array(list(codes), np.uint64))
    for i, code in enumerate(codes.values()):
        bits = sum(
            1 << bit for j, bit in enumerate(found.assignment.present) if code >> j & 1
        )
        assert int(table.tables[0][i]) == int(bare[i]) | bits


def test_it_takes_no_memory_beside_the_tables():
    table = em.PageTable(XOR, FIELDS)
    table.map(slice(0, 5000))
    before = table.memory()
    table.store(slice(0, 5000), UFFD_WP)
    assert table.memory() == before
    assert before.side == before.index == 0


def test_one_bit_serves_three_trackers(monkeypatch):
    """RISC-V V2, CAAfSe-v6+Gc8ujv3m3LdBPk+rGSqmz44RheoNqGJcXjOq3vU9A@mail.gmail.com."""
    arch = dataclasses.replace(X86, name="one_bit", free=(52,), owned={})
    monkeypatch.setitem(ARCHES, "one_bit", arch)
    fields = em.Fields(soft_dirty=1, uffd_wp=1, devmap=1)
    table = em.PageTable(em.Compact(per_vma=[tuple(fields)]), fields, "one_bit")
    for i, name in enumerate(fields):
        table.encoding.choose(512 * i, 512 * i + 512, name)
        table.map(512 * i, pfns=0)
        table.store(512 * i, **{name: 1})
        assert int(table.tables[512 * i][0]) >> 52 == 1
        table.swap_out(512 * i, 1)
    assert table.load([0, 512, 1024]).tolist() == [1, 2, 4]
    with pytest.raises(ValueError, match=r"4 combinations.* 2 bits.*there are 1"):
        em.PageTable(em.Compact(excludes=[tuple(fields)]), fields, "one_bit")


def test_fields_that_do_not_fit_are_refused():
    fields = em.Fields(uffd_wp=1, soft_dirty=1, age=7)
    with pytest.raises(
        ValueError,
        match=r"Compact\(\) on x86_64: 512 .* need 9 bits.* are 8, 1 missing",
    ):
        em.PageTable("compact", fields)
    # A quarter less of them takes no bit less.
    with pytest.raises(ValueError, match=r"384 combinations.*9 bits"):
        em.PageTable(XOR, fields)
    with pytest.raises(em.PlanConflict, match=r"on x86_64: field 'age' can never"):
        em.PageTable(
            em.Compact(excludes=[("age", "uffd_wp")], implies=[("age", "uffd_wp")]),
            fields,
        )
    with pytest.raises(KeyError, match="no field named 'pin'"):
        em.PageTable(em.Compact(excludes=[("pin", "age")]), fields)
    with pytest.raises(ValueError, match="holds 64 bits"):
        em.PageTable("compact", em.Fields(a=65))
    with pytest.raises(TypeError, match="'uffd_wp' is not a group"):
        em.Compact(excludes=PAIR)


def test_more_than_is_numbered(monkeypatch):
    names = [f"f{i}" for i in range(18)]
    fields = em.Fields(**dict.fromkeys(names, 1))
    triples = [names[i : i + 3] for i in range(0, 18, 3)]
    with pytest.raises(ValueError, match="729 choices of VMAs are too many"):
        em.PageTable(em.Compact(per_vma=triples), fields)
    arch = dataclasses.replace(X86, name="roomy", free=tuple(range(40, 58)))
    monkeypatch.setitem(ARCHES, "roomy", arch)
    with pytest.raises(ValueError, match=r"262144 words.* at most 32768"):
        em.PageTable("compact", fields, "roomy")


# -- what is refused -------------------------------------------------------------


@pytest.fixture
def xor():
    table = em.PageTable(XOR, FIELDS)
    table.map(slice(0, 1500))
    table.store(slice(0, 1500), UFFD_WP)
    table.store(700, SOFT_DIRTY | 5 << 2)
    return table


WHY = "uffd_wp and soft_dirty exclude each other"

REFUSED = {
    "store": (lambda t: t.store(range(300, 1400), 3), "0x12c"),
    "one": (lambda t: t.store(700, 3), "0x2bc"),
    "array": (
        lambda t: t.store(range(1000), np.where(np.arange(1000) == 900, 3, 1)),
        "0x384",
    ),
    "scattered": (lambda t: t.store([1, 900, 2], [1, 3, 1]), "0x384"),
    "field": (lambda t: t.store([700, 699], soft_dirty=1), "0x2bb"),
    "field of some": (
        lambda t: t.store(range(600, 800), uffd_wp=(np.arange(200) > 90) * 1),
        "0x2bc",
    ),
    "update": (lambda t: t.update(slice(0, 2**36), set=UFFD_WP), "0x2bc"),
    "update few": (lambda t: t.update([3, 700], set=UFFD_WP), "0x2bc"),
}


@pytest.mark.parametrize("call", REFUSED)
def test_an_illegal_word_is_refused_before_anything_changes(xor, call):
    function, vpn = REFUSED[call]
    before = dump(xor)
    with pytest.raises(ValueError, match=f"vpn {vpn}: Compact.*: {WHY}"):
        function(xor)
    assert dump(xor) == before
    xor.check()


def test_what_clears_can_be_refused_too():
    """A word without what another field of it implies."""
    table = em.PageTable(em.Compact(implies=[("age", "uffd_wp")]), FIELDS)
    table.map(slice(0, 3000))
    table.store(slice(0, 2000), UFFD_WP)
    table.store(1500, age=3)
    before = dump(table)
    for vpns in (slice(0, 2**36), [1500], range(1400, 1502)):
        with pytest.raises(ValueError, match=r"0x5dc.*age implies uffd_wp, which is 0"):
            table.update(vpns, clear=UFFD_WP)
    assert dump(table) == before
    table.update(slice(0, 1500), clear=UFFD_WP)
    assert table.scan(slice(0, 3000), UFFD_WP).tolist() == list(range(1500, 2000))


def test_entries_that_hold_nothing_are_not_asked(xor):
    """A set that would be illegal for the word 0 alone."""
    table = em.PageTable(em.Compact(implies=[("age", "uffd_wp")]), FIELDS)
    table.map(range(0, 1000, 3))
    table.store(range(0, 1000, 3), UFFD_WP)
    table.update(slice(0, 2**36), set=4)
    assert table.scan(slice(0, 1000), 5).tolist() == list(range(0, 1000, 3))
    table.check()
    xor.unmap(700)
    xor.update(slice(0, 2**36), set=UFFD_WP)


def test_a_code_with_no_place_in_a_swap_entry():
    table = em.PageTable(XOR, FIELDS)
    codes = table.encoding.plan.codes()
    assert table.encoding.plan.available_swap == 3
    low = next(word for word, code in codes.items() if code == 6)
    high = next(word for word, code in codes.items() if code == 8)
    table.map([5, 600])
    table.store([5, 600], [low, high])
    before = dump(table)
    with pytest.raises(ValueError, match=r"0x258.*code 8 of word .* has no place in a"):
        table.swap_out([5, 600], 1)
    assert dump(table) == before
    table.swap_out(5, 1)
    assert table.load(5) == low
    before = dump(table)
    for call in (
        lambda: table.store(5, high),
        lambda: table.store([600, 5], high),
        lambda: table.update([5], clear=2**6 - 1, set=high),
        lambda: table.update(slice(0, 600), set=8 << 2),
        lambda: table.store(5, age=8),
    ):
        with pytest.raises(ValueError, match=r"0x5: .*has no place in a swap entry"):
            call()
        assert dump(table) == before
    table.store(5, SOFT_DIRTY)
    assert table.scan(slice(0, 4096), SOFT_DIRTY).tolist() == [5]
    table.swap_in(5, 1)
    assert table.load([5, 600]).tolist() == [SOFT_DIRTY, high]


# -- scans -----------------------------------------------------------------------


@given(st.integers(0, 63), st.integers(0, 63), st.integers(0, 2**32))
def test_every_scan_finds_what_loading_finds(mask, value, seed):
    recipe = em.Compact(excludes=[("a", "b"), ("c", "d")], implies=[("e", "c")])
    fields = em.Fields(a=2, b=1, c=1, d=1, e=1)
    table = em.PageTable(recipe, fields)
    rng = np.random.default_rng(seed)
    vpns = np.flatnonzero(rng.integers(0, 2, 2000)).astype(np.uint64)
    some = np.array(list(table.encoding.plan.codes()), np.uint64)
    words = rng.choice(some, len(vpns))
    table.map(vpns)
    table.store(vpns, words)
    table.swap_out(vpns[words == 0], 1)
    for wanted in (value, value & mask, 0):
        expected = vpns[words & np.uint64(mask) == np.uint64(wanted)]
        assert np.array_equal(table.scan(slice(0, 2000), mask, wanted), expected)


# -- what VMAs choose ------------------------------------------------------------


def test_both_trackers_use_the_one_bit():
    table = mux()
    bare = {vpn: view.copy() for vpn, view in table.tables.items()}
    table.store(slice(0, 0x1000), UFFD_WP)
    table.store(slice(0x1000, 0x2000), SOFT_DIRTY)
    assert table.encoding.plan.bits == 5
    for first in (0, 0x1000):
        assert (table.tables[first] == bare[first] | np.uint64(1 << 10)).all()
    assert table.load([0xFFF, 0x1000, 0x2000]).tolist() == [UFFD_WP, SOFT_DIRTY, 0]
    assert table.scan(slice(0xF00, 0x3000), SOFT_DIRTY).tolist() == list(
        range(0x1000, 0x2000)
    )
    assert len(table.scan(slice(0, 2**36), UFFD_WP, 0)) == 0x2000
    table.check()


def test_a_tracker_that_was_not_chosen_is_refused():
    table = mux()
    before = dump(table)
    for call, vpn, why in (
        (lambda: table.store(5, SOFT_DIRTY), "0x5", "soft_dirty.*uffd_wp holds it"),
        (lambda: table.store(0x1005, UFFD_WP), "0x1005", "uffd_wp.*soft_dirty holds"),
        (
            lambda: table.update(slice(0, 2**36), set=UFFD_WP),
            "0x1000",
            "no bit in this",
        ),
        (lambda: table.store([1, 0x1FFF, 0x2000], 1), "0x1fff", "no bit in this VMA"),
    ):
        with pytest.raises(ValueError, match=f"vpn {vpn}: .*{why}"):
            call()
        assert dump(table) == before


def test_choices_are_kept_by_range():
    encoding = mux().encoding
    assert encoding.chosen(0xFFF) == encoding.chosen(0x2000) == ("uffd_wp",)
    assert encoding.chosen(0x1000) == encoding.chosen(0x1FFF) == ("soft_dirty",)
    encoding.choose(0x1800, 0x2800, "uffd_wp")
    assert encoding.chosen(0x17FF) == ("soft_dirty",)
    assert encoding.chosen(0x1800) == ("uffd_wp",)
    encoding.choose(0x1800, 0x1800, "soft_dirty")
    assert encoding.chosen(0x1800) == ("uffd_wp",)
    encoding.choose(0, 2**36, "soft_dirty")
    assert encoding.chosen(2**36 - 1) == encoding.chosen(0) == ("soft_dirty",)


def test_a_choice_under_a_word_is_refused():
    table = mux()
    table.store(0x1234, age=3)
    before = dump(table)
    with pytest.raises(ValueError, match="0x1234 has a word; 'soft_dirty' holds"):
        table.encoding.choose(0, 0x2000, "uffd_wp")
    assert table.encoding.chosen(0x1000) == ("soft_dirty",)
    # What is chosen already, and beside the word, is fine.
    table.encoding.choose(0x1000, 0x2000, "soft_dirty")
    table.encoding.choose(0x1235, 0x2000, "uffd_wp")
    assert dump(table) == before
    table.store(0x1234, 0)
    table.encoding.choose(0, 0x2000, "uffd_wp")
    assert table.encoding.chosen(0x1234) == ("uffd_wp",)


def test_bad_choices():
    table = mux()
    for call, error, message in (
        (
            lambda: table.encoding.choose(0, 5, "age"),
            KeyError,
            "'age' that VMAs choose",
        ),
        (lambda: table.encoding.choose(5, 4, "uffd_wp"), ValueError, "0x5, 0x4"),
        (
            lambda: table.encoding.choose(0, 2**36 + 1, "uffd_wp"),
            ValueError,
            "not a range",
        ),
        (lambda: table.encoding.choose(0.5, 4, "uffd_wp"), TypeError, "0.5"),
        (lambda: MUX.choose(0, 5, "uffd_wp"), TypeError, "not a table's"),
        (lambda: table.encoding.chosen(-1), ValueError, "-1"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_fork_copies_choices():
    table = mux()
    table.store(slice(0x1000, 0x1010), SOFT_DIRTY)
    child = table.fork()
    child.encoding.choose(0, 0x1000, "soft_dirty")
    child.store(5, SOFT_DIRTY)
    assert child.load([5, 0x1005]).tolist() == [SOFT_DIRTY, SOFT_DIRTY]
    assert table.encoding.chosen(5) == ("uffd_wp",)
    assert table.load(5) == 0
    # A recipe has none, and a table of other fields doesn't take them over.
    assert em.PageTable(MUX, FIELDS).encoding.chosen(0x1000) == ("uffd_wp",)
    other = em.PageTable(table.encoding, TRACKERS)
    assert other.encoding.chosen(0x1000) == ("uffd_wp",)


def test_move_takes_choices_along():
    """As mremap takes the VMA's flags."""
    table = mux()
    words = np.tile(np.array([SOFT_DIRTY, SOFT_DIRTY | 4, 0], np.uint64), 0x100)
    table.store(slice(0x1F00, 0x2000), words[:0x100])
    table.store(slice(0x2000, 0x2100), words[:0x100] // 2 % 2)
    table.move(slice(0x1F00, 0x2100), 0x50003)
    assert np.array_equal(table.load(slice(0x50003, 0x50103)), words[:0x100])
    assert np.array_equal(table.load(slice(0x50103, 0x50203)), words[:0x100] // 2 % 2)
    assert table.encoding.chosen(0x50003) == ("soft_dirty",)
    assert table.encoding.chosen(0x50103) == ("uffd_wp",)
    assert table.encoding.chosen(0x50002) == table.encoding.chosen(0x50203)
    table.check()


def test_a_move_that_fails_moves_no_choice():
    table = mux()
    table.store(0x1005, SOFT_DIRTY)
    try:
        fail_after(0)
        with pytest.raises(MemoryError):
            table.move(slice(0x1000, 0x1010), 0x50000)
    finally:
        fail_after()
    assert table.encoding.chosen(0x50000) == ("uffd_wp",)
    with pytest.raises(ValueError, match="overlap"):
        table.move(slice(0x1000, 0x1010), 0x1001)
    assert table.load(0x1005) == SOFT_DIRTY


@given(st.data())
def test_choices_against_a_list(data):
    """choose, and words of two groups over many small VMAs."""
    fields = em.Fields(a=1, b=1, c=2, d=1, e=1)
    per_vma = [("a", "b", "c"), ("d", "e")]
    table = em.PageTable(em.Compact(per_vma=per_vma), fields)
    table.map(slice(0, 64))
    chosen = [["a", "d"] for _ in range(65)]
    words = [0] * 64
    for _ in range(data.draw(st.integers(1, 12))):
        start, stop = sorted(data.draw(st.lists(st.integers(0, 64), min_size=2,
                                                max_size=2)))  # fmt: skip
        group = data.draw(st.integers(0, 1))
        name = data.draw(st.sampled_from(per_vma[group]))
        hindered = any(
            words[v] and chosen[v][group] != name for v in range(start, stop)
        )
        if hindered:
            with pytest.raises(ValueError, match="has a word"):
                table.encoding.choose(start, stop, name)
        else:
            table.encoding.choose(start, stop, name)
            for v in range(start, stop):
                chosen[v][group] = name
        at = data.draw(st.lists(st.integers(0, 63), max_size=6))
        for v in at:
            words[v] = fields.pack(
                **{n: data.draw(st.integers(0, 1)) for n in chosen[v]}
            )
        table.store(at, [words[v] for v in at])
        assert [list(table.encoding.chosen(v)) for v in range(65)] == chosen
        assert table.load(slice(0, 64)).tolist() == words
        assert table.load(range(63, -1, -1)).tolist() == words[::-1]
        for name in fields:
            mask = fields.mask(name)
            expected = [v for v in range(64) if words[v] & mask == mask]
            assert table.scan(slice(0, 64), mask).tolist() == expected
        table.check()


def test_a_damaged_entry_is_found():
    table = em.PageTable(XOR, TRACKERS)
    table.map(5)
    table.check()
    entry = ctypes.c_uint64.from_address(table.tables[0].ctypes.data + 8 * 5)
    entry.value |= 1 << 10 | 1 << 11
    with pytest.raises(AssertionError, match="a code that stands for no word"):
        table.check()


def test_it_says_how_it_is_made():
    for recipe in (em.Compact(), XOR, MUX, em.Compact(implies=iter([["a", "b"]]))):
        assert eval(repr(recipe), vars(em)).config == recipe.config
    assert XOR.plan is None


def test_threads_may_share_a_table():
    """What is kept of the last write and scan is one table's, under its lock."""
    table = em.PageTable(XOR, FIELDS)
    table.map(slice(0, 40000))
    failures = []

    def work(first, age):
        try:
            for _ in range(30):
                table.update(slice(first, first + 20000), clear=15 << 2, set=age << 2)
                found = table.scan(slice(first, first + 20000), 15 << 2, age << 2)
                if len(found) != 20000:
                    failures.append((age, len(found)))
        except (ValueError, MemoryError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(20000 * i, 5 + i)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_legal_is_what_the_plan_says():
    """The oracle of the state machine, and the planner, agree on every word."""
    for recipe in (XOR, MUX, em.Compact(implies=[("age", "uffd_wp")])):
        codes = em.plan(FIELDS, **recipe.config).codes()
        for word in range(1 << FIELDS.bits):
            assert legal(FIELDS, recipe.config, word) == (word in codes)
