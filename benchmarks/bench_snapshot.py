"""What does a snapshot cost beside a load of the same words, under the lock?

Of one encoding, by turns: all PTEs, and one. A snapshot returns the PTEs as well, so
of all it moves twice the bytes that a load does. `measures.py M10` has random ones.
"""

import pytest
from conftest import alone

from extmeta.checks import must
from extmeta.cost.measure import Task
from extmeta.cost.space import full_tables


@pytest.fixture(scope="module")
def one_table():
    return full_tables(1)


def sides(table, vpns, expected):
    """Return tasks: to load words, and to take a snapshot of them."""

    def check_load(_state, found):
        must(
            (found == expected).all() if hasattr(found, "all") else found == expected,
            'not so: (found == expected).all() if hasattr(found, "all") else foun',
        )

    return (
        Task(lambda: vpns, table.load, check_load),
        Task(lambda: vpns, table.snapshot, lambda vpns, s: check_load(vpns, s[1])),
    )


def compared(benchmark, bench, group, space, encoding, end, vpns_of, words_of):
    _base, filled = bench.filled(space, encoding, end)
    pair = sides(filled.table, vpns_of(filled), words_of(filled))
    alone(benchmark, f"{group}, {end} flagged", pair[1])
    found = bench.paired(*pair)
    benchmark.extra_info.update(
        encoding=encoding,
        point=str(end),
        ratio_to_load=found.ratio,
        low=found.low,
        high=found.high,
    )
    bench.results.notes.append(
        f"{group} over load, {encoding}, {end} flagged: "
        f"{found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}]"
    )


def bench_snapshot(benchmark, bench, space, encoding, end):
    compared(
        *(benchmark, bench, "snapshot", space, encoding, end),
        lambda filled: filled.load.space.vpns,
        lambda filled: filled.load.words,
    )


def bench_snapshot_of_one(benchmark, bench, one_table, encoding, end):
    compared(
        *(benchmark, bench, "snapshot(int)", one_table, encoding, end),
        lambda filled: int(filled.load.space.vpns[7]),
        lambda filled: int(filled.load.words[7]),
    )
