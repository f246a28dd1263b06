"""What does loading random vpns cost, over 64 GiB of mapped memory?

128 MiB of PTE tables: more than the caches of a core hold, and every run loads
other vpns, so each load pays for the lines it touches. With no PTE flagged and
with all of them. With --quick over 8 GiB, of which more is in the caches.
"""

from itertools import cycle

import numpy as np
import pytest

from extmeta.checks import must
from extmeta.cost.measure import Task
from extmeta.cost.space import full_tables

NR_TABLES = (64 << 30) // (2 << 20)
NR_LOADS = 1 << 17

# Runs until the same vpns come again: 128 MiB of cache lines later.
NR_RUNS = 16


@pytest.fixture(scope="module")
def wide(request):
    quick = request.config.getoption("quick")
    return full_tables(NR_TABLES // 8 if quick else NR_TABLES)


@pytest.fixture(scope="module")
def own_bench(new_bench):
    """A bench of this module alone: its tables are too large to be kept."""
    return new_bench()


def random_load(filled):
    space, words, table = filled.load.space, filled.load.words, filled.table
    rng = np.random.default_rng(1)
    turns = cycle(space.vpns[rng.integers(len(space.vpns), size=(NR_RUNS, NR_LOADS))])

    def run(turns):
        vpns = next(turns)
        return vpns, table.load(vpns)

    def check(_turns, result):
        vpns, found = result
        must(
            np.array_equal(found, words[vpns - np.uint64(space.range.start)]),
            "false: np.array_equal(found, words[vpns - np.uint64(space.range.sta",
        )

    return Task(lambda: turns, run, check)


def bench_random(paired, benchmark, own_bench, wide, encoding, end):
    own_bench.time(
        paired, benchmark, "random load", wide, encoding, end, random_load, NR_LOADS
    )
