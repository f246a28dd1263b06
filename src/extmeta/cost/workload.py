"""Which PTEs have a metadata word, and which word: seeded, so a run repeats.

A `Space` is what is mapped: a capture, or synthetic tables. A `Point` says how
many of its PTEs are flagged and how these lie, which decides what lazily
allocated side memory costs: 1 % of the PTEs at random touches nearly every
table, 1 % in whole tables touches 1 % of them. `words` gives the flagged PTEs
their words.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from extmeta.arch import Arch, arch_named
from extmeta.captures.capture import Capture, CaptureError
from extmeta.fields import Fields
from extmeta.linux.pagewords import LEAF_KB, PAGE_BYTES, PAGE_SHIFT, PFN_MASK, present
from extmeta.pagetable import PageTable
from extmeta.rows import EACH, Point
from extmeta.table.encoding import Encoding

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
PLACEMENTS = ("random", "clustered", "tables")
WORDS = ("one", "few", "byte", "different")

# How many words there are where they are few.
NR_FEW = 8

# Mean PTEs of a clustered run: 128 KiB, the kernel's default readahead and the
# order of what a collector or a balloon marks at once.
MEAN_RUN = 32

# Fractions are told apart to this much when they seed a placement.
FRACTION_STEPS = 1 << 32

# Where synthetic tables start: a multiple of a PMD table's span, not 0. Where vpns
# don't reach that far, halfway.
SYNTHETIC_FIRST = 1 << 27
DEFAULT_ARCH = "x86_64"


@dataclass(frozen=True, eq=False)
class Space:
    """An address space's PTEs, to be built in any encoding.

    Attributes
    ----------
    name : str
    vpns : (n,) uint64 ndarray
        Ascending: every vpn that has a PTE.
    present_bytes : int
        Memory that is mapped and present, huge pages included.
    nr_huge : int
        Huge pages of 2 MiB mapped by leaves, which have no PTE.
    has_swap : bool
        Whether some PTEs are swap entries or markers.
    arch : str
    sha256 : str
        Of the capture; empty for synthetic tables.
    build : callable
        ``build(encoding, fields)`` returns the PageTable.
    note : str
        How it differs from what was captured; empty if it does not.
    pfns : (n,) uint64 ndarray, optional
        The machine's pages, of present PTEs, if the capture has them.
    deposited : (n,) uint64 ndarray
        First vpns of the anonymous huge pages, which have a deposited PTE table.
    nr_unplaced, nr_unmarked : int
        Huge pages taken for 512 PTEs each, since their places are not known: so many,
        and perhaps up to so many more (`Capture.unmarked`).
    """

    name: str
    vpns: U64
    present_bytes: int
    nr_huge: int
    has_swap: bool
    arch: str
    sha256: str
    build: Callable[[str | Encoding, Fields], PageTable]
    note: str = ""
    pfns: U64 | None = None
    deposited: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    nr_unplaced: int = 0
    nr_unmarked: int = 0

    @property
    def range(self) -> slice:
        """The smallest range that has every PTE in it."""
        return slice(int(self.vpns[0]), int(self.vpns[-1]) + 1)

    def bare(self, encoding: str | Encoding, fields: Fields) -> PageTable:
        """Return the table without a word, whatever the capture has flagged."""
        table = self.build(encoding, fields)
        table.update(self.range, clear=(1 << fields.bits) - 1)
        return table


def captured(capture: Capture, name: str, arch: str | None = None) -> Space:
    """Return a capture's address space.

    Parameters
    ----------
    capture : Capture
    name : str
    arch : str, optional
        By default the capture's, "NAME@RELEASE" for another Linux release. For another
        architecture it is `ported`.

    Raises
    ------
    CaptureError
        If there is no PTE in it.
    """
    made = arch_named(arch or capture.arch)
    if made.name.partition("@")[0] != capture.arch:
        return ported(capture, name, made)
    plain = capture.build("inpte", Fields(bit=1))
    vpns = plain.scan(0, plain.arch.nr_vpns, 0, 0)
    if not len(vpns):
        raise CaptureError(f"{name}: no PTE, so nothing to compare")
    return Space(
        name=name,
        vpns=vpns,
        present_bytes=capture.nr_present * PAGE_BYTES,
        nr_huge=len(capture.huge_vpn),
        has_swap=capture.nr_swapped + capture.nr_markers > 0,
        arch=made.name,
        sha256=capture.sha256,
        build=functools.partial(capture.build, arch=made.name),
        deposited=capture.deposited_vpn,
        nr_unplaced=capture.unplaced_kb // LEAF_KB,
        nr_unmarked=capture.unmarked,
    )


def ported(capture: Capture, name: str, arch: Arch) -> Space:
    """Return a capture's address space as another architecture would have it.

    The capture has x86-64's 4 KiB pages. A page of ``arch`` is mapped where any of
    its 4 KiB parts is: present if one of them is, else a swap entry, with a slot of
    its own; writable if one of them is. PFNs are the table's own, 2 MiB leaves are
    left out. Where addresses reach beyond the architecture's vpns, the holes in
    them are cut, in whole spans of the tables above the PTE tables, to less than
    two of these: so all that is mapped moves down, in order, its place in PTE
    tables and in those above them kept.

    Parameters
    ----------
    capture : Capture
    name : str
    arch : Arch

    Raises
    ------
    CaptureError
        If there is no PTE in it, or too many for the architecture's vpns.
    """
    plain = capture.build("inpte", Fields(bit=1))
    parts = plain.scan(0, plain.arch.nr_vpns, 0, 0)
    if not len(parts):
        raise CaptureError(f"{name}: no PTE, so nothing to compare")
    shift = np.uint64(arch.page_shift - PAGE_SHIFT)
    vpns, first = np.unique(parts >> shift, return_index=True)
    entry = capture.entry[np.searchsorted(capture.vpn, parts)]
    here = present(entry)
    here = np.logical_or.reduceat(here, first)
    writable = np.logical_or.reduceat(_writable(capture, parts), first)
    notes = []
    if shift:
        notes.append("a page is mapped where one of its 4 KiB parts is")
    if vpns[-1] >= arch.nr_vpns:
        vpns = _closer(vpns, arch)
        notes.append("holes are cut so that all of it fits the addresses there are")
        if vpns[-1] >= arch.nr_vpns:
            raise CaptureError(f"{name}: too large for the addresses of {arch.name}")
    if len(capture.huge_vpn):
        notes.append("2 MiB pages are left out")

    def build(encoding: str | Encoding, fields: Fields) -> PageTable:
        table = PageTable(encoding, fields, arch.name)
        for may_write in (False, True):
            table.map(vpns[writable == may_write], writable=may_write)
        swapped = vpns[~here]
        slots = np.arange(len(swapped), dtype=np.uint64)
        table.swap_out(swapped, slots + np.uint64(arch.first_slot))
        return table

    return Space(
        name=name,
        vpns=vpns,
        present_bytes=int(here.sum()) * arch.page_bytes,
        nr_huge=0,
        has_swap=not here.all(),
        arch=arch.name,
        sha256=capture.sha256,
        build=build,
        pfns=entry & np.uint64(PFN_MASK) if capture.has_pfns and not shift else None,
        note="; ".join((f"from a capture of {capture.arch}", *notes)),
    )


def _writable(capture: Capture, vpns: U64) -> Bools:
    """Tell which vpns, each in a VMA, their VMA lets write to."""
    vma = np.searchsorted(capture.vma_start >> PAGE_SHIFT, vpns, "right") - 1
    writable = np.strings.find(capture.vma_perms, "w") >= 0
    return np.asarray(writable[vma])


def _closer(vpns: U64, arch: Arch) -> U64:
    """Return ascending vpns with the holes between PTE tables cut; see `ported`."""
    size = np.uint64(arch.ptrs_per_pte)
    span = np.uint64(1 << arch.level_bits[-2])
    table = vpns // size
    ahead = np.diff(table, prepend=np.uint64(0))
    cut = np.where(ahead < 2 * span, ahead, span + ahead % span)
    return np.asarray(np.cumsum(cut, dtype=np.uint64) * size + vpns % size)


def full_tables(nr_tables: int, arch: str = DEFAULT_ARCH) -> Space:
    """Return consecutive PTE tables with an entry in every place.

    Parameters
    ----------
    nr_tables : int
    arch : str, optional
        On x86-64 each table has 512 PTEs, 2 MiB of mapped memory.
    """
    made = arch_named(arch)
    first = _first(made)
    vpns = range(first, first + nr_tables * made.ptrs_per_pte)
    name = f"{nr_tables:,} full table{'s' if nr_tables > 1 else ''}"
    return _synthetic(name, vpns, made)


def _first(arch: Arch) -> int:
    return min(SYNTHETIC_FIRST, arch.nr_vpns // 2)


def sparse_tables(
    nr_tables: int, per_table: int, seed: int, arch: str = DEFAULT_ARCH
) -> Space:
    """Return consecutive PTE tables, each with entries in some random places.

    Parameters
    ----------
    nr_tables : int
    per_table : int
        Entries of each, from 1 to all of them: 512 on x86-64.
    seed : int
    arch : str, optional
    """
    made = arch_named(arch)
    size = made.ptrs_per_pte
    rng = np.random.default_rng(seed)
    # The places of the smallest of that many random numbers are a random subset.
    order = rng.random((nr_tables, size)).argpartition(per_table - 1, axis=1)
    places = np.sort(order[:, :per_table], axis=1).astype(np.uint64)
    first = _first(made) + size * np.arange(nr_tables, dtype=np.uint64)
    vpns = (places + first[:, None]).ravel()
    return _synthetic(f"{nr_tables:,} tables of {per_table} entries", vpns, made)


def _synthetic(name: str, vpns: range | U64, arch: Arch) -> Space:
    def build(encoding: str | Encoding, fields: Fields) -> PageTable:
        table = PageTable(encoding, fields, arch.name)
        table.map(vpns)
        return table

    return Space(
        name=name,
        vpns=np.asarray(vpns, np.uint64),
        present_bytes=len(vpns) * arch.page_bytes,
        nr_huge=0,
        has_swap=False,
        arch=arch.name,
        sha256="",
        build=build,
    )


def points(fractions: Iterable[float], placements: Sequence[str]) -> list[Point]:
    """Return every fraction with every placement, but 0 and 1 once."""
    return [
        Point(fraction, placement)
        for fraction in fractions
        for placement in (placements if 0 < fraction < 1 else ("",))
    ]


def flags(vpns: U64, point: Point, seed: int, arch: str = DEFAULT_ARCH) -> Bools:
    """Choose the PTEs that have a word.

    ``random`` and ``clustered`` choose round(fraction * n) of them, at least
    one where the fraction is not 0, so that placements compare at equal counts;
    ``tables`` comes as near to that as whole tables do.

    Parameters
    ----------
    vpns : (n,) uint64 ndarray
        Ascending.
    point : Point
        ``random``: every PTE is as likely, whatever its neighbours are.
        ``clustered``: runs of geometric length, `MEAN_RUN` on average, in the
        order of the mapped PTEs, so a run may reach over a hole.
        ``tables``: all PTEs of randomly chosen PTE tables.
        `EACH`: in every table that fraction of a full one's entries, or all that it
        has; of a larger fraction the same ones and others.
    seed : int
    arch : str, optional
        Whose PTE tables they are.

    Returns
    -------
    (n,) bool ndarray

    Raises
    ------
    ValueError
        If the placement is no known one.
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
    # Each run goes before another unflagged PTE, so that runs stay apart, as
    # long as there are enough of those.
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
    # The same whatever the fraction is, so that more are those and others.
    rng = np.random.default_rng((seed, len(PLACEMENTS)))
    _, first, table = np.unique(vpns // size, return_index=True, return_inverse=True)
    # Shuffled within each table; the first of each are taken.
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
        Mask of bits of which each word has at least one: those that the
        baseline keeps too.
    kind : {"one", "few", "byte", "different"}
        The same word for all; one of `NR_FEW` for each; random words of 8 bits;
        random words as wide as the fields, so all different as far as their bits
        allow.
    seed : int

    Returns
    -------
    (n,) uint64 ndarray
        (n, lanes) where the fields are wider than 64 bits.

    Raises
    ------
    ValueError
        If the kind is no known one.

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
    """Return the mask, in a word of ``fields``, of what `cut` keeps."""
    return sum(((1 << width) - 1) << fields.shift(name) for name, width in kept.items())


def cut(full: U64, fields: Fields, kept: Fields) -> U64:
    """Return words with only some of their fields.

    Parameters
    ----------
    full : (n,) or (n, lanes) uint64 ndarray
        Words of ``fields``.
    fields : Fields
    kept : Fields
        At most 64 bits. Of names that ``fields`` has, none wider there; where
        it is narrower, its lowest bits are kept.

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
