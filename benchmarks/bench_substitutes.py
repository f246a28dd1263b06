"""What would a dict, a sorted array or another library take for the same answers?

Each substitute holds the words of in-PTE's table, in which every PTE is flagged, and is
timed by turns with it in the same run: lookups of vpns at random, and listing the vpns
whose word has a bit. Answers are checked. Those that are not installed are skipped; the
extra `bench` has them. How it compares is told under the summary.
"""

from itertools import cycle

import numpy as np
import pytest

from extmeta.checks import same
from extmeta.cost import tasks
from extmeta.cost.measure import Task
from extmeta.cost.space import full_tables
from extmeta.reports.figures import reach
from extmeta.rows import BASELINE, Point

ALL = Point(1.0, "")
NR_TABLES = 512
NR_LOADS = 1 << 14

# Runs until the same vpns come again.
NR_RUNS = 16


@pytest.fixture(scope="module")
def held(new_bench):
    """In-PTE's table with all PTEs flagged."""
    bench = new_bench()
    return bench.filled(full_tables(NR_TABLES), BASELINE, ALL)[0]


def lookups(held, load):
    """Return the task of loading vpns at random by a function."""
    space, words = held.load.space, held.load.words
    rng = np.random.default_rng(1)
    turns = cycle(space.vpns[rng.integers(len(space.vpns), size=(NR_RUNS, NR_LOADS))])

    def run(turns):
        vpns = next(turns)
        return vpns, load(vpns)

    def check(_turns, result):
        vpns, found = result
        expected = words[np.searchsorted(space.vpns, vpns)]
        same(np.asarray(found, np.uint64), expected, "words differ")

    return Task(lambda: turns, run, check)


def by_dict(held):
    words = dict(
        zip(held.load.space.vpns.tolist(), held.load.words.tolist(), strict=True)
    )
    return lambda vpns: [*map(words.get, vpns.tolist())]


def by_searchsorted(held):
    vpns, words = held.load.space.vpns, held.load.words
    return lambda wanted: words[np.searchsorted(vpns, wanted)]


def by_cykhash(held):
    cykhash = pytest.importorskip("cykhash", reason="pip install cykhash")
    vpns, words = (a.astype(np.int64) for a in (held.load.space.vpns, held.load.words))
    words_of = cykhash.Int64toInt64Map_from_buffers(vpns, words)

    def load(wanted):
        out = np.empty(len(wanted), np.int64)
        cykhash.Int64toInt64Map_to(words_of, wanted.view(np.int64), out, False, 0)
        return out

    return load


LOOKUPS = {
    "dict": by_dict,
    "numpy.searchsorted": by_searchsorted,
    "cykhash": by_cykhash,
}


@pytest.mark.parametrize("name", LOOKUPS)
def bench_lookups(paired, results, held, name):
    ours, theirs = (lookups(held, f) for f in (held.table.load, LOOKUPS[name](held)))
    told(results, name, f"{NR_LOADS:,} random loads", paired(ours, theirs), NR_LOADS)


def bench_listing(paired, results, held):
    pyroaring = pytest.importorskip("pyroaring", reason="pip install pyroaring")
    ours = tasks.scan(held)
    expected = held.load.having(held.load.clear_bit)
    first = held.load.space.range.start
    bitmap = pyroaring.BitMap((expected - np.uint64(first)).tolist())

    def check(_bitmap, found):
        same(np.asarray(found, np.uint64) + np.uint64(first), expected, "vpns differ")

    theirs = Task(lambda: bitmap, lambda bitmap: bitmap.to_array(), check)
    found = paired(ours, theirs)
    told(results, "pyroaring", "listing what has a bit", found, len(expected))


def told(results, name, what, found, count):
    """Have a line under the summary."""
    results.notes.append(
        f"{name}, {what}: {found.ratio:.2f} x {BASELINE}'s time ±{reach(found):.0%} "
        f"({found.baseline_ns / count:.1f} ns each)"
    )
