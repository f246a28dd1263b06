"""The edge of PageTable: what it takes, what it refuses, what it says."""

import gc
import importlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import extmeta as em
from extmeta.memory.frames import Frames
from extmeta.testing.machine import dump

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=1)


@pytest.fixture
def table(encoding):
    t = em.PageTable(encoding, FIELDS)
    t.map(slice(100, 1100))
    t.store(slice(100, 200), 5)
    if t.encoding.by_page:
        # A page that is swapped out has no word.
        t.store(150, 0)
    t.swap_out(150, 7)
    return t


@pytest.mark.parametrize(
    "vpns",
    [
        [300, 301, 302],
        (300, 301, 302),
        np.array([300, 301, 302]),
        np.array([300, 301, 302], np.int16),
        np.array([300, 301, 302], np.uint32),
        np.array([300, 0, 301, 0, 302], np.uint64)[::2],
        np.array([300, 301, 302], object),
        range(300, 303),
        slice(300, 303),
        slice(np.int64(300), 303, 1),
    ],
    ids=repr,
)
def test_forms_of_vpns(table, vpns):
    table.store(vpns, [1, 2, 3])
    assert table.load(vpns).tolist() == [1, 2, 3]
    assert table.load(vpns).dtype == np.uint64
    assert table.flagged(vpns).dtype == np.bool_


@pytest.mark.parametrize(
    "vpns", [[300, 305, 302], [300, 300, 302], [511, 512, 513], [510, 700, 512], [1023]]
)
def test_arrays_that_look_like_a_range(table, vpns):
    table.store(vpns, range(1, len(vpns) + 1))
    expected = dict(zip(vpns, range(1, len(vpns) + 1), strict=True))
    assert table.load(vpns).tolist() == [expected[v] for v in vpns]
    assert not table.flagged([301, 303, 304, 509, 701]).any()


def test_ranges_with_a_step(table):
    table.store(range(304, 298, -2), [1, 2, 3])
    assert table.load([300, 302, 304]).tolist() == [3, 2, 1]
    assert table.load(range(304, 298, -2)).tolist() == [1, 2, 3]


@pytest.mark.parametrize("one", [300, np.uint64(300), np.int32(300), np.array(300)])
def test_an_int_gives_an_int(table, one):
    table.store(one, 3)
    assert type(table.load(one)) is int
    assert table.load(one) == 3
    assert table.load(one, "soft_dirty") == 1
    assert type(table.load(one, "age")) is int
    assert table.flagged(one) is True
    assert table.flagged(5) is False


@pytest.mark.parametrize(
    "none", [[], (), range(0), slice(9, 9), np.array([], np.int64)]
)
def test_nothing_is_an_array_of_nothing(table, none):
    before = dump(table)
    table.map(none)
    table.map(none, pfns=[])
    table.store(none, 1)
    table.store(none, [])
    table.update(none, set=1)
    table.swap_out(none, [])
    table.swap_in(none, [])
    assert table.load(none).shape == (0,)
    assert table.load(none, "age").shape == (0,)
    assert table.flagged(none).shape == (0,)
    assert dump(table) == before


def test_whole_address_space(table):
    everything = slice(0, 2**36)
    if table.encoding.by_page:
        table.swap_in(150, 2000)
    table.update(everything, clear=7)
    assert table.scan(slice(0, 2**36), 0).tolist() == list(range(100, 1100))
    table.update(everything, set=2)
    assert table.scan(slice(0, 2**36), 2).size == 1000
    table.unmap(slice(0, 2**36))
    assert len(table) == 0


