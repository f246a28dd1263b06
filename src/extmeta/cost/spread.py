"""Finds how the PTEs of an address space lie, and those among them that are flagged."""

import numpy as np

from extmeta.arch import arch_named
from extmeta.arrays import U64
from extmeta.cost.space import Space
from extmeta.rows import Point, Spread

# The most cells of a Spread: eight lines of 48, as a chart 430 pixels wide shows them.
MAX_CELLS = 384


def spread(space: Space, point: Point, flagged_vpns: U64) -> Spread:
    """Return how PTEs and flagged PTEs lie.

    Parameters
    ----------
    space : Space
    point : Point
    flagged_vpns : (n,) uint64 ndarray
        Ascending: the PTEs of ``space`` that have a word at ``point``.
    """
    size = arch_named(space.arch).ptrs_per_pte
    tables, held = np.unique(space.vpns // size, return_counts=True)
    flags = _counted(flagged_vpns // size, tables)
    # The bit length of a count is the place of its class.
    classes = np.bincount(np.frexp(flags)[1])
    each = 1
    while len(np.unique(tables // each)) > MAX_CELLS:
        each *= 2
    cells, first = np.unique(tables // each, return_index=True)
    return Spread(
        fraction=point.fraction,
        placement=point.placement,
        tables=classes.tolist(),
        cell_tables=each,
        first_vpns=(cells * (each * size)).tolist(),
        ptes=np.add.reduceat(held, first).tolist(),
        flagged=np.add.reduceat(flags, first).tolist(),
    )


def _counted(found: U64, among: U64) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return how often each of ``among``, which is ascending, is found."""
    return np.bincount(np.searchsorted(among, found), minlength=len(among))
