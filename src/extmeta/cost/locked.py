"""Counts the instructions between lock and unlock of a PTE table, by callgrind.

The kernel's loops (`loops`) run on full tables, every PTE with a word of its own. What a
loop does under the lock is one C function, and so is making room before it; callgrind
counts each call. The counts repeat to the digit. They see no cache misses, and a copy by
memcpy counts an instruction for each 32 bytes (AVX2), whatever it costs.

A kernel that has the lock already when it learns what to do can't make room before: it
takes memory that was set aside, see `demands`. Nothing is allocated under the lock here;
a build for tests aborts if it is.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from extmeta.arch import arch_named
from extmeta.arrays import U64
from extmeta.cost import instructions, loops, placement, workers
from extmeta.cost.forms import fitting, form, in_pte
from extmeta.cost.loops import Loops
from extmeta.cost.space import DEFAULT_ARCH
from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.rows import BASELINE, Locked, Refused

# Full PTE tables that each operation works on.
TABLES = 8

# Methods of Loops, and whether the lock is held in them. `counts` ends an operation.
HELD = {
    "copy_entries": True,
    "copy_words": True,
    "change_entries": True,
    "zap_entries": True,
    "fork_words": False,
    "make_room": False,
    "make_room_for_each": False,
}
END = "counts"


@dataclass
class Given:
    """A full table, the words it has or is to have, and loops for it."""

    table: PageTable
    words: U64
    bulk: Loops
    each: Loops
    # Keeps a fork alive.
    child: PageTable | None = None

    @property
    def vpns(self) -> range:
        return range(TABLES * self.table.huge_ptes())

    def write(self, by: Loops, vpns: range, keep: int, add: U64 | int) -> None:
        """Set word = (word & keep) | add in a range."""
        lanes = self.table.encoding.lanes
        word = placement.lanes_of(add, lanes) if isinstance(add, int) else add.ravel()
        by.write(self.table, vpns, placement.lanes_of(keep, lanes), word)

    def fill(self) -> None:
        """Give every PTE its word."""
        self.table.store(slice(0, len(self.vpns)), self.words)

    def forked(self) -> None:
        """Give every PTE its word, and keep a fork."""
        self.fill()
        self.child = self.table.fork()

    def one_each(self) -> None:
        """Change one word in each table."""
        size = self.table.arch.ptrs_per_pte
        for vpn in range(size // 3, len(self.vpns), size):
            self.write(self.bulk, range(vpn, vpn + 1), 0, self.words[vpn - 1])

    def zap_halves(self) -> None:
        """Unmap the first half of each table."""
        size = self.table.arch.ptrs_per_pte
        for vpn in range(0, len(self.vpns), size):
            self.bulk.unmap(self.table, range(vpn, vpn + size // 2))


ALL = (1 << 512) - 1
Step = Callable[[Given], object]

# Set-up, and the operation. "each": words one entry at a time.
OPERATIONS: dict[str, tuple[Step, Step]] = {
    "fork": (Given.fill, lambda g: g.bulk.fork(g.table)),
    "fork each": (Given.fill, lambda g: g.each.fork(g.table)),
    "first words": (
        lambda g: None,
        lambda g: g.write(g.bulk, g.vpns, 0, g.words),
    ),
    "set a bit": (Given.fill, lambda g: g.write(g.bulk, g.vpns, ALL, 1)),
    "set a bit each": (Given.fill, lambda g: g.write(g.each, g.vpns, ALL, 1)),
    "clear a bit": (Given.fill, lambda g: g.write(g.bulk, g.vpns, ALL ^ 1, 0)),
    "change one word": (Given.fill, Given.one_each),
    "one after fork": (Given.forked, Given.one_each),
    "unmap half": (Given.fill, Given.zap_halves),
    "unmap": (Given.fill, lambda g: g.bulk.unmap(g.table, g.vpns)),
    "unmap each": (Given.fill, lambda g: g.each.unmap(g.table, g.vpns)),
}


def given_to(text: str, fields: Fields, arch: str, kind: str) -> Given:
    """Return full tables without a word, for one encoding."""
    table = PageTable(form(text), fields, arch)
    nr_ptes = TABLES * table.huge_ptes()
    table.map(range(nr_ptes))
    words = placement.words(nr_ptes, fields, 1, kind, seed=1)
    return Given(table, words, Loops(nr_ptes), Loops(nr_ptes, each=True))


def work(text: str, fields: Fields, arch: str, kind: str) -> None:
    """Do each operation once, and say what it locked; this runs under callgrind."""
    for operation, (before, does) in OPERATIONS.items():
        given = given_to(text, fields, arch, kind)
        before(given)
        instructions.operation(does, given)
        instructions.operation(given.bulk.counts, 0)
        workers.tell([text, operation, *_locks(given)])


def _locks(given: Given) -> tuple[int, int]:
    both = (given.bulk, given.each)
    return sum(b.nr_locked for b in both), sum(b.nr_described for b in both)


def locked(
    forms: Sequence[str],
    fields: Fields,
    arch: str = DEFAULT_ARCH,
    kind: str = "different",
) -> Iterator[Locked | Refused]:
    """Yield what each operation does under the lock, the baseline first.

    The baseline has the largest set of the fields that fits it. Parameters are those of
    `demands.demanded`.
    """
    names = {name: (loops, rf"__pyx_f_\w+_5Loops_{name}") for name in HELD} | {
        END: (loops, r"__pyx_pw_\w+_5Loops_\d+counts")
    }
    functions = instructions.symbols(names)
    by_symbol = {symbol: name for name, symbol in functions.items()}
    wanted = [BASELINE, *(text for text in forms if text != BASELINE)]
    given = json.dumps([wanted, dict(fields), arch, kind])
    command = [sys.executable, "-m", __name__, given]
    returns, said = instructions.profiled(command, list(functions.values()))
    counts = iter(returns)
    for line in said.splitlines():
        text, operation, *numbers = json.loads(line)
        if not numbers:
            yield Refused(text, operation)
            continue
        held: list[int] = []
        before: list[int] = []
        for symbol, count in counts:
            name = by_symbol[symbol]
            if name == END:
                break
            (held if HELD[name] else before).append(count)
        nr_locked, described = numbers
        yield Locked(
            text,
            operation,
            sum(held) / TABLES,
            max(held),
            sum(before) / TABLES,
            max(before, default=0),
            described / nr_locked,
        )


def main() -> None:
    """Do the work of all encodings that hold the fields."""
    forms, fields, arch, kind = json.loads(sys.argv[1])
    # What an encoding prints is no result.
    sys.stdout = sys.stderr
    instructions.start()
    for text in forms:
        its = Fields(**fields)
        if in_pte(text):
            its = fitting(its, arch_named(arch), has_swap=False)
        try:
            given_to(text, its, arch, kind)
        except ValueError as error:
            workers.tell([text, str(error)])
            continue
        work(text, its, arch, kind)


if __name__ == "__main__":
    main()
