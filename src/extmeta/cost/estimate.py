"""Estimates the instructions of operations from how a capture's PTEs and words lie.

:mod:`extmeta.cost.census` counts, in one pass, what the loops of the encodings do: runs
of vpns, blocks of 64 entries, tables by the number of their words, empty slots of upper
tables. For each encoding and operation, each of these numbers has a cost. The costs are
found by least squares (:mod:`extmeta.cost.terms`), from instructions that callgrind
counts on small made address spaces (:mod:`extmeta.cost.samples`). So a fleet of captures
takes one product each, and no time is measured. `counted` counts a capture directly, for
comparison: `python benchmarks/estimates.py` prints both.

What `hash` and `xarray` take depends on all words together, so they are the least
certain.
"""

import gc
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from extmeta.arch import Arch, arch_named
from extmeta.arrays import U64, Bools
from extmeta.checks import must
from extmeta.cost import census, instructions, terms
from extmeta.cost.forms import form
from extmeta.cost.instructions import operation
from extmeta.cost.placement import words as draw
from extmeta.cost.samples import Sample, sample
from extmeta.cost.tasks import Filled, PointWords
from extmeta.cost.terms import Floats, numbers_of
from extmeta.edge.state import state_of
from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.rows import OPERATIONS

# Made address spaces on which instructions are counted, about as many as there are
# terms. `python benchmarks/estimates.py` prints how far off the estimates are.
SAMPLES = 120

# Page tables that are made, filled and freed before the first is counted. Each has up to
# two mappings, for tables and for side memory, and four freed mappings are kept.
WARM = 2

# Arrays of this size get mappings of their own, as the heap keeps no free memory at its
# top. So a result that grows is never copied; else that depends on what came before.
_TUNABLES = (
    ":glibc.malloc.mmap_threshold=32768"
    ":glibc.malloc.top_pad=0"
    ":glibc.malloc.trim_threshold=0"
)

# The C function of each operation of `work`, in its order.
_STEPS = {
    **{name: name for name in ("store", "load", "scan", "fork")},
    "update": "store",
    "clear": "store",
    "unmap": "unmap",
}


class Layout(NamedTuple):
    """What an address space has besides the vpns of its PTEs.

    Attributes
    ----------
    swapped : (n,) bool ndarray
        Which PTEs are swap entries.
    leaves : (m,) uint64 ndarray
        First vpns of huge leaves, ascending.
    nr_deposited : int
        Leaves with a deposited PTE table.
    """

    swapped: Bools
    leaves: U64
    nr_deposited: int


def layout_of(table: PageTable) -> Layout:
    """Return the layout of a page table."""
    state = state_of(table)
    return Layout(~state.present, state.leaf_vpns, int(state.deposited.sum()))


class Lie(NamedTuple):
    """How the PTEs and the words of an address space lie.

    Attributes
    ----------
    read, written : (len(census.ARRAY_NAMES),) float64 ndarray
        Runs of all vpns, which load reads, and of those with a word, which store writes.
    tables : (len(census.WALK_NAMES),) float64 ndarray
        The page tables, which the other operations pass.
    """

    read: Floats
    written: Floats
    tables: Floats

    def of(self, operation: str) -> Floats:
        """Return what decides the cost of an operation."""
        return {"load": self.read, "store": self.written}.get(operation, self.tables)


def lie(load: PointWords, layout: Layout, level_bits: Sequence[int]) -> Lie:
    """Return how PTEs and words lie in tables of ``level_bits`` (`Arch.level_bits`)."""
    words_ = load.words.reshape(len(load.words), -1)
    bit = load.lanes(load.clear_bit)
    flagged = words_.any(axis=1)
    marks = flagged * np.uint8(census.MARKS["flagged"])
    marks |= (words_ & bit).any(axis=1) * np.uint8(census.MARKS["matched"])
    marks |= (flagged & ~(words_ & ~bit).any(axis=1)) * np.uint8(census.MARKS["zeroed"])
    marks |= layout.swapped * np.uint8(census.MARKS["swapped"])
    vpns = load.space.vpns
    return Lie(
        census.runs(vpns, marks, level_bits),
        census.runs(load.flagged_vpns, marks[flagged], level_bits) * flagged.any(),
        census.tables(vpns, marks, layout.leaves, layout.nr_deposited, level_bits),
    )


