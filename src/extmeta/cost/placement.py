"""Chooses the PTEs that have a metadata word, and the words; seeded, so a run repeats.

A `Point` says how many PTEs of a space are flagged and how they lie. That decides the
cost of lazily allocated side memory: 1 % of the PTEs at random touches nearly every
table, 1 % in whole tables touches 1 % of them.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from extmeta.arch import arch_named
from extmeta.arrays import U64, Bools
from extmeta.cost.space import DEFAULT_ARCH
from extmeta.fields import Fields
from extmeta.rows import EACH, Point

PLACEMENTS = ("random", "clustered", "tables")
WORDS = ("one", "few", "byte", "different")

# Number of different words of the kind "few".
NR_FEW = 8

# Mean PTEs of a clustered run: 128 KiB, the kernel's default readahead, and about what
# a collector or a balloon marks at once.
MEAN_RUN = 32

# Fractions that differ by less than 1 / this seed a placement alike.
FRACTION_STEPS = 1 << 32


def points(fractions: Iterable[float], placements: Sequence[str]) -> list[Point]:
    """Return every fraction with every placement, but 0 and 1 once."""
    return [
        Point(fraction, placement)
        for fraction in fractions
        for placement in (placements if 0 < fraction < 1 else ("",))
    ]


def flags(vpns: U64, point: Point, seed: int, arch: str = DEFAULT_ARCH) -> Bools:
    """Choose the PTEs that have a word.

    ``random`` and ``clustered`` choose round(fraction * n) PTEs, at least one unless
    the fraction is 0, so that placements have equal counts; ``tables`` comes as near as
    whole tables can.

    Parameters
    ----------
    vpns : (n,) uint64 ndarray
        Ascending.
    point : Point
        ``random``: every PTE is equally likely.
        ``clustered``: runs of geometric length, `MEAN_RUN` on average, in the
        order of the mapped PTEs, so a run may reach over a hole.
        ``tables``: all PTEs of randomly chosen PTE tables.
        `EACH`: in every table that fraction of a full table's entries, or all it has;
        a larger fraction adds to those of a smaller one.
    seed : int
    arch : str, optional
        Whose PTE tables they are.

    Returns
    -------
    (n,) bool ndarray

    Raises
    ------
    ValueError
        If the placement is unknown.
    """
    n = len(vpns)
    size = arch_named(arch).ptrs_per_pte
    if point.placement == EACH:
        return _each_table(vpns, round(point.fraction * size), size, seed)
    wanted = min(n, max(round(point.fraction * n), int(point.fraction > 0)))
    if wanted in (0, n):
        return np.full(n, wanted > 0)
    if point.placement not in PLACEMENTS:
        raise ValueError(f"no placement {point.placement!r}; there are {PLACEMENTS}")
    rng = np.random.default_rng(
        (
            seed,
            PLACEMENTS.index(point.placement),
            round(point.fraction * FRACTION_STEPS),
        )
    )
    if point.placement == "random":
        chosen = np.zeros(n, np.bool_)
        chosen[rng.permutation(n)[:wanted]] = True
        return chosen
    if point.placement == "clustered":
        return _clustered(n, wanted, rng)
    return _whole_tables(vpns // size, wanted, rng)


def _clustered(n: int, wanted: int, rng: np.random.Generator) -> Bools:
    lengths = rng.geometric(1 / MEAN_RUN, wanted)
    lengths = lengths[: 1 + np.searchsorted(np.cumsum(lengths), wanted)]
    before = np.cumsum(lengths) - lengths
    lengths[-1] = wanted - before[-1]
    # Each run precedes a different unflagged PTE, so that runs stay apart, if there are
    # enough unflagged PTEs.
    slots = n - wanted + 1
    if len(lengths) <= slots:
        slot = np.sort(rng.permutation(slots)[: len(lengths)])
    else:
        slot = np.sort(rng.integers(slots, size=len(lengths)))
    edges = np.zeros(n + 1, np.int64)
    np.add.at(edges, slot + before, 1)
    np.add.at(edges, slot + before + lengths, -1)
    return np.asarray(np.cumsum(edges[:n]) > 0)


def _whole_tables(tables: U64, wanted: int, rng: np.random.Generator) -> Bools:
    _, table, held = np.unique(tables, return_inverse=True, return_counts=True)
    order = rng.permutation(len(held))
    nearest = int(np.abs(np.cumsum(held[order]) - wanted).argmin())
    chosen = np.zeros(len(held), np.bool_)
    chosen[order[: nearest + 1]] = True
    return chosen[table]


def _each_table(vpns: U64, each: int, size: int, seed: int) -> Bools:
    # The seed ignores the fraction, so that a larger one only adds PTEs.
    rng = np.random.default_rng((seed, len(PLACEMENTS)))
    _, first, table = np.unique(vpns // size, return_index=True, return_inverse=True)
    # Shuffle within each table, then take the first ones.
    order = np.argsort(table + rng.random(len(vpns)))
    chosen = np.zeros(len(vpns), np.bool_)
    chosen[order[np.arange(len(vpns)) - first[table] < each]] = True
    return chosen


def words(n: int, fields: Fields, core: int, kind: str, seed: int) -> U64:
    """Return a word, none of them 0, for each of n PTEs.

    Parameters
    ----------
    n : int
    fields : Fields
    core : int
        Mask of the bits that the baseline keeps too. Each word has one of them.
    kind : {"one", "few", "byte", "different"}
        The same word for all; one of `NR_FEW` for each; random words of 8 bits;
        random words as wide as the fields, so all different as far as their bits
        allow.
    seed : int

    Returns
    -------
    (n,) uint64 ndarray
        (n, lanes) if the fields are wider than 64 bits.

    Raises
    ------
    ValueError
        If the kind is unknown.

    Examples
    --------
    >>> words(4, Fields(age=8), 0xFF, "one", seed=1)
    array([255, 255, 255, 255], dtype=uint64)
    """
    if kind not in WORDS:
        raise ValueError(f"no kind of words {kind!r}; there are {WORDS}")
    bits = min(fields.bits, 8) if kind == "byte" else fields.bits
    lanes = (fields.bits + 63) // 64
    rng = np.random.default_rng(seed)
    count = {"one": 1, "few": NR_FEW}.get(kind, n)
    drawn = rng.integers(1 << 64, size=(count, lanes), dtype=np.uint64)
    drawn &= lanes_of((1 << bits) - 1, lanes)
    bare = ((drawn & lanes_of(core, lanes)) == 0).all(axis=1)
    drawn[bare] |= lanes_of(core & -core, lanes)
    if count != n:
        drawn = drawn[rng.integers(count, size=n)]
    return drawn if lanes > 1 else drawn[:, 0]


def lanes_of(mask: int, lanes: int) -> U64:
    """Return an int as uint64s, the lowest bits first."""
    return np.array(
        [mask >> 64 * lane & 0xFFFFFFFFFFFFFFFF for lane in range(lanes)], np.uint64
    )


def core_bits(fields: Fields, kept: Fields) -> int:
    """Return the mask of the bits of a word of ``fields`` that `cut` keeps."""
    return sum(((1 << width) - 1) << fields.shift(name) for name, width in kept.items())


def cut(full: U64, fields: Fields, kept: Fields) -> U64:
    """Return words with only some of their fields.

    Parameters
    ----------
    full : (n,) or (n, lanes) uint64 ndarray
        Words of ``fields``.
    fields : Fields
    kept : Fields
        Fields of ``fields``, at most 64 bits. A narrower one keeps its lowest bits.

    Returns
    -------
    (n,) uint64 ndarray
        Words of ``kept``.
    """
    lanes = full if full.ndim > 1 else full[:, None]
    out = np.zeros((len(full), 1), np.uint64)
    for name, width in kept.items():
        values = fields.extract(lanes, name)
        values = values[:, :1] if values.ndim > 1 else values[:, None]
        kept.deposit(values & np.uint64((1 << width) - 1), name, out)
    return out[:, 0]
