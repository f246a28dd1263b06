"""What operations need from a kernel beside time, counted exactly.

They need memory under the page-table lock, which has to be set aside before. They may
re-point an upper entry from a PTE table in use to another one, which takes a TLB flush
more than the operation itself. Measured on full PTE tables, every PTE with a word.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from extmeta.arch import Arch, arch_named
from extmeta.cost import placement
from extmeta.cost.forms import fitting, form, in_pte, left_out
from extmeta.cost.space import Space
from extmeta.fields import Fields
from extmeta.memory.allowance import no_allocation
from extmeta.pagetable import PageTable
from extmeta.rows import BASELINE, DEMANDS, SET_ASIDE, Demand, Refused, Split
from extmeta.table.encoding import Encoding

# Full PTE tables that each operation works on.
TABLES = 8

# The most huge pages of a capture that are split.
SPLITS = 64


@dataclass(frozen=True)
class Given:
    """Full tables, and words for them.

    Attributes
    ----------
    table : PageTable
        It has PTEs in [first, stop), and huge pages in the range of equal size after it.
    words : (stop - first,) or (stop - first, lanes) uint64 ndarray
        The words of operations on tables that have words.
    one : int
        A word of one bit.
    """

    table: PageTable
    first: int
    stop: int
    words: npt.NDArray[np.uint64]
    one: int

    @property
    def everything(self) -> slice:
        return slice(self.first, self.stop)

    @property
    def halves(self) -> list[range]:
        """The first half of each table."""
        size = (self.stop - self.first) // TABLES
        starts = range(self.first, self.stop, size)
        return [range(at, at + size // 2) for at in starts]

    def fill(self) -> None:
        self.table.store(self.everything, self.words)

    def all_alike(self) -> None:
        # A word of two bits is still a word after one bit is cleared.
        two = min(3, (1 << self.table.fields.bits) - 1)
        self.table.store(self.everything, two)

    def shared(self) -> PageTable:
        """Fill, and return a fork that shares as much as it can."""
        self.fill()
        return self.table.fork()

    def swapped(self) -> None:
        self.fill()
        self.table.swap_out(self.everything, self.slots)

    @property
    def slots(self) -> npt.NDArray[np.int64]:
        """Swap slots, one for each PTE; also used as pfns."""
        return np.arange(1, 1 + self.stop - self.first)


def _nothing(_given: Given) -> None:
    pass


def _clear(given: Given) -> None:
    given.table.update(given.everything, clear=given.one)


def _clear_halves(given: Given) -> None:
    for half in given.halves:
        given.table.update(half, clear=given.one)


def _zap_halves(given: Given) -> None:
    for half in given.halves:
        given.table.unmap(half)


def _split(given: Given) -> None:
    size = given.table.huge_ptes()
    for vpn in range(given.stop, given.stop + TABLES * size, size):
        given.table.split_huge(vpn, given.one)


Step = Callable[[Given], object]

# Set-up; the operation; whether a kernel may allocate meanwhile.
OPERATIONS: dict[str, tuple[Step, Step, bool]] = {
    "split": (_nothing, _split, False),
    "first words": (_nothing, Given.fill, False),
    "set a bit": (Given.fill, lambda g: g.table.update(g.everything, 0, g.one), False),
    "clear a bit": (Given.fill, _clear, False),
    "clear half of one word": (Given.all_alike, _clear_halves, False),
    "clear after fork": (Given.shared, _clear, False),
    "swap out": (Given.fill, lambda g: g.table.swap_out(g.everything, g.slots), False),
    "swap in": (Given.swapped, lambda g: g.table.swap_in(g.everything, g.slots), False),
    "zap half": (Given.fill, _zap_halves, False),
    "fork": (Given.fill, lambda g: g.table.fork(), True),
    "move": (
        Given.fill,
        lambda g: g.table.move(g.everything, g.first + (1 << 20)),
        True,
    ),
}


def given_to(encoding: str | Encoding, fields: Fields, arch: Arch, kind: str) -> Given:
    """Return full tables without a word, followed by huge pages."""
    table = PageTable(encoding, fields, arch.name)
    size = table.huge_ptes()
    first = TABLES * size
    stop = first + TABLES * size
    table.map(slice(first, stop))
    table.map_huge(range(stop, stop + TABLES * size, size))
    one = 1
    words = placement.words(stop - first, fields, one, kind, seed=1)
    return Given(table, first, stop, words, one)


def demands(
    encoding: str | Encoding,
    name: str,
    fields: Fields,
    arch: Arch,
    kind: str = "different",
) -> Iterator[Demand]:
    """Yield what to set aside, then what each operation takes, for each PTE table.

    ``name`` is what the rows call the encoding; for ``kind`` see `placement.words`. An
    operation that the encoding refuses is left out: a swap-out, if the word has no
    place in a swap entry.

    Raises
    ------
    ValueError
        If the encoding can't hold the fields.
    MemoryError
        If an operation takes memory that was not set aside.
    """
    table = given_to(encoding, fields, arch, kind).table
    reserves = table.encoding.reserves
    # `wide` has twice as many tables, each with half the entries.
    nr_tables = TABLES * (table.huge_ptes() // table.arch.ptrs_per_pte)
    if reserves:
        table.reserve(nr_tables)
        yield Demand(name, SET_ASIDE, _aside(table) / TABLES, 0.0)
    for operation, (before, does, allocates) in OPERATIONS.items():
        given = given_to(encoding, fields, arch, kind)
        try:
            # Keep a fork alive, so that shared memory stays shared.
            kept = before(given)
            before_it = given.table.encoding.repointings
            if allocates or not reserves:
                does(given)
                aside = None
            else:
                given.table.reserve(nr_tables)
                held = _aside(given.table)
                try:
                    with no_allocation():
                        does(given)
                except MemoryError:
                    raise MemoryError(
                        f"{operation!r} takes memory that was not set aside"
                    ) from None
                aside = (held - _aside(given.table)) / TABLES
        except ValueError:
            continue
        del kept
        moved = given.table.encoding.repointings - before_it
        yield Demand(name, operation, aside, moved / TABLES)


def _aside(table: PageTable) -> int:
    reserved = table.reserved
    return reserved.side + reserved.index


def demanded(
    forms: Sequence[str], fields: Fields, arch: str, kind: str = "different"
) -> Iterator[Demand | Refused]:
    """Yield the demands of encodings, the baseline's first.

    The baseline has the largest set of the fields that fits it.
    """
    of = arch_named(arch)
    kept = fitting(fields, of, has_swap=True)
    yield from demands(BASELINE, BASELINE, kept, of, kind)
    for text in forms:
        if text == BASELINE:
            continue
        try:
            its = kept if in_pte(text) else fields
            yield from demands(form(text), text, its, of, kind)
        except Exception as error:  # noqa: BLE001 (left_out raises ours)
            yield left_out(text, error, DEMANDS)


def splits(
    space: Space, forms: Sequence[str], fields: Fields, kind: str = "different"
) -> Iterator[Split]:
    """Yield what a split of anonymous huge pages takes, the baseline's first.

    Each huge page has a word of its own, which all its PTEs get. The baseline has the
    largest set of the fields that fits it. An encoding that can't hold the words is
    left out.
    """
    leaves = space.deposited[:SPLITS].tolist()
    kept = fitting(fields, arch_named(space.arch), space.has_swap)
    for text in dict.fromkeys((BASELINE, *forms)) if leaves else ():
        its = kept if in_pte(text) else fields
        try:
            table = space.bare(BASELINE if text == BASELINE else form(text), its)
            before = table.memory().total
            words = placement.words(len(leaves), its, 1, kind, seed=1)
            for vpn, word in zip(leaves, words.reshape(len(leaves), -1), strict=True):
                lanes = enumerate(word.tolist())
                table.split_huge(vpn, sum(lane << 64 * i for i, lane in lanes))
        except Exception as error:  # noqa: BLE001 (left_out raises ours)
            left_out(text, error)
            continue
        yield Split(text, len(leaves), table.memory().total - before)
