"""How much RAM do the words take, in the page tables of real processes?

Nothing is timed but the question itself, so that the answer is in the JSON.
"""

import pytest

from extmeta.captures.capture import load_capture, shipped
from extmeta.checks import same
from extmeta.cost.space import space_of


@pytest.fixture(scope="module")
def captured():
    return {
        name: space_of(load_capture(path), name) for name, path in shipped().items()
    }


def bench_memory(benchmark, bench, captured, encoding, point, shipped_name):
    benchmark.group = f"the call of memory(), {point} flagged; bytes are below"
    space = captured[shipped_name]
    _base, other = bench.filled(space, encoding, point)
    held = benchmark.pedantic(other.table.memory, rounds=1)
    row = other.ram(encoding, point)
    same(held.total, row.total)
    same(other.table.load(space.vpns), other.load.words, "words differ")
    bench.remember(benchmark, other, row)
