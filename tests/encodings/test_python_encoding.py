"""Encodings in Python: the adapter, and what becomes of what they raise."""

import numpy as np
import pytest
from hypothesis import Phase, settings

import extmeta as em
from extmeta.testing import SMALL, checks, conformance
from extmeta.testing.machine import dump


class InDict(em.PythonEncoding):
    """The least there has to be."""

    def __init__(self):
        self.words = {}

    def load(self, vpns):
        return [self.words.get(vpn, 0) for vpn in vpns.tolist()]

    def store(self, vpns, words):
        self.words |= dict(zip(vpns.tolist(), words.tolist(), strict=True))
        self.words = {vpn: word for vpn, word in self.words.items() if word}

    def side_bytes(self):
        return 16 * len(self.words)


class NoFlag(InDict):
    """Leaves the bit free, so it has to know for itself who has a word."""

    uses_flag = False


class Wide(InDict):
    """Words of several uint64s, and an argument."""

    max_bits = 512

    def __init__(self, name="x"):
        super().__init__()
        self.name = name

    @property
    def config(self):
        return {"name": self.name}

    def load(self, vpns):
        return [self.words.get(vpn, [0] * self.lanes) for vpn in vpns.tolist()]

    def store(self, vpns, words):
        words = words.reshape(len(vpns), self.lanes).tolist()
        self.words |= dict(zip(vpns.tolist(), words, strict=True))
        self.words = {vpn: word for vpn, word in self.words.items() if any(word)}


class Sorted(em.PythonEncoding):
    """Sorted arrays, with a method of its own for everything."""

    def __init__(self):
        self.vpns = self.words = np.empty(0, np.uint64)
        self.room = {}

    def places(self, vpns):
        at = np.searchsorted(self.vpns, vpns)
        there = at < len(self.vpns)
        there[there] = self.vpns[at[there]] == vpns[there]
        return at, there

    def load(self, vpns):
        at, there = self.places(vpns)
        assert there.all(), "asked for a PTE without a word"
        return self.words[at]

    def prepare(self, vpns, words):
        assert words.all()
        table = int(vpns[0]) & ~511
        self.room[table] = self.room.get(table, 0) + len(vpns)

    def settle(self, vpns):
        assert len(vpns) == 512
        self.room.pop(vpns.start, None)

    def store(self, vpns, words):
        assert (vpns[1:] > vpns[:-1]).all()
        at, there = self.places(vpns)
        self.words = self.words.copy()
        self.words[at[there]] = words[there]
        new = ~there
        assert new.sum() <= self.room.get(int(vpns[0]) & ~511, 0), "no room was made"
        self.vpns = np.insert(self.vpns, at[new], vpns[new])
        self.words = np.insert(self.words, at[new], words[new])
        self.drop(self.words == 0)

    def drop(self, gone):
        self.vpns, self.words = self.vpns[~gone], self.words[~gone]

    def unmap(self, vpns):
        self.drop((self.vpns >= vpns.start) & (self.vpns < vpns.stop))

    def scan(self, vpns, mask, value):
        here = (self.vpns >= vpns.start) & (self.vpns < vpns.stop)
        return self.vpns[here & (self.words & np.uint64(mask) == value)]

    def copy_from(self, parent):
        self.vpns, self.words = parent.vpns, parent.words

    def side_bytes(self):
        return self.words.nbytes

    def index_bytes(self):
        return self.vpns.nbytes + 8 * sum(self.room.values())

    def check(self):
        assert self.words.all(), "a word of 0"


FORMS = [
    (InDict, SMALL),
    (NoFlag, SMALL),
    (NoFlag, em.Fields(meta=64)),
    (Sorted, SMALL),
    (Sorted, em.Fields(a=60, b=4)),
    (Wide, em.Fields(a=5)),
    (Wide("y"), em.Fields(a=30, b=70, c=28)),
]


@pytest.mark.parametrize(("factory", "fields"), FORMS)
@pytest.mark.parametrize("check", checks())
def test_conformance(check, factory, fields):
    check(factory, fields)


@pytest.mark.slow
def test_all_checks_by_one_call():
    conformance(InDict, em.Fields(age=2))


