"""Every encoding does what a dict does, and keeps its own invariants."""

import traceback
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import pytest
from hypothesis.stateful import run_state_machine_as_test

import extmeta as em
from extmeta.checks import must, same
from extmeta.fields import Fields
from extmeta.memory.allowance import fail_after, no_allocation
from extmeta.pagetable import PageTable
from extmeta.table.encoding import Encoding
from extmeta.testing.machine import (
    AgainstDict,
    as_argument,
    as_int,
    as_runs,
    contents,
    dump,
    forked,
    legal,
)

Body = TypeVar("Body", bound=Callable[..., object])
Factory = Callable[[], Encoding] | Encoding | str

# A word of these fields fits the swap entry of every encoding and architecture.
SMALL = em.Fields(uffd_wp=1, soft_dirty=1, age=1)


class Form:
    """What is checked: an encoding, the fields of its words, an architecture.

    Called, it makes a table.
    """

    def __init__(self, factory: Factory, fields: Fields | None, arch: str) -> None:
        self.encoding = factory() if callable(factory) else factory
        self.fields = SMALL if fields is None else fields
        self.arch = arch

    def __call__(self) -> PageTable:
        return em.PageTable(self.encoding, self.fields, self.arch)


class Check:
    """One thing that every encoding has to do; pytest shows its name."""

    def __init__(self, name: str, body: Callable[[Form], object]) -> None:
        self.__name__ = name
        self.body = body

    def __repr__(self) -> str:
        return f"<Check {self.__name__}>"

    def __call__(
        self, factory: Factory, fields: Fields | None = None, arch: str = "x86_64"
    ) -> None:
        self.body(Form(factory, fields, arch))


CHECKS: list[Check] = []


def check(body: Body) -> Body:
    """Have the suite run ``body``, a function of a Form."""
    CHECKS.append(Check(body.__name__, body))
    return body


def checks() -> list[Check]:
    """Return the checks of the suite, each to be called as `conformance` is."""
    return list(CHECKS)


def conformance(
    factory: Factory, fields: Fields | None = None, arch: str = "x86_64"
) -> None:
    """Run the whole suite on an encoding.

    Parameters
    ----------
    factory : callable, Encoding or str
        Makes an :class:`Encoding` when called without arguments; or is one, or
        the name of one.
    fields : Fields, optional
        The fields of the words. By default three bits: every encoding can hold them, in
        swap entries too.
    arch : str, default "x86_64"

    Raises
    ------
    AssertionError
        At the first check that fails: its name and what it found.
    """
    for each in checks():
        try:
            each(factory, fields, arch)
        except (Exception, pytest.fail.Exception) as error:
            line = traceback.extract_tb(error.__traceback__)[-1].line
            found = f"{type(error).__name__}: {str(error) or line}"
            raise AssertionError(f"{factory!r}: {each.__name__}: {found}") from error


@check
def against_dict(make):
    given = {"encoding": make.encoding, "fields": make.fields, "arch": make.arch}
    run_state_machine_as_test(type("Machine", (AgainstDict,), given))


@check
def its_config_makes_it_again(make):
    """Page tables and their forks make their encoding from `config`."""
    bound = make().encoding
    again = type(bound)(**bound.config)
    same(repr(again), repr(bound))
    same(again.config, bound.config)


def everywhere(table):
    return slice(0, table.arch.nr_vpns)


def every_bit(table):
    return (1 << table.fields.bits) - 1


def pfn_of(table, vpn):
    """Return the pfn in the entry of ``vpn``, in the first table."""
    arch = table.arch
    return int(table.tables[0][vpn]) >> arch.pfn_shift & (1 << arch.pfn_bits) - 1


def legal_word(rng, table):
    """Return a random word; drop fields until it is legal."""
    fields = table.fields
    mask = every_bit(table)
    config = table.encoding.config
    while not legal(fields, config, word := int(rng.integers(2**62)) & mask):
        mask &= ~fields.mask(rng.choice(list(fields)))
    return word


def filled(make, n=2000, seed=1):
    """Return a table with holes and words over several tables, and its content."""
    table = make()
    rng = np.random.default_rng(seed)
    vpns = np.sort(rng.choice(4 * n, n, replace=False).astype(np.uint64) + 0x3FF00)
    words = [legal_word(rng, table) for _ in vpns]
    table.map(vpns)
    table.store(vpns, as_argument(words, table.encoding.lanes))
    table.check()
    return table, vpns, words


def as_ints(words):
    return [as_int(word) for word in words]


