"""What does one load(int) cost, called from Python?

All but some nanoseconds of it are Python's: the same PTE each time, in cache.
"""

import pytest

from extmeta.checks import must, same
from extmeta.cost.measure import Task
from extmeta.cost.space import full_tables


@pytest.fixture(scope="module")
def one_table():
    return full_tables(1)


def point_load(filled):
    vpn, expected = int(filled.load.space.vpns[7]), filled.load.words[7]

    def check(_vpn, found):
        must(isinstance(found, int), f"load(int) returns {found!r}")
        same(found, expected)

    return Task(lambda: vpn, filled.table.load, check)


def bench_point(paired, benchmark, bench, one_table, encoding, end):
    bench.time(paired, benchmark, "load(int)", one_table, encoding, end, point_load, 1)