def test_more_than_it_holds_is_refused():
    with pytest.raises(ValueError, match=r"InDict.*holds 64 bits.*needs 65"):
        em.PageTable(InDict(), em.Fields(a=65))


def test_every_table_has_words_of_its_own():
    recipe = Wide("z")
    table, other = em.PageTable(recipe), em.PageTable(recipe)
    table.map(5)
    table.store(5, 7)
    other.map(5)
    assert other.load(5) == 0
    assert recipe.words == {}
    assert table.encoding.name == "z"
    assert repr(table.encoding) == "Wide(name='z')"


def test_the_bit_stays_free_without_a_flag():
    for kind, raised in ((InDict, True), (NoFlag, False)):
        table = em.PageTable(kind())
        table.map(5)
        bare = int(table.tables[0][5])
        table.store(5, 7)
        assert (int(table.tables[0][5]) != bare) == raised


class Broken(InDict):
    """Fails where it is told to, from the n-th call on."""

    def __init__(self):
        super().__init__()
        self.fail = {}
        self.raised = []

    def maybe(self, method):
        left = self.fail.get(method)
        if left == 0:
            self.raised.append(method)
            raise OSError(f"{method} of Broken")
        if left is not None:
            self.fail[method] = left - 1

    def load(self, vpns):
        self.maybe("load")
        return super().load(vpns)

    def prepare(self, vpns, words):
        self.maybe("prepare")

    def store(self, vpns, words):
        self.maybe("store")
        super().store(vpns, words)

    def unmap(self, vpns):
        self.maybe("unmap")
        for vpn in vpns:
            self.words.pop(vpn, None)

    def side_bytes(self):
        self.maybe("side_bytes")
        return super().side_bytes()

    def index_bytes(self):
        self.maybe("index_bytes")
        return 0

    def scan(self, vpns, mask, value):
        self.maybe("scan")
        return self.fail.get("found", [])

    def check(self):
        self.maybe("check")


VPNS = [3, 5, 700, 0x40000]
CALLS = {
    "load": lambda t: t.load(VPNS),
    "load one": lambda t: t.load(5),
    "store": lambda t: t.store(VPNS, 9),
    "store one": lambda t: t.store(5, 9),
    "field": lambda t: t.store(VPNS, b=1),
    "update": lambda t: t.update(slice(0, 1 << 20), clear=1, set=2),
    "scan": lambda t: t.scan(slice(0, 1 << 36), 1),
    "scan for none": lambda t: t.scan(slice(0, 1 << 36), 1, 0),
    "fork": lambda t: t.fork(),
    "move": lambda t: t.move(slice(3, 1003), 0x80000),
    "unmap": lambda t: t.unmap(slice(0, 1000)),
    "memory": lambda t: t.memory(),
}


@pytest.fixture
def broken():
    table = em.PageTable(Broken(), em.Fields(a=4, b=4))
    table.map(VPNS)
    table.map([4, 701])
    table.store(VPNS, 1)
    return table


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "method",
    ["load", "prepare", "store", "unmap", "scan", "side_bytes", "index_bytes"],
)
@pytest.mark.parametrize("after", range(4))
def test_what_a_method_raises_reaches_the_caller(broken, call, method, after):
    before = dump(broken)
    encoding = broken.encoding
    encoding.fail[method] = after
    told = None
    try:
        CALLS[call](broken)
    except OSError as error:
        told = error
    encoding.fail.clear()
    if call != "fork":
        assert bool(told) == bool(encoding.raised)
    if told:
        assert str(told) == f"{method} of Broken"
        # Not "during handling of MemoryError".
        assert told.__suppress_context__
    if told and (method == "prepare" or after == 0) and call != "unmap":
        assert method == "store" or dump(broken) == before
    # Whatever became of the words, the PTEs and the counts of flags are right.
    if call != "unmap":
        assert len(broken) == before[0]
    broken.load(VPNS)
    broken.unmap(slice(0, 1 << 36))
    assert len(broken) == 0
    assert broken.memory().pte == 0
    broken.check()