@check
def bulk_in_any_order(make):
    table, vpns, words = filled(make)
    order = np.random.default_rng(2).permutation(len(vpns))
    same(as_ints(table.load(vpns[order])), [words[i] for i in order])
    expected = dict(zip(vpns.tolist(), words, strict=True))
    same(
        as_ints(table.load(slice(0x3FF00, 0x42000)))[:0x100],
        [expected.get(v, 0) for v in range(0x3FF00, 0x40000)],
    )
    reverse = words[::-1]
    table.store(
        vpns[order], as_argument([reverse[i] for i in order], table.encoding.lanes)
    )
    same(as_ints(table.load(vpns)), reverse)
    table.check()


@check
def words_of_zero_give_side_memory_back(make):
    table, vpns, _words = filled(make)
    empty = make()
    empty.map(vpns)
    table.store(vpns, 0)
    table.check()
    same(table.memory(), empty.memory())
    must(not table.flagged(vpns).any(), "words of 0 are flagged")


@check
def last_of_duplicates_wins(make):
    table = make()
    table.map([5, 600, 5], pfns=[1, 2, 3])
    same(len(table), 2)
    same(pfn_of(table, 5), 3)
    table.store([5, 600, 5], as_argument([1, 1, 0], table.encoding.lanes))
    same(table.flagged([5, 600]).tolist(), [False, True])
    table.swap_out([5, 5], [7, 8])
    table.swap_in([5, 5], [9, 10])
    same(pfn_of(table, 5), 10)
    table.check()


@check
def move_within_a_table_keeps_the_room_made_for_its_neighbour(make):
    """A run that emptied a table once freed memory that a later run needed."""
    table = make()
    size = table.arch.ptrs_per_pte
    table.map([size - 1, size])
    table.store(size, 1)
    table.move(slice(size - 1, size + 1), 0)
    same(table.load(1), 1)
    same(len(table), 2)
    table.check()


@check
def child_outlives_its_parent(make):
    table, vpns, words = filled(make)
    child = forked(table)
    grandchild = forked(child)
    del table
    child.store(vpns, 0)
    del child
    same(as_ints(grandchild.load(vpns)), words)
    grandchild.check()


@check
def children_are_apart(make):
    table, vpns, words = filled(make)
    child = forked(table)
    same(dump(child), dump(table))
    child.update(everywhere(child), clear=every_bit(table))
    table.update(vpns[:10], clear=every_bit(table), set=1)
    same(as_ints(table.load(vpns[10:])), words[10:])
    must(not child.flagged(vpns).any(), "the child has words of its parent")
    child.unmap(everywhere(child))
    same(len(child), 0)
    same(len(table), len(vpns))


@check
def runs_are_maximal(make):
    """Runs join across PTE tables, and end where a word, or a hole, ends them."""
    table = make()
    size = table.arch.ptrs_per_pte
    table.map(slice(0, 5 * size))
    everything = slice(0, 8 * size)
    found = partial(table.scan_runs, everything)
    same(as_runs(found(1)), [])
    same(as_runs(found(0)), [(0, 5 * size)])
    table.store(slice(3, 3 * size + 7), 1)
    same(as_runs(found(1)), [(3, 3 * size + 7)])
    same(as_runs(found(1, 0)), [(0, 3), (3 * size + 7, 5 * size)])
    part = slice(size - 1, 2 * size + 1)
    same(as_runs(table.scan_runs(part, 1)), [(size - 1, 2 * size + 1)])
    table.unmap(slice(2 * size - 2, 2 * size))
    table.store(size, 0)
    runs = [(3, size), (size + 1, 2 * size - 2), (2 * size, 3 * size + 7)]
    same(as_runs(found(1)), runs)
    if not table.encoding.config:
        table.store(np.arange(4 * size, 4 * size + 64, 2, dtype=np.uint64), 1)
        runs += [(vpn, vpn + 1) for vpn in range(4 * size, 4 * size + 64, 2)]
        same(as_runs(found(1)), runs)
    same(as_runs(table.scan_runs(slice(size, size), 0)), [])
    same(as_runs(found(1, 2)), [])


