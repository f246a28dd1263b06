"""After any history, a table holds at most twice what a new one with its words does.

`trim` leaves no more than a new one. All histories end in a fresh twin, made by one
store. It maps the same pages, since what `page_ext` holds depends on them.
"""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import extmeta as em
from extmeta.checks import must

FORMS = [
    *(("adaptive", bits, "x86_64") for bits in (2, 3, 10, 22, 61, 64)),
    ("adaptive", 64, "arm64_16k"),
    ("adaptive", 20, "arm64_64k"),
    ("adaptive", 64, "ppc64_radix_64k"),
    ("linked", 64, "x86_64"),
    ("linked", 3, "x86_64"),
    (em.Adjacent(when="needed"), 64, "x86_64"),
    ("xarray", 64, "x86_64"),
    ("xarray", 8, "x86_64"),
    ("hash", 64, "x86_64"),
    ("hash", 8, "x86_64"),
    ("page_ext", 64, "x86_64"),
    ("page_ext", 8, "x86_64"),
]
# Enough for each container to come and go. EXTMETA_STEPS=1000000 is a campaign.
STEPS = int(os.environ.get("EXTMETA_STEPS", "2000"))
FIRST = 1 << 20
TABLES = 2
# Pages come from this many sections of page_ext.
SECTIONS = 4
SECTION_PAGES = 1 << 15


class History:
    """A table, and the steps that change it.

    A step gets a range of vpns, how many bits its words have, and random numbers.
    """

    def __init__(self, encoding, bits, arch):
        self.bits = bits
        self.table = em.PageTable(encoding, em.Fields(meta=bits), arch)
        self.entries = self.table.arch.ptrs_per_pte
        self.stop = FIRST + TABLES * self.entries
        self.pfns = np.arange(self.stop - FIRST)
        self.table.map(slice(FIRST, self.stop), self.pfns)

    def words(self, rng, width, n):
        mask = (1 << min(width, self.bits)) - 1
        return rng.integers(0, 2**64, n, np.uint64) & np.uint64(mask)

    def store(self, at, width, rng):
        self.table.store(at, self.words(rng, width, at.stop - at.start))

    def store_one_word(self, at, width, rng):
        word = self.words(rng, width, 1)[0]
        self.table.store(at, np.full(at.stop - at.start, word))

    def store_at_random(self, at, width, rng):
        n = min(at.stop - at.start, 400)
        vpns = rng.choice(self.stop - FIRST, n, replace=False) + FIRST
        self.table.store(vpns, self.words(rng, width, n))

    def store_few_words(self, at, width, rng):
        words = self.words(rng, width, 2)
        self.table.store(at, rng.choice(words, at.stop - at.start))

    def set_word(self, at, width, rng):
        word = self.words(rng, width, 1)[0]
        self.table.update(at, clear=(1 << self.bits) - 1, set=word)

    def narrow(self, at, width, rng):
        self.table.update(
            at, clear=int(~self.words(rng, width, 1)[0]) % (1 << self.bits)
        )

    def narrow_each(self, at, width, rng):
        words = self.table.load(at) & np.uint64((1 << min(width, self.bits)) - 1)
        for i in rng.permutation(len(words))[:20].tolist():
            self.table.store(at.start + i, words[i])

    def clear(self, at, width, rng):
        self.table.update(at, clear=(1 << self.bits) - 1)

    def clear_at_random(self, at, width, rng):
        n = min(at.stop - at.start, 400)
        vpns = rng.choice(self.stop - FIRST, n, replace=False) + FIRST
        self.table.update(vpns, clear=int(self.words(rng, self.bits, 1)[0]))

    def change_and_change_back(self, at, width, rng):
        old = self.table.load(at.start)
        self.table.store(at.start, self.words(rng, width, 1)[0])
        self.table.store(at.start, old)

    def map_anew(self, at, width, rng):
        pages = self.pfns[at.start - FIRST : at.stop - FIRST]
        pages %= SECTION_PAGES
        pages += int(rng.integers(SECTIONS)) * SECTION_PAGES
        self.table.unmap(at)
        self.table.map(at, pages)

    def fork(self, at, width, rng):
        """The child writes, and exits. What is shared meanwhile is free to be large."""
        child = self.table.fork()
        child.store(at.start, self.words(rng, width, 1)[0])
        self.table.update(at, set=self.words(rng, width, 1)[0])
        del child
        self.table.trim()

    def step(self, name, at, width, seed):
        getattr(self, name)(at, width, np.random.default_rng(seed))
        self.check()

    def check(self):
        fresh = held(self.fresh())
        must(held(self.table) <= 2 * fresh, f"{held(self.table)} bytes, not {fresh}")

    def fresh(self):
        """Return a new table with these words."""
        t = self.table
        twin = em.PageTable(t.encoding, t.fields, t.arch.name)
        vpns = np.arange(FIRST, self.stop, dtype=np.uint64)
        twin.map(vpns, self.pfns)
        words = t.load(vpns)
        twin.store(vpns[words != 0], words[words != 0])
        return twin


