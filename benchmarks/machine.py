"""Pages of side memory if the processes of a machine share one slab allocator.

    python benchmarks/machine.py                  1, 32 and 256 processes, a fork family
    python benchmarks/machine.py --processes 32 --captures redis

A slab page that is partly empty is held by one machine, not by each process. So this
fills N page tables that share their slabs with the PTEs of a shipped capture, each with
words of its own, and counts pages. A table that was forked from one without PTEs shares
its slabs and nothing else.

The tables have two columns for adaptive. "objects" is what holds words: each object's
bytes, rounded up to its size class. "pages" is the memory that a machine has to give
for them: all bytes of each page in which there is an object.

Pages are counted to the advantage of the others: those of linked are the bytes of its
objects, rounded up once for the machine; hash has whole pages for each process, or the
bytes of its array if these are less than a page. Both are means of 8 processes.

A fork family is a process and 7 children, each of which writes 5 % of its words again.
The last line counts the points at which the goals are missed: adaptive holds at most
what linked does, and 1.25 times what hash does.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from options import capture, from_1

import extmeta as em
from extmeta.captures.capture import shipped
from extmeta.cost import placement
from extmeta.cost.space import Space, space_of
from extmeta.pagetable import PageTable
from extmeta.rows import Point

PAGE = 4096
MEASURED = 8
FAMILY = 8
REWRITTEN = 0.05
GOALS = {"linked": 1.0, "hash": 1.25}
POINTS = [
    Point(fraction, name)
    for name in ("random", "clustered", "tables")
    for fraction in (0.001, 0.01, 0.1, 0.5, 1.0)
]
KINDS = ("one", "few", "different")
FIELDS = (em.Fields(meta=64), em.Fields(age=8))


@dataclass
class Words:
    """The words of one kind at a point, other ones for each process."""

    space: Space
    fields: em.Fields
    point: Point
    kind: str

    def flagged(self, process: int) -> np.ndarray:
        return self.space.vpns[placement.flags(self.space.vpns, self.point, process)]

    def fill(self, table: PageTable, process: int) -> None:
        self.store(table, self.flagged(process), process)

    def write_some(self, table: PageTable, process: int) -> None:
        """Write `REWRITTEN` of the words of process 0 again."""
        vpns = self.flagged(0)
        some = np.random.default_rng(process).random(len(vpns)) < REWRITTEN
        self.store(table, vpns[some], process)

    def store(self, table: PageTable, vpns: np.ndarray, process: int) -> None:
        core = (1 << self.fields.bits) - 1
        table.store(
            vpns, placement.words(len(vpns), self.fields, core, self.kind, process)
        )


def objects(table: PageTable) -> int:
    """Return the bytes of a table's side memory and index."""
    held = table.memory()
    return held.side + held.index


def whole_pages(nbytes: float) -> float:
    return np.ceil(nbytes / PAGE) * PAGE


class Machine:
    """Page tables of one encoding with the PTEs of a capture."""

    def __init__(self, encoding: str, space: Space, fields: em.Fields) -> None:
        self.encoding = encoding
        self.space = space
        self.first = PageTable(encoding, fields)
        self.tables: list[PageTable] = []

    def grow(self, processes: int) -> None:
        while len(self.tables) < processes:
            self.tables.append(self.first.fork())
            self.tables[-1].map(self.space.vpns)

    def clear(self) -> None:
        for table in self.tables:
            table.update(self.space.range, clear=(1 << table.fields.bits) - 1)

    def pages(self, processes: int) -> float:
        """Return the bytes of the pages that so many processes hold."""
        each = [objects(table) for table in self.tables[:processes]]
        if self.encoding == "adaptive":
            # Each of those that share the slabs is told its part of the slack.
            slack = self.tables[0].memory().slack * (len(self.tables) + 1)
            return sum(each) + slack
        if self.encoding == "hash":
            each = [whole_pages(n) if n >= PAGE else n for n in each]
        total = sum(each) * processes / len(each)
        return whole_pages(total) if self.encoding == "linked" else total


def of_processes(
    space: Space, fields: em.Fields, processes: int
) -> Iterator[tuple[Words, float, dict[str, float]]]:
    """Yield objects and pages of each encoding, by words: objects are adaptive's."""
    machines = {name: Machine(name, space, fields) for name in ("adaptive", *GOALS)}
    for name, machine in machines.items():
        machine.grow(processes if name == "adaptive" else min(processes, MEASURED))
    for point in POINTS:
        for kind in KINDS:
            words = Words(space, fields, point, kind)
            for machine in machines.values():
                for i, table in enumerate(machine.tables):
                    words.fill(table, i)
            yield (
                words,
                sum(map(objects, machines["adaptive"].tables)),
                {name: machine.pages(processes) for name, machine in machines.items()},
            )
            for machine in machines.values():
                machine.clear()


def of_family(
    space: Space, fields: em.Fields
) -> Iterator[tuple[Words, float, dict[str, float]]]:
    """Yield objects and pages of a process and its children, as `of_processes` does."""
    for point in POINTS:
        for kind in KINDS:
            words = Words(space, fields, point, kind)
            pages: dict[str, float] = {}
            for name in ("adaptive", *GOALS):
                machine = Machine(name, space, fields)
                machine.grow(1)
                words.fill(machine.tables[0], 0)
                for i in range(1, FAMILY):
                    machine.tables.append(machine.tables[0].fork())
                    words.write_some(machine.tables[i], i)
                pages[name] = machine.pages(FAMILY)
                if name == "adaptive":
                    held = sum(map(objects, machine.tables))
            yield words, held, pages


def show(
    title: str, found: Iterator[tuple[Words, float, dict[str, float]]], processes: int
) -> list[str]:
    """Print a table; return its points that miss a goal, with the rival's name."""
    missed = []
    print(f"\n{title}: KiB for each process")
    print(
        f"{'flagged':>18} {'words':<10}{'objects':>9}{'pages':>9}"
        f"{'linked':>10}{'hash':>10}  pages over linked, hash"
    )
    for words, held, pages in found:
        ratios = {name: pages["adaptive"] / max(pages[name], 1) for name in GOALS}
        late = [name for name, goal in GOALS.items() if ratios[name] > goal]
        missed += late
        cells = [held, *(pages[name] for name in ("adaptive", *GOALS))]
        numbers = [f"{cell / processes / 1024:9.2f}" for cell in cells]
        print(
            f"{words.point!s:>18} {words.kind:<10}"
            + " ".join(numbers)
            + f"  {ratios['linked']:6.2f} {ratios['hash']:6.2f}"
            + "".join(f"  above {name}" for name in late)
        )
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=from_1, nargs="*", default=[1, 32, 256])
    parser.add_argument("--captures", type=capture, nargs="*")
    arguments = parser.parse_args()
    totals = []
    for captured, name in arguments.captures or map(capture, shipped()):
        space = space_of(captured, name)
        for fields in FIELDS:
            for n in arguments.processes:
                title = f"{name}, {fields!r}, {n} processes"
                late = show(title, of_processes(space, fields, n), n)
                totals.append((title, late))
            title = f"{name}, {fields!r}, a fork family of {FAMILY}"
            totals.append((title, show(title, of_family(space, fields), FAMILY)))
    print(f"\nPoints of {len(POINTS) * len(KINDS)} at which adaptive holds more")
    for title, late in totals:
        counts = ", ".join(
            f"{late.count(name)} than {goal:g} x {name}" for name, goal in GOALS.items()
        )
        print(f"{title}: {counts}")


if __name__ == "__main__":
    main()