TOO_BIG = 2**36
BAD_VPNS = [
    (-1, ValueError, "-1 is negative"),
    (TOO_BIG, ValueError, "0x1000000000"),
    ([5, -7], ValueError, "-7 is negative"),
    (np.array([5, -7]), ValueError, "-7 is negative"),
    ([101, TOO_BIG + 5], ValueError, "0x1000000005"),
    (np.array([2**63], np.uint64), ValueError, "0x8000000000000000"),
    ([2**64], ValueError, "0x10000000000000000"),
    (range(100, TOO_BIG + 1), ValueError, "0x1000000001"),
    (slice(100, TOO_BIG + 1), ValueError, "0x1000000001"),
    (slice(-5, 5), ValueError, "-5 is negative"),
    (slice(200, 100), ValueError, "0xc8.*before"),
    (slice(100, 200, 2), ValueError, "step"),
    (slice(100, None), ValueError, "no end"),
    (slice(1.5, 2), TypeError, "1.5"),
    (1.5, TypeError, "1.5"),
    (float("nan"), TypeError, "nan"),
    ([100, 1.5], TypeError, "1.5"),
    (np.array([100.5]), TypeError, "100.5"),
    (np.array([True]), TypeError, "bool"),
    (True, TypeError, "True"),
    ("100", TypeError, "'100'"),
    (["100"], TypeError, "'100'"),
    (b"100", TypeError, "b'100'"),
    (None, TypeError, "None"),
    (np.array([[100, 101]]), ValueError, r"\(1, 2\)"),
    (np.array(1.5), TypeError, "1.5"),
]
ON_VPNS = {
    "map": lambda t, v: t.map(v),
    "store": lambda t, v: t.store(v, 1),
    "store field": lambda t, v: t.store(v, age=1),
    "load": lambda t, v: t.load(v),
    "load field": lambda t, v: t.load(v, "age"),
    "update": lambda t, v: t.update(v, set=1),
    "flagged": lambda t, v: t.flagged(v),
    "swap_out": lambda t, v: t.swap_out(v, 1),
    "swap_in": lambda t, v: t.swap_in(v, 1),
}


def test_bad_vpns_change_nothing(table):
    before = dump(table)
    for vpns, error, message in BAD_VPNS:
        for operation, call in ON_VPNS.items():
            with pytest.raises(error, match=message):
                call(table, vpns)
            assert dump(table) == before, (operation, vpns)