@check
def numbers_not_older_than_another_are_found(make):
    """As `scan_since` promises, also where numbers wrap around, and through moves."""
    table = make()
    name, width = list(table.fields.items())[-1]
    if width > 64:
        return
    size, most = table.arch.ptrs_per_pte, min(1 << width, 1 << 16)
    vpns = np.arange(0, 4 * size, 3)
    table.map(vpns)
    numbers = np.random.default_rng(1).integers(0, most, len(vpns))
    # Both ends of the numbers, whose neighbours differ in every bit.
    numbers[::7], numbers[1::7] = (1 << width) - 1 & (1 << 63) - 1, 1
    numbers[2 * size // 3 :][: size // 3] = 0
    try:
        table.store(vpns, **{name: numbers})
    except ValueError:
        # Its constraints forbid some of these words.
        return
    half = 1 << width - 1

    def found(vpns, since):
        return [
            vpn
            for vpn, number in zip(vpns.tolist(), numbers.tolist(), strict=True)
            if number and (number - since) % (1 << width) < half
        ]

    everything = slice(0, 8 * size)
    whole = {since: found(vpns, since) for since in {1, half, (1 << width) - 1}}
    child = table.fork()
    for since, expected in whole.items():
        for each in (table, child):
            same(each.scan_since(everything, name, since).tolist(), expected)
        part = slice(size // 2, 3 * size - 5)
        inside = [vpn for vpn in expected if part.start <= vpn < part.stop]
        same(table.scan_since(part, name, since).tolist(), inside)
    table.move(slice(0, 4 * size), 16 * size + 5)
    moved = slice(16 * size, 32 * size)
    for since, expected in whole.items():
        there = table.scan_since(moved, name, since)
        same((there - np.uint64(16 * size + 5)).tolist(), expected)


# First vpns of two huge pages, the second with a deposited PTE table; swapped PTEs.
HUGE = 0x200000
DEPOSITED = 0x400000
SWAPPED = [0x50000, 0x5FFFF]


def some_bits(table):
    """Return bits that may be cleared: all, if constraints may forbid a partial word."""
    return every_bit(table) if table.encoding.config else 1


OPERATIONS = {
    "map": lambda t, v: t.map(np.arange(0x90000, 0x90800, dtype=np.uint64)),
    "map_huge": lambda t, v: t.map_huge([0x80000, 0x1000000]),
    "map_huge and deposit": lambda t, v: t.map_huge([0x80000, 0x1000000], deposit=True),
    "store": lambda t, v: t.store(v, 1),
    "store one": lambda t, v: t.store(int(v[-1]), 1),
    "update": lambda t, v: t.update(slice(0, SWAPPED[0]), every_bit(t), 1),
    "update of some": lambda t, v: t.update(v[::-3], every_bit(t), 1),
    "clear": lambda t, v: t.update(slice(0x3FF00, 0x40100), clear=some_bits(t)),
    "scan and clear": lambda t, v: t.scan(everywhere(t), 0, some_bits(t)),
    "split": lambda t, v: t.split_huge(HUGE, 1),
    "split deposited": lambda t, v: t.split_huge(DEPOSITED, 1),
    "swap in": lambda t, v: t.swap_in(SWAPPED, [3, 4]),
    "fork": lambda t, v: t.fork(),
    "copy": lambda t, v: t.copy(),
    "move": lambda t, v: t.move(slice(int(v[0]), int(v[0]) + 1500), 0x5000003),
}


def memory_that_cannot_be_had(operation, make):
    """Whichever allocation fails, the table is unchanged; without failure it works."""
    table, vpns, _words = filled(make, 600)
    table.update(vpns[400:], clear=every_bit(table))
    table.map_huge(HUGE)
    table.map_huge(DEPOSITED, deposit=True)
    table.map(SWAPPED)
    table.swap_out(SWAPPED, [max(1, table.arch.first_slot)] * 2)
    child = forked(table)
    before, other = dump(table), contents(child)
    held = table.memory().pte
    failures = 0
    try:
        while True:
            fail_after(failures)
            try:
                OPERATIONS[operation](table, vpns)
                break
            except MemoryError:
                failures += 1
            fail_after()
            table.check()
            same(dump(table), before)
            same(table.memory().pte, held)
    finally:
        fail_after()
    table.check()
    same(contents(child), other)
    child.check()
    if operation in ("map", "map_huge", "fork", "copy", "move"):
        must(failures > 0, f"{operation} allocated nothing")


for _operation in OPERATIONS:
    _body = partial(memory_that_cannot_be_had, _operation)
    CHECKS.append(Check(f"memory_that_cannot_be_had[{_operation}]", _body))


@check
def what_is_reserved_suffices(make):
    """An encoding that `reserves` sets aside all that a write to each table takes."""
    table = make()
    size = table.arch.ptrs_per_pte
    vpns = [0x40000 * size + n * size for n in range(4)]
    table.map(vpns)
    if not table.encoding.reserves:
        with pytest.raises(ValueError, match="can't tell"):
            table.reserve(4)
        return
    table.reserve(4)
    with no_allocation():
        table.store(vpns, 1)
    same(table.flagged(vpns).tolist(), [True] * 4)
    table.check()


@check
def rounds_leak_nothing(make, rounds=10_000):
    table = make()
    table.map(0x1000)
    table.store(0x1000, 1)
    before = table.memory()
    room = np.asarray(table.frames_view()).shape
    mask = min(0xFFFFFFF, table.arch.nr_vpns // 4 - 1)
    for round_ in range(rounds):
        vpn = 0x40000 + (round_ * 0x10001 & mask)
        table.map(vpn)
        if round_ & 7 == 0:
            table.store(vpn, 1)
        table.unmap(vpn)
    same(table.memory(), before)
    same(np.asarray(table.frames_view()).shape, room)
    table.check()
