"""Estimates the instructions of operations from the fills of a capture's PTE tables.

A fill is how many PTEs a table has, and how many of these have a word. Instructions are
counted once for each encoding, on tables of the fills of a grid (`nodes`), by callgrind
as :mod:`extmeta.cost.instructions` does. A capture's tables are then spread over the
nearest nodes, and the counts of the nodes are added up. So a fleet of captures takes one
matrix product each, and no time is measured. `counted` counts a capture directly, for
comparison: `python benchmarks/estimates.py` prints both.

To these counts comes the walk of the tables above (`walked`). An estimate leaves out how
the PTEs lie in a table. What `hash` takes depends on all words together, so it is the
least certain.
"""

import itertools
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from extmeta.arch import Arch, arch_named
from extmeta.arrays import U64, Bools
from extmeta.checks import must
from extmeta.cost import instructions
from extmeta.cost.forms import form
from extmeta.cost.placement import words as draw
from extmeta.cost.space import SYNTHETIC_FIRST, synthetic
from extmeta.cost.tasks import Filled, PointWords
from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.rows import OPERATIONS
from extmeta.table import words

Floats = npt.NDArray[np.float64]

# PTE tables of each node.
TABLES = 8

# The nodes' numbers of PTEs and of words: the fills at which `adaptive` takes another
# container, and some between. WORD_SHARES are of a table.
# `python benchmarks/estimates.py` prints how far off the estimates are.
FEW_PTES = (1, 64)
FEW_WORDS = (0, 1, 14, 32, 48)
WORD_SHARES = (3 / 8, 3 / 4, 7 / 8, 1)

# Which C function each step of `work` returns from; a step that is no operation prepares
# one. `flagged` marks the start.
_MARK = "flagged"
_STEPS = (
    *(("load", "load"), ("scan", "scan"), ("fork", "fork")),
    *(("", "store"), ("update", "store"), ("", "store"), ("clear", "store")),
    *(("", "store"), ("unmap", "unmap")),
)


def nodes(size: int) -> list[tuple[int, int]]:
    """Return the fills (PTEs, words) that are counted, for tables of ``size`` PTEs."""
    rows = {*FEW_PTES, size}
    marks = {*FEW_WORDS, size - 1, *(round(s * size) for s in WORD_SHARES)}
    return [(n, k) for n in sorted(rows) for k in sorted({*marks, n}) if k <= n]


def weights(fills: Sequence[tuple[int, int]], ptes: U64, flagged: U64) -> Floats:
    """Spread tables over nodes, linearly between neighbours.

    Parameters
    ----------
    fills : sequence of (int, int)
        The nodes.
    ptes, flagged : (t,) ndarray of int
        Of each table; at least one PTE.

    Returns
    -------
    (len(fills),) float64 ndarray
        Tables at each node; the sum is t.
    """
    n, k = np.asarray(ptes, np.float64), np.asarray(flagged, np.float64)
    rows = np.unique([at for at, _ in fills])
    upper = np.clip(np.searchsorted(rows, n), 1, len(rows) - 1)
    below, above = rows[upper - 1], rows[upper]
    share = (n - below) / (above - below)
    # If a table has more words than the row below has PTEs, the line from that row's
    # last node through the fill meets the row above.
    over = np.maximum(k - below, 0)
    met = np.minimum(k, below) + np.divide(
        over, share, np.zeros_like(k), where=over > 0
    )
    out = np.zeros(len(fills))
    for at in rows:
        places = [i for i, (row, _) in enumerate(fills) if row == at]
        marks = np.array([fills[i][1] for i in places], np.float64)
        for row, share_of, words_of in (
            (below, 1 - share, np.minimum(k, below)),
            (above, share, met),
        ):
            here = (row == at) & (share_of > 0)
            position = np.interp(words_of[here], marks, np.arange(len(marks)))
            left = np.minimum(position.astype(np.int64), len(marks) - 1)
            right = np.minimum(left + 1, len(marks) - 1)
            part = position - left
            for side, weight in ((left, 1 - part), (right, part)):
                np.add.at(out, np.array(places)[side], weight * share_of[here])
    return out