BAD_CALLS = {
    "map what is mapped": (lambda t: t.map([50, 100]), ValueError, "0x64 is mapped"),
    "map a swapped one": (lambda t: t.map([1, 150]), ValueError, "0x96 is mapped"),
    "too few pfns": (lambda t: t.map([1, 2], pfns=[1]), ValueError, "1 pfns for 2"),
    "wide pfn": (lambda t: t.map([1, 2], pfns=[1, 2**40]), ValueError, "0x1000000000"),
    "negative pfn": (lambda t: t.map([1, 2], pfns=-1), ValueError, "-1"),
    "float pfn": (lambda t: t.map([1, 2], pfns=[1, 2.5]), TypeError, "2.5"),
    "store unmapped": (lambda t: t.store([100, 5000], 1), ValueError, "0x1388 is not"),
    "store range": (lambda t: t.store(slice(99, 101), 1), ValueError, "0x63 is not"),
    "store past": (lambda t: t.store(slice(1000, 1200), 1), ValueError, "0x44c is not"),
    "store one unmapped": (lambda t: t.store(99, 1), ValueError, "0x63 is not mapped"),
    "wide word": (lambda t: t.store([100, 101], [1, 8]), ValueError, "0x8 is wider"),
    "wide int": (lambda t: t.store(100, 8), ValueError, "0x8 is wider than 3 bits"),
    "huge int": (lambda t: t.store(100, 2**600), ValueError, "is not below"),
    "negative word": (lambda t: t.store(100, -1), ValueError, "-1 is negative"),
    "float word": (lambda t: t.store(100, 1.0), TypeError, "1.0"),
    "float words": (lambda t: t.store([100], [1.0]), TypeError, "1.0"),
    "mixed words": (lambda t: t.store([100, 101], [2**63, -1]), ValueError, "-1"),
    "few words": (lambda t: t.store([100, 101], [1]), ValueError, r"\(1,\) for 2"),
    "2-D words": (lambda t: t.store([100], [[1]]), (TypeError, ValueError), "1"),
    "wide field": (lambda t: t.store(100, age=2), ValueError, "'age'.*0x2 is wider"),
    "wide fields": (lambda t: t.store([100], age=[2]), ValueError, "'age'.*0x2"),
    "few values": (lambda t: t.store([100, 101], age=[1]), ValueError, r"\(1,\) for 2"),
    "no such field": (lambda t: t.store(100, agee=1), KeyError, "'agee'"),
    "one bad field": (lambda t: t.store(100, age=1, x=1), KeyError, "'x'"),
    "load no field": (lambda t: t.load(100, "agee"), KeyError, "'agee'"),
    "load no field, array": (lambda t: t.load([100], "agee"), KeyError, "'agee'"),
    "words and field": (lambda t: t.store(100, 1, age=1), TypeError, "not both"),
    "neither": (lambda t: t.store(100), TypeError, "words or fields"),
    "wide set": (lambda t: t.update(100, set=8), ValueError, "0x8 is wider"),
    "negative clear": (lambda t: t.update(100, clear=-1), ValueError, "-1"),
    "float set": (lambda t: t.update(100, set=1.0), TypeError, "1.0"),
    "huge clear": (lambda t: t.update(100, clear=2**64), ValueError, "is not below"),
    "scan back": (lambda t: t.scan(slice(10, 5), 1), ValueError, "0xa.*before"),
    "scan out": (lambda t: t.scan(slice(0, 2**36 + 1), 1), ValueError, "0x1000000001"),
    "scan float": (lambda t: t.scan(slice(0, 1.5), 1), TypeError, "1.5"),
    "scan mask": (lambda t: t.scan(slice(0, 10), -1, 1), ValueError, "mask: -1"),
    "scan value": (lambda t: t.scan(slice(0, 10), 1, 2**64), ValueError, "value"),
    "unmap out": (
        lambda t: t.unmap(slice(2**36 - 1, 2**36 - 1 + 2)),
        ValueError,
        "0x1000000001",
    ),
    "unmap negative": (lambda t: t.unmap(slice(0, -1)), ValueError, "-1"),
    "unmap float": (lambda t: t.unmap(0.5), TypeError, "0.5"),
    "move overlap": (lambda t: t.move(slice(100, 200), 150), ValueError, "overlap"),
    "move overlap down": (
        lambda t: t.move(slice(150, 250), 100),
        ValueError,
        "overlap",
    ),
    "move to itself": (lambda t: t.move(slice(100, 101), 100), ValueError, "overlap"),
    "move onto": (
        lambda t: t.move(slice(100, 200), 1050),
        ValueError,
        "0x41a is mapped",
    ),
    "move out": (
        lambda t: t.move(slice(100, 200), 2**36 - 5),
        ValueError,
        "0x100000005f",
    ),
    "move negative": (lambda t: t.move(slice(-1, 0), 5), ValueError, "-1"),
    "swap unmapped": (lambda t: t.swap_out([101, 5], 1), ValueError, "0x5 is not"),
    "swap twice": (lambda t: t.swap_out([101, 150], 1), ValueError, "0x96 is swapped"),
    "wide slot": (lambda t: t.swap_out(101, 2**55), ValueError, "slots: 0x8"),
    "few slots": (lambda t: t.swap_out([101, 102], [1]), ValueError, "1 slots for 2"),
    "swap in present": (lambda t: t.swap_in([150, 101], 1), ValueError, "0x65 is pres"),
    "swap in unmapped": (lambda t: t.swap_in([150, 5], 1), ValueError, "0x5 is not"),
    "swap in wide": (lambda t: t.swap_in(150, 2**40), ValueError, "pfns: 0x1000000000"),
    "huge unaligned": (lambda t: t.map_huge(5), ValueError, "0x5 is not the first"),
    "huge on table": (lambda t: t.map_huge([2048, 0]), ValueError, "0x0 is mapped"),
}


def test_bad_calls_change_nothing(table):
    before = dump(table)
    for call, (function, error, message) in BAD_CALLS.items():
        with pytest.raises(error, match=message):
            function(table)
        assert dump(table) == before, call
        table.check()


BAD_TABLES = {
    "encoding name": (lambda: em.PageTable("lnked"), KeyError, "'lnked'.*linked"),
    "encoding type": (lambda: em.PageTable(5), TypeError, "5 is neither"),
    "arch": (lambda: em.PageTable(arch="z80"), KeyError, "'z80'.*x86_64"),
    "fields": (lambda: em.PageTable(fields={"a": 1}), TypeError, "no Fields"),
    "inpte too wide": (
        lambda: em.PageTable("inpte", em.Fields(uffd_wp=1, age=8)),
        ValueError,
        r"needs 8 free bits.*\['uffd_wp'\].*there are 6, 2 missing",
    ),
    "inpte default": (lambda: em.PageTable("inpte"), ValueError, "needs 64.*are 6"),
    "adjacent too wide": (
        lambda: em.PageTable("adjacent", em.Fields(a=65)),
        ValueError,
        "holds 64 bits.*needs 65",
    ),
    "linked too wide": (
        lambda: em.PageTable(em.Linked(bits=8), em.Fields(a=9)),
        ValueError,
        "holds 8 bits.*needs 9",
    ),
    "linked bits": (lambda: em.Linked(bits=0), ValueError, "bits=0"),
    "linked many bits": (lambda: em.Linked(bits=513), ValueError, "bits=513"),
    "linked float bits": (lambda: em.Linked(bits=8.0), TypeError, "8.0"),
    "adjacent when": (lambda: em.Adjacent(when="maybe"), ValueError, "'maybe'"),
}


