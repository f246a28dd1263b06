"""What does loading random vpns cost, over 64 GiB of mapped memory?

128 MiB of PTE tables: more than the caches of a core hold, and every run loads
other vpns, so each load pays for the lines it touches. No PTE is flagged, or all
are. With --quick it is 8 GiB, and the caches hold more of it.
"""

import pytest
from lookups import drawn, reading

from extmeta.cost.space import full_tables

NR_TABLES = (64 << 30) // (2 << 20)
NR_LOADS = 1 << 17


@pytest.fixture(scope="module")
def wide(request):
    quick = request.config.getoption("quick")
    return full_tables(NR_TABLES // 8 if quick else NR_TABLES)


@pytest.fixture(scope="module")
def own_bench(new_bench):
    """A bench of this module alone: its tables are too large to be kept."""
    return new_bench()


def random_load(filled):
    turns = drawn(filled.load.space.vpns, filled.load.words, NR_LOADS)
    return reading(turns, filled.table.load)


def bench_random(paired, benchmark, own_bench, wide, encoding, end):
    own_bench.time(
        paired, benchmark, "random load", wide, encoding, end, random_load, NR_LOADS
    )
