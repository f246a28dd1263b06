"""What does loading random vpns cost, over 64 GiB of mapped memory?

128 MiB of PTE tables: more than the caches of a core hold, so each load pays for
the lines it touches. With no PTE flagged and with all of them.
"""

import numpy as np
import pytest

from extmeta import workload
from extmeta.measure import Task

NR_TABLES = (64 << 30) // (2 << 20)
NR_LOADS = 1 << 20


@pytest.fixture(scope="module")
def wide():
    return workload.full_tables(NR_TABLES)


@pytest.fixture(scope="module")
def own_bench(new_bench):
    """A bench of this module alone: its tables are too large to be kept."""
    return new_bench()


def random_load(filled):
    space, words = filled.load.space, filled.load.words
    places = np.random.default_rng(1).integers(len(space.vpns), size=NR_LOADS)
    vpns, expected = space.vpns[places], words[places]

    def check(_vpns, found):
        assert np.array_equal(found, expected)

    return Task(lambda: vpns, filled.table.load, check)


def bench_random(benchmark, own_bench, wide, encoding, end):
    own_bench.time(benchmark, "random load", wide, encoding, end, random_load, NR_LOADS)