@pytest.mark.parametrize("call", BAD_TABLES)
def test_bad_tables(call):
    function, error, message = BAD_TABLES[call]
    with pytest.raises(error, match=message):
        function()


def test_defaults():
    table = em.PageTable()
    assert repr(table.encoding) == "Linked()"
    assert table.fields == em.Fields(meta=64)
    assert table.arch.name == "x86_64"
    assert em.PageTable(em.Linked(bits=8)).fields == em.Fields(meta=8)


def test_more_tables_than_the_machine_has_memory_for(table):
    before = dump(table)
    with pytest.raises(MemoryError, match="bytes are available"):
        table.map(slice(2**20, 2**36))
    assert dump(table) == before


def test_a_machine_that_does_not_tell_its_memory(monkeypatch, tmp_path):
    module = importlib.import_module("extmeta.memory.available")
    assert module.available_bytes() > 2**20
    monkeypatch.setattr(module.limits, "available_now", lambda: None)
    assert module.available_bytes() is None


@pytest.mark.parametrize("page_bytes", [0, 512, 5000, 2**22, 2**32])
def test_pages_of_an_odd_size(page_bytes):
    with pytest.raises(ValueError, match=f"pages of {page_bytes} bytes"):
        Frames(page_bytes)


def test_la57_reaches_further():
    table = em.PageTable(arch="x86_64_la57")
    table.map(2**45 - 1)
    table.store(2**45 - 1, 7)
    assert table.scan(slice(0, 2**45), 7).tolist() == [2**45 - 1]
    assert table.memory().upper == 4 * 4096
    with pytest.raises(ValueError, match="x86_64_la57"):
        table.map(2**45)


def test_tables_are_live_read_only_views(table):
    view = table.tables[0]
    size = table.arch.ptrs_per_pte
    assert view.shape == (size,)
    assert size == (256 if isinstance(table.encoding, em.Wide) else 512)
    assert not view.flags.writeable
    before = int(view[99])
    table.map(99)
    assert before == 0
    assert int(view[99]) & 1
    assert list(table.tables) == list(range(0, 1100, size))
    assert len(table.tables) == len(range(0, 1100, size))
    assert 1 not in table.tables
    for missing in (1, 1536, 2**60, -512, "0"):
        with pytest.raises(KeyError, match="no PTE table"):
            table.tables[missing]


def test_views_outlive_their_table(table):
    view = table.tables[512]
    expected = view.copy()
    del table
    assert (view == expected).all()


def test_default_pfns_are_all_different(encoding):
    table = em.PageTable(encoding, FIELDS)
    table.map(slice(0, 1000))
    table.map(slice(2000, 3000))
    pfns = np.concatenate([v[v != 0] for v in table.tables.values()]) >> np.uint64(12)
    assert len(np.unique(pfns)) == 2000


def test_huge_leaves(encoding):
    table = em.PageTable(encoding, FIELDS)
    table.map_huge([0x40000, 0x40200], pfns=[512, 1024])
    assert len(table) == 0
    assert table.memory().pte == 0
    upper = (len(table.arch.level_bits) - 1) * 4096
    assert table.memory().upper == upper
    assert table.load(0x40000) == 0
    for refused in (
        lambda: table.map(0x40005),
        lambda: table.map_huge(0x40200),
        lambda: table.move(slice(0x40000, 0x40200), 0x90000),
        lambda: table.move(slice(0x90000, 0x90200), 0x40000),
    ):
        with pytest.raises(ValueError, match=r"huge page|mapped already"):
            refused()
    for first, count in ((0x40000, 5), (0x40100, 0x100), (0x40005, 1)):
        with pytest.raises(ValueError, match="inside a huge page"):
            table.unmap(slice(first, first + count))
    child = table.fork()
    table.unmap(slice(0x40000, 0x40200))
    table.map(0x40005)
    assert child.memory().upper == upper
    child.unmap(slice(0, 2**36))
    assert child.memory().upper == 4096
    child.check()
    table.check()


