"""What would a dict, a sorted array or another library take for the same answers?

A lookup of vpns at random in in-PTE's table, in which every PTE is flagged, is timed by
turns with one in a substitute that holds the same words. So is listing the vpns whose
word has a bit, with a bitmap of those alone. Answers are checked. Those that are not
installed are skipped; `make bench` installs them. How it compares is told under the
summary.
"""

import numpy as np
import pytest
from lookups import drawn, reading

from extmeta.checks import same
from extmeta.cost import tasks
from extmeta.cost.measure import Task
from extmeta.cost.space import full_tables
from extmeta.reports.figures import reach
from extmeta.rows import BASELINE, Point

ALL = Point(1.0, "")
FEW = Point(0.01, "random")
NR_TABLES = 512
NR_LOADS = 1 << 14


@pytest.fixture(scope="module")
def held(new_bench):
    """In-PTE's table with all PTEs flagged."""
    bench = new_bench()
    return bench.filled(full_tables(NR_TABLES), BASELINE, ALL)[0]


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
    ours, theirs = (
        reading(drawn(held.load.space.vpns, held.load.words, NR_LOADS), load)
        for load in (held.table.load, LOOKUPS[name](held))
    )
    what = f"{NR_LOADS:,} random loads"
    told(results, name, what, BASELINE, paired(ours, theirs), NR_LOADS)


@pytest.mark.parametrize("listed", [FEW, ALL], ids=str)
@pytest.mark.parametrize("form", [BASELINE, "adaptive"])
def bench_listing(paired, results, new_bench, form, listed):
    pyroaring = pytest.importorskip("pyroaring", reason="pip install pyroaring")
    filled = new_bench().filled(full_tables(NR_TABLES), form, listed)[1]
    expected = filled.load.having(filled.load.clear_bit)
    first = np.uint64(filled.load.space.range.start)
    bitmap = pyroaring.BitMap((expected - first).tolist())

    def vpns(bitmap):
        # The bitmap has 32 bits for a value; a scan returns 64.
        return np.add(bitmap.to_array(), first, dtype=np.uint64)

    def check(_bitmap, found):
        same(found, expected, "vpns differ")

    found = paired(tasks.scan(filled), Task(lambda: bitmap, vpns, check))
    what = f"listing {len(expected):,} that have a bit, {listed} flagged"
    told(results, "pyroaring", what, form, found, len(expected))


def told(results, name, what, form, found, count):
    """Have a line under the summary."""
    results.notes.append(
        f"{name}, {what}: {found.ratio:.2f} x {form}'s time ±{reach(found):.0%} "
        f"({found.baseline_ns / count:.1f} ns each)"
    )