def held(table):
    memory = table.memory()
    return memory.side + memory.index


NAMES = [
    name
    for name, method in vars(History).items()
    if callable(method) and name not in ("__init__", "words", "step", "check", "fresh")
]


def drawn_step(rng, history):
    """Return a random step: often of few entries, of a whole table, or of all."""
    size = history.stop - FIRST
    first, stop = sorted(rng.integers(0, size, 2).tolist())
    stop += 1
    kind = rng.integers(5)
    if kind < 2:
        stop = min(size, first + int(rng.integers(1, 5)))
    elif kind == 2:
        first, stop = 0, size
    elif kind == 3:
        first = first // history.entries * history.entries
        stop = first + history.entries
    width = int(rng.integers(1, history.bits + 1))
    at = slice(FIRST + first, FIRST + stop)
    return str(rng.choice(NAMES)), at, width, int(rng.integers(2**32))


def form_id(form):
    return "-".join(map(str, form))


@pytest.mark.parametrize("form", FORMS, ids=form_id)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=30))
def test_a_table_follows_its_content(form, seeds):
    history = History(*form)
    for seed in seeds:
        history.step(*drawn_step(np.random.default_rng(seed), history))
    history.table.trim()
    history.table.check()
    must(held(history.table) <= held(history.fresh()), "trim left more than needed")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=form_id)
def test_a_table_follows_its_content_for_long(form):
    rng = np.random.default_rng()
    for _ in range(STEPS // 100):
        history = History(*form)
        done = []
        for _ in range(100):
            done.append(drawn_step(rng, history))
            try:
                history.step(*done[-1])
            except AssertionError as error:
                raise AssertionError(f"{error}, after {done}") from error
        history.table.check()


@pytest.mark.parametrize("encoding", ["adaptive", "hash", "xarray"])
def test_trim_leaves_what_readers_and_forks_see(encoding):
    table = em.PageTable(encoding, em.Fields(meta=64))
    table.map(slice(0, 1024))
    table.store(slice(0, 1024), np.arange(1, 1025, dtype=np.uint64) << np.uint64(40))
    child = table.fork()
    table.update(slice(0, 1024), clear=(1 << 50) - (1 << 45))
    before = table.load(slice(0, 1024)), child.load(slice(0, 1024))
    for each in (table, child):
        each.trim()
        each.check()
    after = table.load(slice(0, 1024)), child.load(slice(0, 1024))
    np.testing.assert_array_equal(after, before)


def test_trim_that_gets_no_memory_leaves_the_table():
    table = em.PageTable("adaptive", em.Fields(meta=64))
    table.map(slice(0, 512))
    words = np.arange(1, 513, dtype=np.uint64) << np.uint64(40)
    with em.no_allocation():
        table.trim()
    table.store(slice(0, 512), words)
    with em.no_allocation():
        table.update(slice(0, 512), clear=1 << 45)
        table.trim()
    table.check()
    must((table.load(slice(0, 512)) == words & ~np.uint64(1 << 45)).all(), "words lost")


def test_one_word_changed_and_changed_back():
    """A uniform table kept 4,096 bytes."""
    table = em.PageTable("adaptive", em.Fields(meta=64))
    table.map(slice(0, 512))
    table.store(slice(0, 512), np.full(512, 7, np.uint64))
    for vpn in (100, 101, 511, 0):
        table.store(vpn, 1 << 63)
        table.store(vpn, 7)
        assert table.memory().side == 0


def test_words_narrowed_one_by_one():
    """Words narrowed from 64 to 3 bits kept sixteen times what they need."""
    table = em.PageTable("adaptive", em.Fields(meta=64))
    table.map(slice(0, 512))
    words = np.arange(512, dtype=np.uint64) % np.uint64(7) + np.uint64(1)
    table.store(slice(0, 512), words | np.uint64(1 << 63))
    for vpn in np.random.default_rng(1).permutation(512).tolist():
        table.store(vpn, words[vpn])
    assert table.memory().side == 256