def test_marker_slots(encoding):
    table = em.PageTable(encoding, FIELDS)
    table.map(5)
    word = 0 if table.encoding.by_page else 1
    table.store(5, word)
    table.swap_out(5, 31 << 50 | 1)
    pte = int(table.tables[0][5])
    assert pte >> 59 == 31
    assert pte >> 9 & 2**50 - 1 == 2**50 - 1 ^ 1
    assert table.load(5) == word


def test_register_names(encoding):
    with pytest.raises(ValueError, match="already registered"):
        em.register(encoding, em.Linked)
    with pytest.raises(TypeError, match="a string, not 5"):
        em.register(5, em.Linked)
    with pytest.raises(TypeError, match="not callable"):
        em.register("new", 5)


def test_registered_encoding_is_found(monkeypatch):
    # By import_module: as an attribute of em the name is the function's.
    package = importlib.import_module("extmeta.encodings")
    monkeypatch.setattr(package, "_factories", dict(package._factories))
    em.register("eight", lambda: em.Linked(bits=8))
    em.register("broken", lambda: 7)
    assert "eight" in em.encodings()
    table = em.PageTable("eight", em.Fields(a=8))
    table.map(0)
    table.store(0, 255)
    assert table.memory().side == 512
    with pytest.raises(TypeError, match="'broken' made 7"):
        em.PageTable("broken")


def test_recipes_say_how_they_are_made():
    for recipe in (em.InPte(), em.Adjacent(), em.Linked(), em.Linked(bits=16)):
        assert eval(repr(recipe), vars(em)).config == recipe.config


def test_repr_and_one_recipe_for_many_tables():
    recipe = em.Adjacent(when="needed")
    a, b = em.PageTable(recipe, FIELDS), em.PageTable(recipe, FIELDS)
    a.map(1)
    a.store(1, 1)
    assert a.encoding.repointings == 1
    assert b.encoding.repointings == recipe.repointings == 0
    assert "needed" in repr(a)
    assert "1 PTEs" in repr(a)


def test_field_of_several():
    fields = em.Fields(a=3, b=13)
    table = em.PageTable("linked", fields)
    table.map(slice(0, 600))
    table.store(slice(0, 600), a=np.arange(600) % 8, b=77)
    table.store(slice(0, 300), b=np.arange(300))
    assert (table.load(slice(0, 600), "a") == np.arange(600) % 8).all()
    assert (table.load(slice(0, 300), "b") == np.arange(300)).all()
    assert (table.load(slice(300, 600), "b") == 77).all()
    table.store(5, a=0, b=0)
    assert not table.flagged(5)


@given(bits=st.integers(65, 512), data=st.data())
def test_wide_words(bits, data):
    low = data.draw(st.integers(1, bits - 1))
    table = em.PageTable(em.Linked(bits=bits), em.Fields(low=low, high=bits - low))
    lanes = -(-bits // 64)
    word = data.draw(st.integers(0, 2**bits - 1))
    table.map([0, 1, 600])
    table.store(0, word)
    assert table.load(0) == word
    assert table.load([0, 1]).shape == (2, lanes)
    assert table.load(0, "low") == word & 2**low - 1
    assert table.load(0, "high") == word >> low
    table.store(1, high=word >> low)
    table.store(1, low=word & 2**low - 1)
    assert (table.load([0, 1])[0] == table.load([0, 1])[1]).all()
    table.store(600, table.load([0])[0])
    assert table.load(600) == word
    assert table.load([0], "high").tolist() == table.load([1], "high").tolist()
    expected = [0, 1, 600] if word else []
    found = table.scan(slice(0, 2**36), 2**bits - 1, word).tolist()
    assert found == (expected or [0, 1, 600])


def test_wide_words_refused():
    table = em.PageTable(em.Linked(bits=100), em.Fields(m=100))
    table.map([0, 1])
    for words, message in (
        ([[1, 2], [3, 2**36]], "wider than 100"),
        ([1, 2, 3], "for 2 vpns"),
        (np.array([1, 2], np.uint64), r"\(2, 2\) is needed"),
        (2**100, "wider than 100"),
    ):
        with pytest.raises(ValueError, match=message):
            table.store([0, 1], words)
    assert not table.flagged([0, 1]).any()


def test_threads_on_one_table(encoding):
    """Each call is one step: no write is lost, nothing is torn or leaked."""
    table = em.PageTable(encoding, FIELDS)

    def work(base):
        for round_ in range(60):
            span = slice(base, base + 3000)
            table.map(span)
            table.store(span, round_ % 7 + 1)
            assert (table.load(span) == round_ % 7 + 1).all()
            assert table.scan(slice(base, base + 3000), 7, round_ % 7 + 1).size == 3000
            child = table.fork()
            assert child.load(base) == round_ % 7 + 1
            table.update(span, clear=7)
            table.unmap(slice(base, base + 3000))

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, [0, 3100, 6200]))
    assert len(table) == 0
    table.check()


