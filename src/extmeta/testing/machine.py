"""Drives a page table and the dict model through every operation."""

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

import extmeta as em
from extmeta.checks import must, same
from extmeta.testing.model import Model

# Windows straddle the edges of PTE tables and of the tables above them. A vpn is drawn
# as (window, place in it), because the edges depend on the architecture.
WINDOW = 24
NR_WINDOWS = 5

window = st.integers(0, NR_WINDOWS - 1)
vpn = st.tuples(window, st.integers(0, WINDOW - 1))
vpns = st.lists(vpn, max_size=12)
ranges = st.builds(
    lambda number, a, b: (number, range(min(a, b), max(a, b))),
    window,
    st.integers(0, WINDOW),
    st.integers(0, WINDOW),
)
seeds = st.integers(0, 2**32)


def starts_of(arch):
    """Return the first vpn of each window."""
    bits = arch.level_bits
    edges = [1 << sum(bits[level:]) for level in (-1, -2, -3)]
    if edges[2] == arch.nr_vpns:
        # Three levels: the third edge is the table's end.
        edges[2] = 3 << sum(bits[-2:])
    return (0, *(edge - WINDOW // 2 for edge in edges), arch.nr_vpns - WINDOW)


def as_runs(found):
    """Return what scan_runs returned as a list of pairs."""
    return list(zip(*(part.tolist() for part in found), strict=True))


def as_int(lanes):
    """Return a word of several lanes as an int."""
    return sum(int(lane) << 64 * i for i, lane in enumerate(np.atleast_1d(lanes)))


def as_argument(words, lanes):
    """Return words as ints, in the shape that store() takes."""
    if lanes == 1:
        return np.array(words, np.uint64)
    rows = [[w >> 64 * i & (2**64 - 1) for i in range(lanes)] for w in words]
    return np.array(rows, np.uint64).reshape(len(words), lanes)


def forked(table):
    """Return a fork; a copy if words belong to pages, because a fork shares these."""
    return table.copy() if table.encoding.by_page else table.fork()


def legal(fields, config, word):
    """Tell whether a word meets the constraints that an encoding was given.

    Where a VMA chooses a field of a group, the machine's VMAs have the first one.
    """
    on = {name for name, value in fields.unpack(word).items() if value}
    return (
        all(len(on & {*group}) < 2 for group in config.get("excludes", ()))
        and all(a not in on or b in on for a, b in config.get("implies", ()))
        and not any(on & {*group[1:]} for group in config.get("per_vma", ()))
    )


REFUSED = "no place for bits|has no place in|exclude each|implies|no bit in this VMA"


def contents(table):
    """Return the PTEs and words of a table."""
    tables = {first: ptes.tolist() for first, ptes in table.tables.items()}
    words = {
        first: np.atleast_2d(table.load(slice(first, first + len(ptes)))).tolist()
        for first, ptes in tables.items()
    }
    return tables, words


def dump(table):
    """Return all that a table holds, to be compared before and after."""
    memory = table.memory()
    # Memory set aside may be counted as held, and may go back if it was not needed.
    side = memory.side - table.reserved.side
    pte = memory.pte - table.reserved.pte
    return len(table), memory.upper, pte, side, *contents(table)


@contextmanager
def refusing(table, match):
    """Expect a ValueError that leaves the table as it was."""
    before = dump(table)
    with pytest.raises(ValueError, match=match):
        yield
    same(dump(table), before)


class AgainstDict(RuleBasedStateMachine):
    """Every operation on a table and on the model; both must agree."""

    encoding = "linked"
    fields = em.Fields(a=1)
    arch = "x86_64"

    tables = Bundle("tables")

    def __init__(self):
        super().__init__()
        self.live = []
        self.next_pfn = 1
        # The table's architecture: an encoding may need PTE tables of another size.
        self.shape = em.PageTable(self.encoding, self.fields, self.arch).arch
        self.starts = starts_of(self.shape)
        self.vpns = sorted({s + i for s in self.starts for i in range(WINDOW)})

    def at(self, drawn):
        """Return the vpns that were drawn, a list, a range or one."""
        if isinstance(drawn, list):
            return [self.at(each) for each in drawn]
        number, place = drawn
        start = self.starts[number]
        if isinstance(place, range):
            return range(start + place.start, start + place.stop)
        return start + place

    def pfns(self, table, seed, n):
        """Return n pfns; if words belong to pages, each pfn only once."""
        if table.encoding.by_page:
            self.next_pfn += n
            return list(range(self.next_pfn - n, self.next_pfn))
        limit = 2**self.shape.pfn_bits
        return np.random.default_rng(seed).integers(0, limit, n).tolist()

    def words(self, seed, n):
        """Return n words, often 0, and some equal."""
        rng = np.random.default_rng(seed)
        some = [0, 1, (1 << self.fields.bits) - 1, int(rng.integers(2**63))]
        # Words of one field or two, which are the likeliest to break a constraint.
        names = rng.choice(list(self.fields), 2)
        some += [self.fields.mask(names[0]), self.fields.mask(names[1])]
        some += [some[4] | some[5]]
        drawn = [some[i] for i in rng.integers(0, len(some), n)]
        return [w & ((1 << self.fields.bits) - 1) for w in drawn]

    @initialize(target=tables)
    def first_table(self):
        pair = em.PageTable(self.encoding, self.fields, self.arch), Model(self.fields)
        self.live.append(pair)
        return pair

    @rule(target=tables, pair=tables)
    def fork(self, pair):
        if len(self.live) > 4:
            return multiple()
        table, model = pair
        child = forked(table), model.fork()
        self.live.append(child)
        return child

    @precondition(lambda self: len(self.live) > 1)
    @rule(pair=consumes(tables))
    def drop(self, pair):
        self.live.remove(pair)

    @rule(pair=tables, at=vpns | ranges, seed=seeds, writable=st.booleans())
    def map(self, pair, at, seed, writable):
        table, model = pair
        at = self.at(at)
        numbers = self.pfns(table, seed, len(at))
        if any(v in model.ptes for v in at):
            with refusing(table, "mapped already"):
                table.map(at, numbers, writable=writable)
            return
        table.map(at, numbers, writable=writable)
        model.map(at, numbers, writable)

    @rule(pair=tables, number=window, writable=st.booleans())
    def fill_window(self, pair, number, writable):
        table, model = pair
        start = self.starts[number]
        at = [v for v in range(start, start + WINDOW) if v not in model.ptes]
        numbers = self.pfns(table, start, len(at))
        table.map(np.array(at, np.uint64), numbers, writable=writable)
        model.map(at, numbers, writable)

    @rule(pair=tables, at=vpn, count=st.integers(0, 2**20))
    def unmap(self, pair, at, count):
        table, model = pair
        at = self.at(at)
        count = min(count, self.shape.nr_vpns - at)
        table.unmap(slice(at, at + count))
        model.unmap(at, count)

    @rule(pair=tables, at=vpns | ranges, seed=seeds)
    def store(self, pair, at, seed):
        table, model = pair
        at = self.at(at)
        words = self.words(seed, len(at))
        argument = as_argument(words, table.encoding.lanes)
        missing = [v for v in at if v not in model.ptes]
        if missing:
            # Or an earlier one's word is refused by its swap entry.
            with refusing(table, f"is not mapped|{REFUSED}"):
                table.store(at, argument)
            at = [v for v in at if v in model.ptes]
            words = words[: len(at)]
            argument = argument[: len(at)]
        if self.refused(table, model, zip(at, words, strict=True)):
            with refusing(table, REFUSED):
                table.store(at, argument)
            return
        table.store(at, argument)
        model.store(at, words)

    def refused(self, table, model, written):
        """Return whether an entry among them can't hold its word."""
        return any(
            self.unfit(table, v, word, model.ptes[v].slot is not None)
            for v, word in written
            if v in model.ptes
        )

    def unfit(self, table, v, word, swapped):
        why = table.encoding.unfit(v, word, swapped)
        if not legal(self.fields, table.encoding.config, word):
            must(why is not None, f"word {word:#x} is not refused")
        elif not swapped:
            must(why is None, f"word {word:#x} is refused: {why}")
        return why is not None

    @rule(pair=tables, at=vpns, seed=seeds, data=st.data())
    def store_field(self, pair, at, seed, data):
        table, model = pair
        name = data.draw(st.sampled_from(list(self.fields)))
        at = [v for v in self.at(at) if v in model.ptes]
        limit = 1 << min(self.fields[name], 62)
        values = np.random.default_rng(seed).integers(0, limit, len(at)).tolist()
        lanes = (self.fields[name] + 63) // 64
        shift = self.fields.shift(name)
        mask = self.fields.mask(name)
        written = [
            (v, model.load(v) & ~mask | x << shift)
            for v, x in zip(at, values, strict=True)
        ]
        if self.refused(table, model, written):
            with refusing(table, REFUSED):
                table.store(at, **{name: as_argument(values, lanes)})
            return
        table.store(at, **{name: as_argument(values, lanes)})
        model.store_field(at, name, values)

    @rule(pair=tables, at=vpns | ranges, seed=seeds)
    def update(self, pair, at, seed):
        at = self.at(at)
        self.update_those(pair, at, at, seed)

    @rule(pair=tables, seed=seeds)
    def update_everywhere(self, pair, seed):
        everything = slice(0, self.shape.nr_vpns)
        self.update_those(pair, everything, list(pair[1].ptes), seed)

    def update_those(self, pair, argument, at, seed):
        table, model = pair
        clear, set_ = self.words(seed, 2)
        after = [(v, model.load(v) & ~clear | set_) for v in at]
        if self.refused(table, model, after):
            with refusing(table, REFUSED):
                table.update(argument, clear=clear, set=set_)
            return
        table.update(argument, clear=clear, set=set_)
        model.update(at, clear, set_)

    @rule(pair=tables, a=vpn, b=vpn, seed=seeds)
    def scan(self, pair, a, b, seed):
        table, model = pair
        a, b = self.at([a, b])
        mask, value = self.words(seed, 2)
        for wanted in (value, value & mask, 0):
            found = table.scan(slice(min(a, b), max(a, b)), mask, wanted)
            same(found.tolist(), model.scan(min(a, b), max(a, b), mask, wanted))
            runs = as_runs(table.scan_runs(slice(min(a, b), max(a, b)), mask, wanted))
            same(runs, model.scan_runs(min(a, b), max(a, b), mask, wanted))

    @rule(pair=tables, src=vpn, dst=vpn, count=st.integers(0, 40))
    def move(self, pair, src, dst, count):
        table, model = pair
        src, dst = self.at([src, dst])
        count = min(count, self.shape.nr_vpns - max(src, dst))
        overlap = count and abs(src - dst) < count
        taken = any(dst <= v < dst + count for v in model.ptes)
        if overlap or taken:
            with refusing(table, "overlap" if overlap else "mapped"):
                table.move(slice(src, src + count), dst)
            return
        table.move(slice(src, src + count), dst)
        model.move(src, dst, count)

    @rule(pair=tables, at=vpns, seed=seeds)
    def swap_out(self, pair, at, seed):
        table, model = pair
        at = self.at(at)
        at = [v for v in at if v in model.ptes and model.ptes[v].slot is None]
        lost = [v for v in at if self.unfit(table, v, model.load(v), True)]
        if lost:
            with refusing(table, REFUSED):
                table.swap_out(at, max(1, self.shape.first_slot))
        at = [v for v in at if v not in lost]
        slots = self.shape.first_slot, self.shape.nr_slots
        numbers = np.random.default_rng(seed).integers(*slots, len(at)).tolist()
        table.swap_out(at, numbers)
        model.swap_out(at, numbers)

    @rule(pair=tables, at=vpns, seed=seeds)
    def swap_in(self, pair, at, seed):
        table, model = pair
        at = self.at(at)
        at = [v for v in at if v in model.ptes and model.ptes[v].slot is not None]
        numbers = self.pfns(table, seed, len(at))
        table.swap_in(at, numbers)
        model.swap_in(at, numbers)

    @invariant()
    def same_words(self):
        for table, model in self.live:
            expected = [model.load(v) for v in self.vpns]
            same([as_int(w) for w in table.load(self.vpns)], expected)
            same(table.flagged(self.vpns).tolist(), [w != 0 for w in expected])
            same(len(table), len(model.ptes))
            for v, word in zip(self.vpns[::7], expected[::7], strict=True):
                same(table.load(v), word)

    @invariant()
    def same_ptes(self):
        arch = self.shape
        swap = arch.swap
        offset_mask = (1 << swap.offset_bits) - 1
        inverted = offset_mask if swap.offset_inverted else 0
        last = arch.ptrs_per_pte - 1
        for table, model in self.live:
            views = dict(table.tables)
            same(set(views), {v & ~last for v in model.ptes})
            for v, pte in model.ptes.items():
                raw = int(views[v & ~last][v & last])
                if pte.slot is None:
                    must(raw >> arch.present & 1, f"PTE of vpn {v} is not present")
                    same(raw >> arch.pfn_shift & 2**arch.pfn_bits - 1, pte.pfn)
                    same(bool(raw >> arch.write & 1), pte.writable)
                    continue
                offset = raw >> swap.offset_shift & offset_mask ^ inverted
                device = raw >> swap.type_shift & 2**swap.type_bits - 1
                must(not raw >> arch.present & 1, f"swap entry of vpn {v} is present")
                same(device << swap.offset_bits | offset, pte.slot)
                same(bool(raw >> swap.exclusive & 1), pte.writable)

    @invariant()
    def sound(self):
        for table, _model in self.live:
            table.check()

    @invariant()
    def pays_for_what_it_holds(self):
        arch = self.shape
        for table, model in self.live:
            memory = table.memory()
            tables = [{0}]
            for level in range(1, len(arch.level_bits)):
                below = sum(arch.level_bits[level:])
                tables.append({v >> below for v in model.ptes})
            need = [
                max(arch.frame_bytes, size) * len(those)
                for size, those in zip(arch.table_bytes, tables, strict=True)
            ]
            if arch.frame_bytes == arch.page_bytes:
                same((memory.upper, memory.pte), (sum(need[:-1]), need[-1]))
            else:
                # Whole pages are counted, however few of their fragments are in use.
                must(memory.upper >= sum(need[:-1]), "too little memory in upper")
                must(memory.pte >= need[-1], "too little memory in pte")
                same(memory.upper % arch.page_bytes, 0)
                if memory.index == 0:
                    same((memory.pte + memory.side) % arch.page_bytes, 0)
            same(memory.total, memory.upper + memory.pte + memory.side + memory.index)