def test_a_store_that_fails_keeps_the_ptes_consistent(broken):
    broken.encoding.fail["store"] = 1
    with pytest.raises(OSError, match="store of Broken"):
        broken.store(VPNS, 3)
    broken.encoding.fail.clear()
    broken.check()
    assert broken.load(VPNS).tolist() == [3, 3, 1, 1]
    assert broken.flagged([4, 701]).tolist() == [False, False]


def test_a_fork_that_fails_leaves_the_parent(broken):
    before = dump(broken)
    broken.encoding.fail["load"] = 2
    with pytest.raises(OSError, match="load of Broken"):
        broken.fork()
    broken.encoding.fail.clear()
    assert dump(broken) == before


def test_an_interrupt_is_not_swallowed(broken, monkeypatch):
    def interrupted(self, vpns):
        raise KeyboardInterrupt

    monkeypatch.setattr(Broken, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broken.load(VPNS)


def test_check_names_what_the_encoding_finds(broken, monkeypatch):
    broken.encoding.fail["check"] = 0
    with pytest.raises(AssertionError, match="OSError: check of Broken"):
        broken.check()
    broken.encoding.fail.clear()
    del broken.encoding.words[5]
    with pytest.raises(
        AssertionError, match=r"table at vpn 0x0.*flag set, but no word"
    ):
        broken.check()


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (lambda vpns: [1], ValueError, r"shape \(1,\) for 2 vpns"),
        (lambda vpns: np.ones(len(vpns)), TypeError, "float64"),
        (lambda vpns: [-1] * len(vpns), OverflowError, "-1"),
        (lambda vpns: None, TypeError, "NoneType"),
    ],
)
def test_words_that_are_none_are_refused(monkeypatch, broken, given, error, match):
    monkeypatch.setattr(Broken, "load", lambda self, vpns: given(vpns))
    with pytest.raises(error, match=match):
        broken.load(slice(0, 512))


@pytest.mark.parametrize("found", [[5, 3], [600], [3, 3], 7])
def test_a_scan_that_finds_nonsense_is_refused(broken, found):
    broken.encoding.fail["found"] = found
    with pytest.raises(ValueError, match=r"scan\(range\(0x0, 0x200\)\) gave"):
        broken.scan(slice(0, 512), 1)


@pytest.mark.parametrize("method", ["load", "store", "side_bytes"])
def test_what_has_to_be_defined_is_named(method):
    class Lacking(em.PythonEncoding):
        uses_flag = False

    for name in {"load", "store", "side_bytes"} - {method}:
        setattr(Lacking, name, getattr(InDict, name))
    Lacking.words = {}
    table = em.PageTable(Lacking())
    table.map(5)
    call = {"load": table.load, "store": lambda v: table.store(v, 2)}.get(method)
    table.encoding.words[5] = 1
    with pytest.raises(NotImplementedError, match=f"Lacking.{method}"):
        call(5) if call else table.memory()


MUTANTS = {
    "words of another vpn": (
        "load",
        lambda self, vpns: InDict.load(self, vpns + np.uint64(1)),
    ),
    "words that stay": (
        "store",
        lambda self, vpns, words: InDict.store(self, vpns, words | np.uint64(1)),
    ),
    "words shared with a child": (
        "copy_from",
        lambda self, parent: setattr(self, "words", parent.words),
    ),
    "words that outlive their PTE": ("unmap", lambda self, first, stop: None),
    "bytes that are not given back": ("side_bytes", lambda self: id(self)),
}


@pytest.fixture
def unshrunk():
    """Have hypothesis stop at the first failure: this one's size is no matter."""
    before = settings.get_current_profile_name()
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("unshrunk", settings(), phases=phases, database=None)
    settings.load_profile("unshrunk")
    yield
    settings.load_profile(before)


@pytest.mark.slow
@pytest.mark.usefixtures("unshrunk")
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_suite_finds_what_is_wrong(mutant):
    method, body = MUTANTS[mutant]

    class Mutant(InDict):
        def store(self, vpns, words):
            # In place: a child that shares them sees it.
            for vpn, word in zip(vpns.tolist(), words.tolist(), strict=True):
                self.words[vpn] = word
                if not word:
                    del self.words[vpn]

    setattr(Mutant, method, body)
    with pytest.raises(AssertionError, match=r"Mutant'>: \w+(\[.*\])?: \w+: "):
        conformance(Mutant)