@dataclass(frozen=True, eq=False)
class Costs:
    """What the operations of one encoding take.

    Attributes
    ----------
    level_bits : tuple of int
        As `Arch.level_bits`, of its tables.
    each : dict of str to float64 ndarray
        For each operation, instructions for each number of `Lie.of`.
    """

    level_bits: tuple[int, ...]
    each: dict[str, Floats]

    def of(self, lie: Lie) -> dict[str, float]:
        """Return the instructions of each operation; an estimate."""
        return {
            name: float(lie.of(name) @ each)
            for name, each in self.each.items()
            if name != "store" or lie.written.any()
        }

    def as_json(self) -> dict[str, Any]:
        """Return values that JSON has."""
        each = {name: costs.tolist() for name, costs in self.each.items()}
        return {"level_bits": self.level_bits, "each": each}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return what `as_json` made; ValueError if it is of another census."""
        each = {name: np.array(of, np.float64) for name, of in found["each"].items()}
        if any(len(of) != len(numbers_of(name)) for name, of in each.items()):
            raise ValueError("these costs are of another census; count them anew")
        return cls(tuple(found["level_bits"]), each)


def costs(
    forms: Sequence[tuple[str, Fields]], arch: str, kind: str = "different"
) -> list[Costs]:
    """Find the costs of encodings: instructions are counted in one process.

    Parameters
    ----------
    forms : sequence of (str, Fields)
        See `forms.form`. Each encoding can hold its fields.
    arch : str
    kind : str
        See `placement.words`.
    """
    made = arch_named(arch)
    work_, lies, shapes = [], [], []
    for text, fields in forms:
        bits = PageTable(form(text), fields, arch).arch.level_bits
        shapes.append(bits)
        for seed in range(SAMPLES):
            load, layout = loaded(sample(made, seed), made, text, fields, kind)
            work_.append((text, load))
            lies.append(lie(load, layout, bits))
    found = list(zip(lies, counted(work_), strict=True))
    return [
        Costs(bits, _fitted(found[at * SAMPLES : (at + 1) * SAMPLES]))
        for at, bits in enumerate(shapes)
    ]


def loaded(
    made: Sample, arch: Arch, text: str, fields: Fields, kind: str
) -> tuple[PointWords, Layout]:
    """Return a sample's words; without swap entries if those can't hold the words."""
    load = _load(made, arch, fields, kind)
    if made.swapped.any() and not holds(text, load):
        return loaded(made.unswapped(), arch, text, fields, kind)
    return load, Layout(made.swapped, made.leaves, int(made.deposited.sum()))


def holds(text: str, load: PointWords) -> bool:
    """Return whether swap entries can hold the words, and those of an update."""
    try:
        table = Filled(load.space.bare(form(text), load.fields), load).table
        table.update(load.space.range, set=load.set_bit)
    except ValueError:
        return False
    return True


def _load(made: Sample, arch: Arch, fields: Fields, kind: str) -> PointWords:
    flagged = made.flagged
    core = (1 << fields.bits) - 1
    drawn = draw(int(flagged.sum()), fields, core, kind, seed=1)
    full = np.zeros((len(flagged), *drawn.shape[1:]), np.uint64)
    full[flagged] = drawn
    return PointWords(
        space=made.space(arch),
        fields=fields,
        words=full,
        flagged_vpns=made.vpns[flagged],
        flagged_words=drawn,
        set_bit=1,
        clear_bit=1 << fields.shift(list(fields)[-1]),
    )


def _fitted(found: Sequence[tuple[Lie, Mapping[str, int]]]) -> dict[str, Floats]:
    """Return the costs of each operation, from what its counts are at several lies."""
    each = {}
    for name in OPERATIONS:
        # Nothing is stored if no PTE has a word.
        known = [(lie.of(name), of[name]) for lie, of in found if name in of]
        numbers = np.array([one for one, _ in known])
        counts = np.array([count for _, count in known], np.float64)
        each[name] = terms.fitted(name, numbers, counts)
    return each


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
    symbols = instructions.symbols(
        {key: instructions.FUNCTIONS[key] for key in dict.fromkeys(_STEPS.values())}
    )
    with tempfile.NamedTemporaryFile(prefix="extmeta-") as given:
        pickle.dump(loads, given)
        given.flush()
        command = [sys.executable, "-m", __name__, given.name]
        returns, _said = instructions.profiled(command, [*symbols.values()], _TUNABLES)
    events = iter(returns)
    found = []
    for _text, load in loads:
        # Nothing is stored if no PTE has a word.
        done = [name for name in _STEPS if name != "store" or len(load.flagged_vpns)]
        found.append({name: _count(events, symbols[_STEPS[name]]) for name in done})
    must(next(events, None) is None, "more calls than operations")
    return found


def _count(events: Iterator[tuple[str, int]], wanted: str) -> int:
    function, count = next(events, ("nothing", 0))
    must(function == wanted, f"{function} returned, and not {wanted}")
    return count


def work(text: str, load: PointWords) -> None:
    """Do each operation once; this runs under callgrind."""
    bare = load.space.bare(form(text), load.fields)
    span = load.space.range
    # Each operation that is counted finds kept mappings, large enough and with pages that
    # were used before: growing a new one costs thousands of instructions.
    warm = [Filled(bare, load).table for _ in range(WARM)]
    while warm:
        warm.pop(0).update(span, set=load.set_bit)
    f = operation(Filled, bare, load)
    operation(f.table.load, load.space.vpns)
    operation(f.table.scan, span, load.clear_bit)
    child = operation(f.table.fork)
    must(len(child) == len(f.table), "PTEs of the child")
    del child
    operation(f.copy().update, span, set=load.set_bit)
    operation(f.copy().update, span, clear=load.clear_bit)
    operation(f.copy().unmap, span)


if __name__ == "__main__":
    # A collection would count for the operation that it interrupts.
    gc.disable()
    instructions.start()
    for given_work in pickle.loads(Path(sys.argv[1]).read_bytes()):
        work(*given_work)
