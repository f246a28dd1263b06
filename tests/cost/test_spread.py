"""Where PTEs and flagged PTEs lie, in cells."""

import numpy as np
import pytest

from extmeta.arch import arch_named
from extmeta.cost import placement
from extmeta.cost.space import full_tables, sparse_tables
from extmeta.cost.spread import MAX_CELLS, spread
from extmeta.rows import Point


@pytest.mark.parametrize("arch", ["x86_64", "arm64_16k"])
@pytest.mark.parametrize("point", [Point(0, ""), Point(0.1, "random"), Point(1, "")])
def test_cells_hold_every_pte(arch, point):
    space = sparse_tables(20, 50, seed=1, arch=arch)
    flagged = space.vpns[placement.flags(space.vpns, point, 0, arch)]
    row = spread(space, point, flagged)
    size = arch_named(arch).ptrs_per_pte
    assert (row.fraction, row.placement) == (point.fraction, point.placement)
    assert row.cell_tables == 1
    for first, ptes, flags in zip(row.first_vpns, row.ptes, row.flagged, strict=True):
        assert np.sum(space.vpns // size == first // size) == ptes
        assert np.sum(flagged // size == first // size) == flags
    assert sum(row.ptes) == len(space.vpns)
    assert sum(row.flagged) == len(flagged)


def test_tables_are_counted_by_their_flags():
    space = full_tables(6)
    vpns = space.vpns.reshape(6, 512)
    chosen = [vpns[at, :n] for at, n in enumerate((0, 1, 3, 4, 7, 512))]
    row = spread(space, Point(0.1, "random"), np.concatenate(chosen))
    # None; 1; 2 to 3; 4 to 7; ... 512.
    assert row.tables == [1, 1, 1, 2, 0, 0, 0, 0, 0, 0, 1]
    assert row.flagged == [0, 1, 3, 4, 7, 512]


def test_a_large_space_has_cells_of_several_tables():
    space = full_tables(MAX_CELLS + 1)
    row = spread(space, Point(1, ""), space.vpns)
    assert row.cell_tables == 2
    assert len(row.ptes) <= MAX_CELLS
    assert sum(row.ptes) == len(space.vpns)
    assert all(first % 1024 == 0 for first in row.first_vpns)
