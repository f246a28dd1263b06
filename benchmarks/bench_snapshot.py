"""What does a snapshot cost beside a load of the same words, under the lock?

Both read one table by turns: all PTEs, then one. A snapshot also returns the PTEs, so
that in bulk it writes twice the bytes of a load. `measures.py snapshot` reads random ones.
"""

import pytest

from extmeta.checks import same
from extmeta.cost.measure import Task
from extmeta.cost.space import full_tables


@pytest.fixture(scope="module")
def one_table():
    return full_tables(1)


def sides(table, vpns, expected):
    """Return tasks: to load words, and to take a snapshot of them."""

    def check_load(_state, found):
        same(found, expected, "words differ")

    return (
        Task(lambda: vpns, table.load, check_load),
        Task(lambda: vpns, table.snapshot, lambda vpns, s: check_load(vpns, s[1])),
    )


def compared(paired, bench, group, space, encoding, end, vpns_of, words_of):
    _base, filled = bench.filled(space, encoding, end)
    paired(
        *sides(filled.table, vpns_of(filled), words_of(filled)),
        name=encoding,
        baseline_name="load",
        group=f"{group}, {end} flagged",
    )


def bench_snapshot(paired, bench, space, encoding, end):
    compared(
        *(paired, bench, "snapshot", space, encoding, end),
        lambda filled: filled.load.space.vpns,
        lambda filled: filled.load.words,
    )


def bench_snapshot_of_one(paired, bench, one_table, encoding, end):
    compared(
        *(paired, bench, "snapshot(int)", one_table, encoding, end),
        lambda filled: int(filled.load.space.vpns[7]),
        lambda filled: int(filled.load.words[7]),
    )