def test_the_collector_may_free_a_fork_in_any_order(encoding):
    """It once took side memory away before the fork had let go of what it shared."""
    gc.disable()
    try:
        table = em.PageTable(encoding, em.Fields(a=3))
        table.map(range(2000))
        table.store(range(2000), [i % 7 + 1 for i in range(2000)])
        survivor = table.fork()
        # Found by the collector between what is the parent's and what is the child's.
        cycle = [table]
        cycle.append(cycle)
        cycle.append(table.fork())
        del table, cycle
    finally:
        gc.enable()
    gc.collect()
    assert survivor.load(6) == 7
    survivor.unmap(slice(0, 2000))
    assert survivor.memory().side == survivor.memory().index == 0


def test_each_method_names_vpns_first(encoding):
    """As an int, an array, a range or a slice; a pair of ints is an old form."""
    table = em.PageTable(encoding, em.Fields(age=2))
    table.map(range(100, 200))
    table.store(range(100, 200), 3)
    table.unmap(100)
    table.unmap([199, 101, 150, 151, 101])
    table.unmap(range(110, 120))
    table.unmap(slice(120, 130))
    gone = {100, 101, 150, 151, 199, *range(110, 130)}
    left = [vpn for vpn in range(100, 200) if vpn not in gone]
    assert table.vpns().tolist() == list(table) == left
    assert table.scan(range(1000), 3).tolist() == left
    assert 102 in table
    assert [vpn in table for vpn in (101, "102")] == [False, False]
    assert [table[102], *table[[101, 102]].tolist()] == [3, 0, 3]
    table.move(range(140, 145), 4000)
    assert table.vpns(slice(4000, 5000)).tolist() == list(range(4000, 4005))
    before = dump(table)
    for old, new in (
        (lambda: table.unmap(0x66, 0x10), r"unmap\(slice\(0x66, 0x76\)\)"),
        (lambda: table.move(0x66, 9000, 2), r"move\(slice\("),
        (lambda: table.scan(0, 1000, 3, 3), r"scan\(slice\(0, 1000\)"),
        (lambda: table.scan([5, 9], 3), "no range or slice"),
        (lambda: table.move([5, 9], 3), "no range or slice"),
    ):
        with pytest.raises(TypeError, match=new):
            old()
    with pytest.raises(ValueError, match="has gaps"):
        table.scan(range(0, 100, 2), 3)
    assert dump(table) == before


def test_an_encoding_is_named_as_on_the_command_line():
    assert repr(em.PageTable("linked:16").encoding) == "Linked(bits=16)"
    assert repr(em.PageTable("adjacent:needed").encoding) == "Adjacent(when='needed')"
    with pytest.raises(ValueError, match="'3' is not 'indexed'"):
        em.PageTable("inpte:3")
    with pytest.raises(ValueError, match="Hash takes no argument"):
        em.PageTable("hash:3")
    with pytest.raises(KeyError, match="did you mean linked"):
        em.PageTable("linkd:16")


def test_a_table_without_init_is_refused():
    bare = em.PageTable.__new__(em.PageTable)
    for use in (
        *(lambda: bare.memory(), lambda: bare.table_vpns(), lambda: bare.fork()),
        *(lambda: bare.load(5), lambda: bare.map(5), lambda: bare.snapshot(5)),
        *(lambda: bare.check(), lambda: bare.unmap(5), lambda: bare.reserve(1)),
        *(lambda: repr(bare), lambda: bare.vpns(), lambda: pickle.dumps(bare)),
    ):
        with pytest.raises(RuntimeError, match="__init__ was not called"):
            use()