@dataclass(frozen=True, eq=False)
class Costs:
    """What the operations of one encoding take.

    Attributes
    ----------
    level_bits : tuple of int
        As `Arch.level_bits`, of its tables.
    walk : dict of str to (levels + 1,) float64 ndarray
        Instructions for each of what `walked` returns.
    tables : dict of str to (len(nodes(size)),) float64 ndarray
        Instructions for each PTE table, at each node.
    """

    level_bits: tuple[int, ...]
    walk: dict[str, Floats]
    tables: dict[str, Floats]

    def of(self, lie: "Lie") -> dict[str, float]:
        """Return the instructions of each operation; an estimate."""
        return {
            name: float(lie.spread @ each)
            + float((lie.whole if name == "fork" else lie.between) @ self.walk[name])
            for name, each in self.tables.items()
            if name != "store" or lie.worded
        }

    def as_json(self) -> dict[str, Any]:
        """Return values that JSON has."""
        walk = {name: each.tolist() for name, each in self.walk.items()}
        tables = {name: each.tolist() for name, each in self.tables.items()}
        return {"level_bits": self.level_bits, "walk": walk, "tables": tables}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return what `as_json` made; ValueError if it is of other nodes."""
        bits = tuple(found["level_bits"])
        walk, tables = (
            {name: np.array(each, np.float64) for name, each in found[key].items()}
            for key in ("walk", "tables")
        )
        if any(len(each) != len(nodes(1 << bits[-1])) for each in tables.values()):
            raise ValueError("these costs are of other fills; count them anew")
        return cls(bits, walk, tables)


class Lie(NamedTuple):
    """How the PTEs and the words of an address space lie.

    Attributes
    ----------
    spread : (len(nodes(size)),) float64 ndarray
        See `weights`.
    between, whole : (levels + 1,) float64 ndarray
        See `walked`.
    worded : bool
        Whether there are words.
    """

    spread: Floats
    between: Floats
    whole: Floats
    worded: bool


def lie(vpns: U64, flagged_vpns: U64, level_bits: Sequence[int]) -> Lie:
    """Return how ascending vpns, and those that have words, lie in tables."""
    return Lie(
        weights(
            nodes(1 << level_bits[-1]), *fills_of(vpns, level_bits[-1], flagged_vpns)
        ),
        walked(vpns, level_bits, whole=False),
        walked(vpns, level_bits, whole=True),
        len(flagged_vpns) > 0,
    )


def fills_of(vpns: U64, bits: int, flagged_vpns: U64) -> tuple[U64, U64]:
    """Return the PTEs and the words of each PTE table, of ``1 << bits`` entries."""
    shift = np.uint64(bits)
    table, ptes = np.unique(vpns >> shift, return_counts=True)
    of = np.searchsorted(table, flagged_vpns >> shift)
    return ptes.astype(np.uint64), np.bincount(of, minlength=len(ptes)).astype(
        np.uint64
    )


def walked(vpns: U64, level_bits: Sequence[int], whole: bool) -> Floats:
    """Return what an operation passes on its way to the PTE tables.

    Parameters
    ----------
    vpns : (n,) uint64 ndarray
        Ascending.
    level_bits : sequence of int
        As `Arch.level_bits`.
    whole : bool
        It walks the whole page table, as fork does, and not only from the first to the
        last vpn.

    Returns
    -------
    (levels + 1,) float64 ndarray
        1, for the call; the tables above the PTE tables; empty slots of PMD tables
        before their first used slot; other empty slots of PMD tables; empty slots of
        each level above.
    """
    *above, pte_bits = level_bits
    child, nr_tables, empty = np.unique(vpns >> np.uint64(pte_bits)), 0, []
    for bits in reversed(above):
        slot = (child & np.uint64((1 << bits) - 1)).astype(np.int64)
        parent, first = np.unique(child >> np.uint64(bits), return_index=True)
        ends = 0 if whole else int(slot[0])
        around = 0 if whole else int(slot[0]) + (1 << bits) - 1 - int(slot[-1])
        empty.append((len(parent) << bits) - len(child) - around)
        if len(empty) == 1:
            before = int(slot[first].sum()) - ends
            empty = [before, empty[0] - before]
        child, nr_tables = parent, nr_tables + len(parent)
    return np.array([1, nr_tables, *empty], np.float64)


def _walks(arch: Arch, size: int) -> list[U64]:
    """Return vpns of tables of one PTE, which tell the cost of each slot."""
    start, below = arch.nr_vpns // 4, size
    given = [np.array([start]), start + size * np.arange(TABLES)]
    for bits in reversed(arch.level_bits[:-1]):
        two = np.array([start, start + (below << bits - 1)])
        # At the start of the tables below, and at their end.
        given += [two, two + below - 1]
        below <<= bits
    return [vpns.astype(np.uint64) for vpns in given]


def _filled(size: int, n: int, rng: np.random.Generator) -> U64:
    """Return the vpns of tables that have ``n`` PTEs in a row each."""
    start = rng.integers(size - n + 1, size=(TABLES, 1))
    tables = SYNTHETIC_FIRST + size * np.arange(TABLES)[:, None]
    return np.asarray(tables + start + np.arange(n), np.uint64).ravel()


def _load(
    vpns: U64, flagged: Bools, arch: Arch, fields: Fields, kind: str
) -> PointWords:
    core = (1 << fields.bits) - 1
    drawn = draw(int(flagged.sum()), fields, core, kind, seed=1)
    full = np.zeros((len(vpns), *drawn.shape[1:]), np.uint64)
    full[flagged] = drawn
    return PointWords(
        space=synthetic("", vpns, arch),
        fields=fields,
        words=full,
        flagged_vpns=vpns[flagged],
        flagged_words=drawn,
        set_bit=1,
        clear_bit=1 << fields.shift(list(fields)[-1]),
    )


def costs(
    forms: Sequence[tuple[str, Fields]], arch: str, kind: str = "different"
) -> list[Costs]:
    """Count the instructions of encodings at every node, in one process.

    Parameters
    ----------
    forms : sequence of (str, Fields)
        See `forms.form`. Each encoding can hold its fields.
    arch : str
    kind : str
        See `placement.words`.
    """
    made, shapes, work_, lies = arch_named(arch), [], [], []
    for text, fields in forms:
        bits = PageTable(form(text), fields, arch).arch.level_bits
        given = _given(made, 1 << bits[-1])
        shapes.append(bits)
        lies.append(given)
        work_ += [(text, _load(*each, made, fields, kind)) for each in given]
    found = iter(counted(work_))
    return [
        _fitted(bits, given, list(itertools.islice(found, len(given))))
        for bits, given in zip(shapes, lies, strict=True)
    ]


def _given(arch: Arch, size: int) -> list[tuple[U64, Bools]]:
    """Return what is counted: vpns, and which of these have a word. The nodes are last."""
    rng = np.random.default_rng(1)
    given = [(vpns, np.ones(len(vpns), np.bool_)) for vpns in _walks(arch, size)]
    for n, k in nodes(size):
        # The smallest of random numbers are a random subset.
        order = rng.random((TABLES, n)).argsort(axis=1).argsort(axis=1)
        given.append((_filled(size, n, rng), (order < k).ravel()))
    return given


def _fitted(
    bits: tuple[int, ...],
    given: Sequence[tuple[U64, Bools]],
    found: Sequence[Mapping[str, int]],
) -> Costs:
    nr_walks = len(given) - len(nodes(1 << bits[-1]))
    walk, tables = {}, {}
    for name in OPERATIONS:
        passed = np.array([walked(vpns, bits, name == "fork") for vpns, _ in given])
        nr_tables = np.array(
            [len(np.unique(vpns >> np.uint64(bits[-1]))) for vpns, _ in given]
        )
        # Nothing is stored if no PTE has a word.
        counts = np.array([each.get(name, 0) for each in found], np.float64)
        known = np.column_stack((nr_tables, passed))[:nr_walks]
        walk[name] = np.linalg.lstsq(known, counts[:nr_walks])[0][1:]
        tables[name] = ((counts - passed @ walk[name]) / nr_tables)[nr_walks:]
    return Costs(bits, walk, tables)


def counted(loads: Sequence[tuple[str, PointWords]]) -> list[dict[str, int]]:
    """Count the instructions of each operation on filled tables, in another process.

    Parameters
    ----------
    loads : sequence of (str, PointWords)
        Encodings (see `forms.form`), each with words that it can hold.

    Returns
    -------
    list of dict of str to int
        For each of ``loads``; no "store" if no PTE is flagged.

    Raises
    ------
    ValueError
        If the encoding can't do it, with what it said last.
    """
    wanted = {key: instructions.FUNCTIONS[key] for key in {key for _, key in _STEPS}}
    symbols = instructions.symbols(
        wanted | {_MARK: (words, r"__pyx_f_\w+Words_read_flags")}
    )
    with tempfile.NamedTemporaryFile(prefix="extmeta-") as given:
        pickle.dump(loads, given)
        given.flush()
        command = [sys.executable, "-m", __name__, given.name]
        events = iter(instructions.profiled(command, [*symbols.values()])[0])
    return [_told(events, symbols, bool(len(load.flagged_vpns))) for _, load in loads]


def _told(
    events: Iterator[tuple[str, int]], symbols: Mapping[str, str], worded: bool
) -> dict[str, int]:
    """Return the counts of one load."""
    for function, _count in events:
        if function == symbols[_MARK]:
            break
    found = {}
    for name, key in (("store", "store"), *_STEPS):
        if not worded and (name in ("", "store")):
            continue
        function, count = next(events)
        must(function == symbols[key], f"{function} returned, and not {key}")
        if name:
            found[name] = count
    return found


def work(text: str, load: PointWords) -> None:
    """Do each operation once; this runs under callgrind."""
    bare = load.space.bare(form(text), load.fields)
    span = load.space.range
    bare.flagged(slice(span.start, span.start + 1))
    f = Filled(bare, load)
    f.table.load(load.space.vpns)
    f.table.scan(span, load.clear_bit)
    child = f.table.fork()
    must(len(child) == len(f.table), "PTEs of the child")
    f.copy().update(span, set=load.set_bit)
    f.copy().update(span, clear=load.clear_bit)
    f.copy().unmap(span)


if __name__ == "__main__":
    for given_work in pickle.loads(Path(sys.argv[1]).read_bytes()):
        work(*given_work)
