"""What does one load(int) cost, called from Python?

All but some nanoseconds of it are Python's: the same PTE each time, in cache.
"""

import pytest

from extmeta import workload
from extmeta.checks import must, must_equal
from extmeta.measure import Task


@pytest.fixture(scope="module")
def one_table():
    return workload.full_tables(1)


def point_load(filled):
    vpn, expected = int(filled.load.space.vpns[7]), filled.load.words[7]

    def check(_vpn, found):
        must(isinstance(found, int), f"{found!r} is not an int")
        must_equal(found, int(expected), "the word")

    return Task(lambda: vpn, filled.table.load, check)


def bench_point(benchmark, bench, one_table, encoding, end):
    bench.time(benchmark, "load(int)", one_table, encoding, end, point_load, 1)
