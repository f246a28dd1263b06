"""PTEs and their words without a lock: what is returned, and that nothing is torn.

The last tests are of 10**7 snapshots against two writers, over all encodings, and of
the proof that they would be seen if they were torn: some seconds of CPU.
"""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stress import Stress
from torn import Meddling, Watch, words_of

import extmeta as em
from extmeta.testing.suite import Form, filled

ENCODINGS = [*em.encodings(), em.Adjacent(when="needed")]
SMALL = em.Fields(uffd_wp=1, soft_dirty=1, age=1)
NR_SNAPSHOTS = 10**7 if os.environ.get("EXTMETA_TESTS") == "full" else 10**6


def raw(table, vpns):
    """Return the entries as the views of the tables have them."""
    views = dict(table.tables)
    size = table.arch.ptrs_per_pte
    none = np.uint64(table.arch.none)
    return np.array(
        [views.get(v - v % size, {v % size: none})[v % size] for v in vpns], np.uint64
    )


def test_what_load_and_the_tables_have(form):
    encoding, fields = form
    table, vpns, _words = filled(Form(encoding, fields, "x86_64"))
    lanes = table.encoding.lanes
    order = np.random.default_rng(1).permutation(vpns)
    every = np.arange(0x3FF00, 0x42000)
    for named, each in (
        (slice(0x3FF00, 0x42000), every),
        (range(0x3FF00, 0x42000, 3), every[::3]),
        (vpns, vpns),
        (order, order),
        (order[:7], order[:7]),
        ([], order[:0]),
    ):
        ptes, words = table.snapshot(named)
        assert ptes.dtype == words.dtype == np.uint64
        assert ptes.shape == (len(each),)
        assert words.shape == ((len(each),) if lanes == 1 else (len(each), lanes))
        assert np.array_equal(words, table.load(named))
        assert np.array_equal(ptes, raw(table, each.tolist()))
        assert table.unchanged(named, ptes, words).all()
    for vpn in [0, *order[:50].tolist()]:
        pte, word = table.snapshot(vpn)
        assert type(pte) is int
        assert type(word) is int
        assert (pte, word) == (int(raw(table, [vpn])[0]), table.load(vpn))
        assert table.unchanged(vpn, pte, word) is True


@pytest.mark.parametrize("arch", ["s390x", "arm64", "ppc64"])
def test_other_architectures(encoding, arch):
    names = [n for n in em.arch.ARCHES if n.startswith(arch)]
    for name in names:
        try:
            table, vpns, words = filled(Form(encoding, em.Fields(a=2), name), 300)
        except ValueError:
            continue
        ptes, found = table.snapshot(vpns)
        assert found.tolist() == words
        assert (ptes != np.uint64(table.arch.none)).all()
        assert table.snapshot(1) == (table.arch.none, 0)


def test_swap_entries(encoding):
    table = em.PageTable(encoding, SMALL)
    table.map([1, 2, 3])
    table.store([1, 2], [0, 1] if encoding == "page_ext" else [1, 1])
    table.swap_out(1, 9)
    ptes, words = table.snapshot([1, 2, 3, 4])
    assert [int(p) >> table.arch.present & 1 for p in ptes] == [0, 1, 1, 0]
    assert ptes[0] != 0
    assert words.tolist() == [int(encoding != "page_ext"), 1, 0, 0]


def test_bad_vpns_are_refused():
    table = em.PageTable()
    for vpn, shown in ((-1, "-1"), (2**36, "0x1000000000"), (1.5, "1.5")):
        with pytest.raises((TypeError, ValueError), match=shown):
            table.snapshot(vpn)
    with pytest.raises(ValueError, match="0x1000000000"):
        table.snapshot(np.array([2**36], np.uint64))


def test_unchanged_tells_a_word_from_a_pte():
    table = em.PageTable()
    table.map(range(4))
    table.store(range(4), 7)
    ptes, words = table.snapshot(range(4))
    table.store(1, 8)
    table.store(2, 0)
    table.swap_out(3, 9)
    # The PTE of 1 is what it was: pte_same() alone would say that nothing changed.
    assert table.snapshot(1)[0] == ptes[1]
    assert table.unchanged(range(4), ptes, words).tolist() == [True, *[False] * 3]
    assert not table.unchanged(1, int(ptes[1]), 7)
    assert table.unchanged(1, int(ptes[1]), 8)
    with pytest.raises(ValueError, match="3 ptes for 4 vpns"):
        table.unchanged(range(4), ptes[:3], words)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_against_a_dict(data):
    table = em.PageTable(data.draw(st.sampled_from(em.encodings())), SMALL)
    at = st.integers(0x1FA, 0x206)
    model = {}
    for _ in range(data.draw(st.integers(1, 12))):
        vpn = data.draw(at)
        what = data.draw(st.sampled_from(["map", "store", "unmap", "update"]))
        if what == "map" and vpn not in model:
            table.map(vpn)
            model[vpn] = 0
        elif what == "store" and vpn in model:
            model[vpn] = data.draw(st.integers(0, 7))
            table.store(vpn, model[vpn])
        elif what == "unmap":
            table.unmap(vpn)
            model.pop(vpn, None)
        elif what == "update":
            table.update(range(vpn, vpn + 3), clear=1, set=2)
            for v in set(range(vpn, vpn + 3)) & set(model):
                model[v] = model[v] & ~1 | 2
        ptes, words = table.snapshot(range(0x1F8, 0x20A))
        for v, pte, word in zip(range(0x1F8, 0x20A), ptes, words, strict=True):
            assert (pte != 0) == (v in model)
            assert word == model.get(v, 0)


