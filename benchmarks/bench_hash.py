"""Is `hash` as good as a hash table that people use?

cykhash is khash with 64-bit keys and values: open addressing, quadratic probing, up
to 77 % full, doubling, 2 bits of flags a bucket. It and ours get the same 64-bit
words of every other vpn of a range, in random order, at sizes just before cykhash
doubles, just after, and between. All loops are in C. A ratio below 1 is faster than
cykhash:

    insert  all into a table that has been told how many
    grow    all into one that grows on the way: cykhash doubles, ours grows by a
            quarter, which takes more time and fewer bytes
    hit     vpns that have a word, one after the other
    miss    vpns that have none, one after the other
    bulk    hits, with the lines of 32 lookups prefetched, as the page table loads a run
    table   hits by PageTable.load, which also walks the page table

Bytes are those allocated, cykhash's as it reports them to tracemalloc. With
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 both have huge pages.
"""

import tracemalloc
from functools import cache, partial

import numpy as np
import pytest

import extmeta as em
from extmeta.checks import same
from extmeta.cost.measure import Task
from extmeta.cost.space import SYNTHETIC_FIRST
from extmeta.encodings.vpnhash import VpnHash

cykhash = pytest.importorskip("cykhash", reason="the peer: pip install cykhash")
tracing = pytest.importorskip("cykhash.utils")

KEY_BITS = 36
NR_LOOKUPS = 1 << 17
# Buckets of cykhash at the sizes compared, and how full it may be.
BUCKETS = (1 << 14, 1 << 18, 1 << 21)
FULL = 0.77


def sizes(buckets):
    """Return numbers of words: as many as fit the buckets, one more, and between."""
    most = int(buckets * FULL + 0.5)
    return most, most + 1, most * 7 // 5


def pytest_generate_tests(metafunc):
    quick = metafunc.config.getoption("quick")
    chosen = BUCKETS[1:2] if quick else BUCKETS
    if "nr_words" in metafunc.fixturenames:
        metafunc.parametrize("nr_words", [n for b in chosen for n in sizes(b)])


def bytes_of_cykhash(vpns, words):
    """Return what the map has allocated, as it reports it."""
    domain = tracemalloc.DomainFilter(True, tracing.get_cykhash_trace_domain())
    tracemalloc.start()
    held = cykhash.Int64toInt64Map_from_buffers(vpns, words)
    traces = tracemalloc.take_snapshot().filter_traces([domain]).traces
    tracemalloc.stop()
    same(len(held), len(vpns))
    return sum(trace.size for trace in traces)


class Both:
    """The two tables, filled alike, and what is looked up in them."""

    def __init__(self, nr_words, seed):
        rng = np.random.default_rng(seed)
        near = SYNTHETIC_FIRST + rng.permutation(2 * nr_words)
        self.vpns = near[:nr_words]
        self.words = rng.integers(1, 1 << 63, nr_words)
        self.peer = cykhash.Int64toInt64Map_from_buffers(self.vpns, self.words)
        self.ours = VpnHash(KEY_BITS, 64)
        self.ours.store_each(self.vpns, self.words)
        chosen = rng.integers(nr_words, size=NR_LOOKUPS)
        self.hits = self.vpns[chosen]
        self.found = self.words[chosen]
        self.misses = near[nr_words + chosen]

    @cache  # noqa: B019
    def table(self):
        """Return a page table with these words."""
        table = em.PageTable("hash")
        table.map(np.sort(self.vpns))
        table.store(self.vpns, self.words)
        return table

    def by_peer(self, vpns, expected):
        out = np.empty(len(vpns), np.int64)

        def run(out):
            cykhash.Int64toInt64Map_to(self.peer, vpns, out, False, 0)
            return out

        return Task(lambda: out, run, same_as(expected))

    @staticmethod
    def by(load, vpns, expected):
        vpns = vpns.astype(np.uint64)
        return Task(lambda: vpns, load, same_as(expected))

    def pairs(self):
        """Yield each comparison's name and its two tasks."""
        zeros = np.zeros(len(self.misses), np.int64)
        for name, hint, method in (
            ("insert", 1.25, VpnHash.store),
            ("grow", 0, VpnHash.store_each),
        ):
            made = partial(
                cykhash.Int64toInt64Map_from_buffers, self.vpns, self.words, hint
            )
            yield name, *self.inserts(made, method)
        hit = partial(self.by_peer, self.hits, self.found)
        ours = partial(self.by, vpns=self.hits, expected=self.found)
        yield "hit", hit(), ours(self.ours.load_each)
        yield (
            "miss",
            self.by_peer(self.misses, zeros),
            self.by(self.ours.load_each, self.misses, zeros),
        )
        yield "bulk", hit(), ours(self.ours.load)
        yield "table", hit(), ours(self.table().load)

    def inserts(self, by_peer, method):
        vpns, words = self.vpns.astype(np.uint64), self.words.astype(np.uint64)

        def ours(made):
            made.append(VpnHash(KEY_BITS, 64))
            method(made[0], vpns, words)

        theirs = Task(
            list,
            lambda made: made.append(by_peer()),
            self.all_in,
            list.clear,
            each=True,
        )
        return theirs, Task(list, ours, self.all_in, list.clear, each=True)

    def all_in(self, made, _result):
        same(len(made[0]), len(self.vpns))


def same_as(expected):
    def check(_state, found):
        same(found.astype(np.int64), expected, "words differ")

    return check


def bench_hash(paired, seed, nr_words):
    both = Both(nr_words, seed)
    ram = bytes_of_cykhash(both.vpns, both.words), both.ours.held
    for name, theirs, own in both.pairs():
        paired(
            theirs,
            own,
            name=name,
            baseline_name="cykhash",
            group=f"hash, {nr_words:,} words of 64 bits",
            ram=ram,
        )
