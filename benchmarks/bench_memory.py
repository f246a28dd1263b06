"""How much RAM do the words take, in the page tables of real processes?

The answer is in the section at the end, and in the JSON's `extra_info`. The time is
that of memory() itself, since pytest-benchmark stores nothing without a time.
"""

import pytest

from extmeta import workload
from extmeta.capture import load_capture, shipped
from extmeta.checks import must_equal


@pytest.fixture(scope="module")
def captured():
    return {
        name: workload.captured(load_capture(path), name)
        for name, path in shipped().items()
    }


def bench_memory(benchmark, bench, captured, encoding, point, shipped_name):
    benchmark.group = f"time of memory(), {point} flagged; bytes are told at the end"
    space = captured[shipped_name]
    _base, other = bench.filled(space, encoding, point)
    held = benchmark.pedantic(other.table.memory, rounds=1)
    row = other.ram(encoding, point)
    must_equal(held.total, row.total, "memory in total")
    must_equal(other.table.load(space.vpns), other.load.words, "words")
    bench.remember(benchmark, other, row)