def test_scan_clears_what_it_finds(form):
    encoding, fields = form
    table, vpns, _words = filled(Form(encoding, fields, "x86_64"))
    everything = slice(0, table.arch.nr_vpns)
    all_bits = (1 << fields.bits) - 1
    table.update(vpns, clear=all_bits)
    table.update(vpns[::3], set=1)
    assert table.scan(everything, 1, clear=1).tolist() == vpns[::3].tolist()
    assert len(table.scan(everything, 1, clear=1)) == 0
    assert not table.flagged(vpns).any()
    table.check()


def test_a_watch_knows_what_never_was():
    table = em.PageTable()
    table.map(range(8), pfns=range(100, 108))
    watch = Watch(table, 0, 8, 200, seed=1)
    watch.look(100)
    assert (watch.seen >= 100, watch.torn, watch.words) == (True, 0, 0)
    table.store(range(8), words_of(np.arange(100, 108, dtype=np.uint64), 5, 64))
    watch.look(100)
    assert watch.torn == 0
    assert watch.words > 50
    table.store(3, table.load(4))
    watch.look(1000)
    assert watch.torn > 0
    assert watch.example == (3, table.snapshot(3)[0], table.load(4))


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_none_is_torn(encoding):
    stress = Stress(encoding, seed=1, readers=2)
    for _ in stress.rounds(NR_SNAPSHOTS // len(ENCODINGS)):
        pass
    assert stress.torn == 0, stress.watches[0].example
    assert sum(watch.words for watch in stress.watches) > 0
    assert stress.steps > 0
    stress.table.memory()


# In the others an entry tells its word; only a move shows one without the other.
LOOKS_TWICE = [e for e in ENCODINGS if e not in ("inpte", "compact")]


@pytest.mark.parametrize("encoding", LOOKS_TWICE, ids=str)
def test_a_reader_that_is_interrupted_notices(encoding):
    """And what it has read never was: without the second look it would be taken."""
    table = em.PageTable(encoding, em.Fields(meta=64))
    old, new = np.array([[300, 301], [400, 401]], np.uint64)

    def replace(pages):
        table.unmap(slice(0, 2))
        table.map([0, 1], pfns=pages)
        table.store([0, 1], words_of(pages, 1, 64))

    replace(old)
    watch = Watch(table, 0, 1, 200)
    pte, word, noticed = watch.interrupted(0, lambda: None)
    assert (watch.torn, noticed) == (0, False)
    assert word == table.load(0)
    # 1 stays, so the table does.
    table.map(2)
    pte, word, noticed = watch.interrupted(0, lambda: replace(new))
    assert noticed
    assert watch.torn == 1
    assert watch.example == (0, pte, word)
    assert table.snapshot(0)[0] != pte
    table.check()


@pytest.mark.parametrize(
    "vpns", [5, [5], range(2, 8), range(100), np.arange(99, -1, -1)], ids=repr
)
def test_a_pair_is_read_again_if_its_table_changes(vpns):
    """One PTE, some, and as many as are copied at once; a change in between."""
    table = em.PageTable(Meddling())
    table.map(range(200), pfns=range(1000, 1200))
    table.store(range(200), range(1000, 1200))

    def change():
        table.unmap(slice(0, 100))
        table.map(range(100), pfns=range(2000, 2100))
        table.store(range(100), range(2000, 2100))

    table.encoding.change = change
    ptes, words = table.snapshot(vpns)
    assert table.encoding.change is None
    assert np.array_equal(np.asarray(ptes) >> 12 & 0xFFFF, words)
    assert np.min(words) >= 2000
    table.check()


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_what_readers_kept_is_given_back(encoding):
    table = em.PageTable(encoding, em.Fields(a=3))
    before = table.memory()
    table.map(range(0x1000, 0x1000 + 4096))
    stress = Stress(encoding, seed=2)
    for _ in stress.rounds(100_000):
        # Beside the other's readers: some of this is put off.
        table.store(range(0x1000, 0x2000), 1)
        table.store(range(0x1000, 0x2000), 0)
    table.unmap(slice(0x1000, 0x2000))
    assert table.memory() == before
