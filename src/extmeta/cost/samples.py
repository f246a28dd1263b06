"""Makes small address spaces that differ in how their PTEs and words lie.

Instructions are counted on these, and captures are estimated from the counts. So the
samples have all that the loops of the encodings tell apart: full tables, runs, single
PTEs, swap entries, huge leaves, holes of each level, and few or many words.
"""

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extmeta.arch import Arch
from extmeta.arrays import U64, Bools
from extmeta.cost.space import SYNTHETIC_FIRST, Space, built
from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.table.encoding import Encoding

# PTE tables of a sample, at most.
TABLES = 32

# Which share of the PTEs has a word.
FRACTIONS = (0, 0.004, 0.01, 0.03, 0.1, 0.1, 0.2, 0.5, 0.8, 0.9, 1, 1)

Places = npt.NDArray[np.int64]


class Sample(NamedTuple):
    """PTEs and leaves of an address space.

    Attributes
    ----------
    vpns : (n,) uint64 ndarray
        Ascending.
    swapped, flagged : (n,) bool ndarray
    leaves : (m,) uint64 ndarray
        First vpns of huge leaves, ascending.
    deposited : (m,) bool ndarray
    """

    vpns: U64
    swapped: Bools
    flagged: Bools
    leaves: U64
    deposited: Bools

    def space(self, arch: Arch) -> Space:
        """Return the address space."""
        return Space(
            name="sample",
            vpns=self.vpns,
            present_bytes=int((~self.swapped).sum()) * arch.page_bytes,
            nr_huge=len(self.leaves),
            has_swap=bool(self.swapped.any()),
            arch=arch.name,
            sha256="",
            build=functools.partial(_built, arch=arch.name, made=self),
        )

    def unswapped(self) -> "Sample":
        """Return it with all PTEs present."""
        return self._replace(swapped=np.zeros_like(self.swapped))


def _built(
    encoding: str | Encoding, fields: Fields, *, arch: str, made: Sample
) -> PageTable:
    """Build a sample's page table, without a word."""
    table = built(
        encoding,
        fields,
        arch=arch,
        vpns=made.vpns,
        writable=np.ones(len(made.vpns), np.bool_),
        here=~made.swapped,
    )
    for deposit in (False, True):
        table.map_huge(made.leaves[made.deposited == deposit], deposit=deposit)
    return table


def sample(arch: Arch, seed: int) -> Sample:
    """Return the sample of that number."""
    rng = np.random.default_rng((seed, arch.ptrs_per_pte))
    size = arch.ptrs_per_pte
    mix = rng.dirichlet([0.5] * 5)
    lone = rng.random() < 0.1
    tables = _raised(arch, seed, _tables(arch, rng))
    places = [
        size * table + _places(size, 5 if lone else int(kind), rng)
        for table, kind in zip(tables, rng.choice(5, len(tables), p=mix), strict=True)
    ]
    vpns = np.concatenate(places).astype(np.uint64)
    swapped = np.zeros(len(vpns), np.bool_)
    if rng.random() < 0.3:
        swapped = _clustered(len(vpns), rng.random(), rng)
    flagged = _flagged(vpns // np.uint64(size), rng)
    leaves = np.array(_leaves(arch, rng, tables), np.uint64) * np.uint64(size)
    deposited = rng.random(len(leaves)) < rng.integers(3) / 2
    return Sample(vpns, swapped, flagged, leaves, deposited)


def _tables(arch: Arch, rng: np.random.Generator) -> list[int]:
    """Return the numbers of PTE tables: neighbours, or with holes of some level."""
    size = arch.ptrs_per_pte
    spans = np.cumsum((0, *arch.level_bits[-2:0:-1]))
    last = arch.nr_vpns // size
    at = min(SYNTHETIC_FIRST, arch.nr_vpns // 2) // size
    at = max(0, at + int(rng.integers(-(1 << arch.level_bits[-2]), 1)))
    found = []
    apart = rng.random() * 0.6
    for _ in range(_log_uniform(TABLES, rng)):
        if at >= last:
            break
        found.append(at)
        at += 1
        if rng.random() < apart:
            # Far holes are rare, as in address spaces.
            level = min(int(rng.geometric(0.6)), len(spans)) - 1
            at += int(rng.geometric(0.1)) << int(spans[level])
    return found


def _raised(arch: Arch, seed: int, tables: list[int]) -> list[int]:
    """Move the tables of half the samples by slots of the root, as libraries lie."""
    rng = np.random.default_rng((seed, arch.ptrs_per_pte, 1))
    slot = sum(arch.level_bits[1:-1])
    slots = (arch.nr_vpns // arch.ptrs_per_pte - 1 - tables[-1]) >> slot
    by = int(rng.integers(slots + 1)) << slot if rng.random() < 0.5 else 0
    return [table + by for table in tables]


def _leaves(arch: Arch, rng: np.random.Generator, tables: list[int]) -> list[int]:
    """Return the numbers of slots with a leaf, among the tables and behind them."""
    slots = arch.nr_vpns // arch.ptrs_per_pte
    if rng.random() < 0.75:
        return []
    near = rng.choice(tables, 4) + rng.integers(-20, 21, 4)
    runs = [np.arange(at, at + _log_uniform(20, rng)) for at in near[: rng.integers(5)]]
    every = np.unique(np.concatenate([np.empty(0, np.int64), *runs]))
    inside = (every >= 0) & (every < slots) & ~np.isin(every, tables)
    return [int(slot) for slot in every[inside]]


def _places(size: int, kind: int, rng: np.random.Generator) -> Places:
    """Return the places of PTEs in one table."""
    if kind == 0:
        # Full, or nearly.
        missing = _log_uniform(size // 8, rng) if rng.random() < 0.3 else 0
        return np.arange(size - missing) + int(rng.choice((0, missing)))
    if kind == 1:
        n = _log_uniform(size, rng)
        first = (0, size - n, int(rng.integers(size - n + 1)))[rng.integers(3)]
        return np.arange(first, first + n)
    if kind == 2:
        most = _log_uniform(size // 4, rng)
        runs, at = [], 0
        while at < size:
            at += _log_uniform(most, rng)
            n = _log_uniform(most, rng)
            runs.append(np.arange(at, min(at + n, size)))
            at += n
        every = np.concatenate(runs)
        return every if len(every) else np.arange(1)
    n = _log_uniform((size, 8, 1)[kind - 3], rng)
    return np.sort(rng.permutation(size)[:n])


def _log_uniform(most: int, rng: np.random.Generator) -> int:
    """Return a number from 1 to ``most``, small ones more often."""
    return min(most, int(np.exp(rng.random() * np.log(most + 1))))


def _clustered(n: int, fraction: float, rng: np.random.Generator) -> Bools:
    """Choose runs of some of n PTEs."""
    lengths = rng.geometric(1 / 24, n)
    chosen = rng.random(n) < fraction
    return np.asarray(np.repeat(chosen, lengths)[:n])


def _flagged(table: U64, rng: np.random.Generator) -> Bools:
    """Choose the PTEs that have a word, from the number of each one's table."""
    n = len(table)
    fractions = rng.choice(FRACTIONS, TABLES)
    if rng.random() < 0.7:
        fractions[:] = fractions[0]
    _, number = np.unique(table, return_inverse=True)
    if rng.random() < 0.15:
        return _clustered(n, float(fractions[0]), rng)
    return np.asarray(rng.random(n) < fractions[number])
