"""The operations that are compared, each as a task to be timed.

Each operation covers every PTE of an address space:

load    read all words, by an ascending uint64 array of the mapped vpns
store   write all words, by that array, into a table without words
update  set one bit of every word, over the range from first to last vpn: what
        write-protecting does to a tracker's bit
clear   clear one bit of every word, over the range: what clear_refs does
scan    find the words of the range that have the bit
fork    make a second page table of equal content; freeing it is not timed
unmap   unmap the range

After each run a changed table is restored, untimed: all words are cleared, then stored
again. So every run finds side memory in the form that the words give it, in pages that
this process has touched before, as a kernel's are.

Each call also costs 1 to 20 us for the checks at Python's edge and the walk from the
root, equal in all encodings. With a few hundred PTEs that is most of the time, and
ratios come out near 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from extmeta import rows
from extmeta.arrays import U64
from extmeta.checks import must, same
from extmeta.cost import contpte
from extmeta.cost.measure import Task
from extmeta.cost.placement import core_bits, cut, flags, lanes_of, words
from extmeta.cost.space import Space
from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.rows import Blocks, Point, Ram

# What a table's link and count take, if struct ptdesc has no idle word for them.
LINK_BYTES = 8


@dataclass(frozen=True, eq=False)
class PointWords:
    """The words of one point, for one set of fields.

    Attributes
    ----------
    space : Space
    fields : Fields
    words : (n,) or (n, lanes) uint64 ndarray
        One for each of ``space.vpns``; 0 if the PTE is not flagged.
    flagged_vpns, flagged_words : (k,), (k,) or (k, lanes) uint64 ndarray
        The flagged PTEs alone.
    set_bit, clear_bit : int
        Masks of one bit: update sets the first; clear clears and scan finds the second.
        The lowest bits of the baseline's first and last field.
    """

    space: Space
    fields: Fields
    words: U64
    flagged_vpns: U64
    flagged_words: U64
    set_bit: int
    clear_bit: int

    def lanes(self, mask: int) -> U64:
        """Return a mask as (lanes,) uint64, to go with `words`."""
        return lanes_of(mask, self.words.size // len(self.words))

    def having(self, mask: int) -> U64:
        """Return the vpns whose word has all bits of ``mask``."""
        wanted = self.lanes(mask)
        has = ((self.words & wanted) == wanted).reshape(len(self.words), -1)
        return np.asarray(self.space.vpns[has.all(axis=1)])


def point_words(
    space: Space, fields: Fields, kept: Fields, point: Point, seed: int, kind: str
) -> tuple[PointWords, PointWords]:
    """Return the words of a point: the baseline's, and those of all others.

    Both flag the same PTEs, and agree in the bits that operations set, clear and find.
    ``kept`` are the baseline's fields. If it can hold none of ``fields``, that is a
    tracker of its own, set in each flagged PTE: it stands for the lowest bit, which
    every word then has.
    """
    flagged = flags(space.vpns, point, seed, space.arch)
    stands_in = not kept.keys() <= fields.keys()
    core = 1 if stands_in else core_bits(fields, kept)
    first, last = next(iter(kept)), list(kept)[-1]
    drawn = words(int(flagged.sum()), fields, core, kind, seed=seed + 1)

    every = bool(flagged.all())
    vpns = space.vpns if every else space.vpns[flagged]

    def of(held: Fields, some: U64) -> PointWords:
        full = some
        if not every:
            full = np.zeros((len(flagged), *some.shape[1:]), np.uint64)
            full[flagged] = some
        return PointWords(
            space=space,
            fields=held,
            words=full,
            flagged_vpns=vpns,
            flagged_words=some,
            set_bit=1 if stands_in else 1 << held.shift(first),
            clear_bit=1 if stands_in else 1 << held.shift(last),
        )

    if stands_in:
        return of(kept, np.ones(len(drawn), np.uint64)), of(fields, drawn)
    return of(kept, cut(drawn, fields, kept)), of(fields, drawn)


class Filled:
    """One encoding's page table at one point: `table` is `bare` with the words.

    No operation changes either. ValueError is raised if the encoding can't hold a word,
    as in a swap entry.
    """

    def __init__(self, bare: PageTable, load: PointWords) -> None:
        self.bare = bare
        self.load = load
        self.table = self.copy()

    def copy(self) -> PageTable:
        """Return a table of equal content that shares no memory with `table`."""
        # A fork of `table` might share its words until they are written.
        copy = self.bare.copy()
        self.fill(copy)
        return copy

    def fill(self, table: PageTable) -> None:
        """Store the words in a table that has none."""
        # Flagged PTEs only: a word of 0 might allocate.
        table.store(self.load.flagged_vpns, self.load.flagged_words)

    def empty(self, table: PageTable) -> None:
        """Clear all words of a copy."""
        table.update(self.load.space.range, clear=(1 << self.load.fields.bits) - 1)

    def refill(self, table: PageTable) -> None:
        """Restore a copy."""
        # Cleared first, so that side memory which grew is freed.
        self.empty(table)
        self.fill(table)

    def ram(self, encoding: str, point: Point) -> Ram:
        """Return what the table holds."""
        held = self.table.memory()
        encoder = self.table.encoding
        needed = getattr(encoder, "when", None) == "needed"
        repointings = encoder.repointings if needed else None
        return Ram(
            encoding=encoding,
            fraction=point.fraction,
            placement=point.placement,
            flagged=len(self.load.flagged_vpns),
            upper=held.upper,
            pte=held.pte,
            side=held.side,
            index=held.index,
            slack=held.slack,
            repointings=repointings,
            links=LINK_BYTES * len(self.table.tables) * encoder.uses_descriptor,
        )

    def blocks(self, encoding: str, point: Point) -> list[Blocks]:
        """Return the contiguous blocks that are left; nothing if there are none."""
        size, pfns = self.table.arch.contpte, self.load.space.pfns
        if not size:
            return []
        vpns, prot = contpte.alike(self.table)
        if pfns is not None:
            pfns = pfns[np.searchsorted(self.load.space.vpns, vpns)]
        without = contpte.blocks(*contpte.alike(self.bare), size, pfns)
        return [
            Blocks(
                encoding=encoding,
                fraction=point.fraction,
                placement=point.placement,
                size=size,
                without=without,
                whole=contpte.blocks(vpns, prot, size, pfns),
                known_by="alignment" if pfns is None else "PFNs",
            )
        ]


def _must_have(table: PageTable, vpns: U64, expected: U64) -> None:
    same(table.load(vpns), expected, "words differ from what was stored")


def load(f: Filled) -> Task:
    """Load every word, by an ascending uint64 array of vpns."""
    vpns, expected = f.load.space.vpns, f.load.words

    def check(_state: U64, found: U64) -> None:
        same(found, expected, "words differ from what was stored")

    return Task(lambda: vpns, f.table.load, check)


def store(f: Filled) -> Task:
    """Store every word, by an ascending uint64 array of vpns, in a table without one."""
    vpns, new = f.load.space.vpns, f.load.words
    table = f.bare.copy()
    return Task(
        lambda: table,
        lambda table: table.store(vpns, new),
        lambda table, _result: _must_have(table, vpns, new),
        f.empty,
        each=True,
    )


def _changed(f: Filled, clear: int, set_: int) -> Task:
    vpns, span = f.load.space.vpns, f.load.space.range
    expected = f.load.words & ~f.load.lanes(clear) | f.load.lanes(set_)
    table = f.copy()
    return Task(
        lambda: table,
        lambda table: table.update(span, clear, set_),
        lambda table, _result: _must_have(table, vpns, expected),
        f.refill,
        each=True,
    )


def update(f: Filled) -> Task:
    """Set a bit of every word, over the range."""
    return _changed(f, 0, f.load.set_bit)


def clear(f: Filled) -> Task:
    """Clear a bit of every word, over the range."""
    return _changed(f, f.load.clear_bit, 0)


def scan(f: Filled) -> Task:
    """Find the words that have a bit, over the range."""
    span, bit = f.load.space.range, f.load.clear_bit
    expected = f.load.having(bit)

    def check(_table: PageTable, found: U64) -> None:
        same(found, expected, "vpns differ from those that match")

    return Task(
        lambda: f.table,
        lambda table: table.scan(slice(span.start, span.stop), bit),
        check,
    )


def fork(f: Filled) -> Task:
    """Fork; the child is freed afterwards, untimed."""
    vpns, expected, table = f.load.space.vpns, f.load.words, f.table

    def check(children: list[PageTable], _result: None) -> None:
        must(len(children) == 1, "no child")
        child = children[0]
        same(len(child), len(table), "PTEs of the child")
        _must_have(child, vpns, expected)

    return Task(
        list,
        lambda children: children.append(table.fork()),
        check,
        list.clear,
        each=True,
    )


def unmap(f: Filled) -> Task:
    """Unmap the range in a copy that owns its words."""
    span = f.load.space.range

    def check(table: PageTable, _result: None) -> None:
        held = table.memory()
        must(len(table) == 0, "PTEs are left")
        must(held.side == held.index == held.pte == 0, f"memory is left: {held}")

    return Task(f.copy, lambda table: table.unmap(span), check, each=True)


OPERATIONS: dict[str, Callable[[Filled], Task]] = dict(
    zip(
        rows.OPERATIONS,
        (load, store, update, clear, scan, fork, unmap),
        strict=True,
    )
)
