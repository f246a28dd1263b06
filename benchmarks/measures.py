"""What was promised of the encodings, and what this machine measures.

    python benchmarks/measures.py [NAME ...] [--quick] [--processes N] [--json]

A line for each promise: the goal, what was measured, and whether it holds. Times are
medians of paired ratios with the 95 % interval over several processes; a goal is met
if the whole interval meets it. Bytes are exact. Instructions are another script's:
benchmarks/instructions.py. On a machine that others use, the ratio of the baseline to
itself, printed first, says how far to trust the rest. benchmarks/scale.py has the
headlines against the size of the tables, and for several machines.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import repeat
from math import inf
from typing import ClassVar

import numpy as np
from lookups import Turns, drawn, reading
from options import from_1

import extmeta as em
from extmeta.captures.capture import load_capture, shipped
from extmeta.cost import placement, tasks, workers
from extmeta.cost.forms import fitting, form
from extmeta.cost.measure import Paired, Task, of_processes, paired
from extmeta.cost.placement import PLACEMENTS, WORDS
from extmeta.cost.space import Space, full_tables, space_of, sparse_tables
from extmeta.cost.tasks import Filled
from extmeta.rows import Point

WORD = em.Fields(meta=64)
NARROW = em.Fields(uffd_wp=1, soft_dirty=1, age=4)
NONE, ONE_PERCENT, ALL = Point(0.0, ""), Point(0.01, "random"), Point(1.0, "")
SWEEP = placement.points((0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0), PLACEMENTS)
NR_LOADS = 1 << 16


@dataclass(frozen=True)
class Line:
    """One promise.

    Attributes
    ----------
    measure, what, goal, measured : str
    met : bool or None
        None where there is no goal, only a figure.
    ratio : tuple of float
        Median, low and high of a ratio of times; empty for bytes.
    limit : float or None
        The largest ratio that meets the goal.
    """

    measure: str
    what: str
    goal: str
    measured: str
    met: bool | None
    ratio: tuple[float, ...] = ()
    limit: float | None = None


full = cache(full_tables)


class Bench:
    """Filled tables, and the ratios of pairs of them.

    A process measures all ratios of a measure in the order in which it asks for them
    (`measure`). With `found`, what several processes measured so, it is asked again,
    and gets the ratios over these processes.
    """

    # A process takes fewer rounds: there are several.
    OPTIONS: ClassVar = {"rounds": 8, "least": 3, "budget_ns": 400_000_000}
    QUICK: ClassVar = {"rounds": 4, "least": 2, "budget_ns": 50_000_000}

    def __init__(self, nr_tables: int, quick: bool) -> None:
        self.nr_tables = nr_tables
        self.quick = quick
        self.found: Iterator[Paired] | None = None
        self.measured: Callable[[Paired], None] = lambda found: None

    def lines(self, name: str, processes: int) -> Iterator[Line]:
        """Measure in so many processes, one after the other, and yield the lines."""
        if name in EXACT:
            yield from MEASURES[name](self)
            return
        parts = self.parts(name, processes)
        self.found = map(of_processes, zip(*parts, strict=True))
        yield from MEASURES[name](self)

    def parts(self, name: str, processes: int) -> list[list[Paired]]:
        """Return the ratios of a measure that each of so many processes has found."""
        work = (name, self.nr_tables, self.quick)
        return [
            [Paired(**told) for told in workers.results((__file__,), work, number)]
            for number in range(processes)
        ]

    def paired(self, tasks_of: Callable[[], Iterable[Task]]) -> Paired:
        """Return the time of the second of two tasks over that of the first."""
        if self.found:
            return next(self.found)
        base, other = tasks_of()
        found = paired(base, other, **(self.QUICK if self.quick else self.OPTIONS))
        self.measured(found)
        return found

    def filled(
        self, name: str, fields: em.Fields, point: Point, kind: str, nr_tables: int = 0
    ) -> Filled:
        """Return a table of this form; the baseline's words cut to what it holds."""
        space = full(nr_tables or self.nr_tables)
        kept = fitting(fields, em.PageTable().arch, space.has_swap)
        ours, theirs = tasks.point_words(space, fields, kept, point, 0, kind)
        if name == "inpte":
            return Filled(space.bare(name, kept), ours)
        return Filled(space.bare(form(name), fields), theirs)

    def ratio(
        self,
        base: str,
        other: str,
        task: Callable[[Filled], Task],
        fields: em.Fields,
        point: Point,
        kind: str = "different",
        nr_tables: int = 0,
    ) -> Paired:
        """Return the time of ``other`` over that of ``base``."""
        return self.paired(
            lambda: [
                task(self.filled(name, fields, point, kind, nr_tables))
                for name in (base, other)
            ]
        )


def shown(found: Paired) -> str:
    return f"{found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}]"


def at_most(measure: str, what: str, limit: float, found: Paired) -> Line:
    return Line(
        measure,
        what,
        f"<= {limit:g} x",
        shown(found),
        found.high <= limit,
        (found.ratio, found.low, found.high),
        limit,
    )


def faster(measure: str, what: str, times: float, found: Paired) -> Line:
    measured = f"{1 / found.ratio:.1f} x [{1 / found.high:.1f}, {1 / found.low:.1f}]"
    return Line(
        measure,
        what,
        f">= {times:g} x",
        measured,
        found.high <= 1 / times,
        (found.ratio, found.low, found.high),
        1 / times,
    )


def noise(bench: Bench) -> Iterator[Line]:
    for name, task in tasks.OPERATIONS.items():
        found = bench.ratio("inpte", "inpte", task, NARROW, ONE_PERCENT)
        yield Line("noise", f"{name}: inpte over inpte", "", shown(found), None)


def unused(bench: Bench) -> Iterator[Line]:
    for name in ("linked", "adaptive"):
        side = bench.filled(name, WORD, NONE, "one").table.memory().side
        yield Line("unused", f"{name}: side bytes", "0", str(side), side == 0)
        for operation, task in tasks.OPERATIONS.items():
            if operation == "update":
                # It sets a bit of every word: then there are some.
                continue
            found = bench.ratio("inpte", name, task, NARROW, NONE)
            yield at_most("unused", f"{name}: {operation}, no word", 1.02, found)


def forked(bench: Bench) -> Iterator[Line]:
    found = bench.ratio("inpte", "adaptive", tasks.fork, WORD, ALL)
    yield at_most("fork", "adaptive: fork, all PTEs with 64-bit words", 1.05, found)
    for name in ("linked", "adjacent"):
        found = bench.ratio("inpte", name, tasks.fork, WORD, ALL)
        # 1.40: Roberts' worst case of fork(2) on arm64,
        # 20240419074344.2643212-1-ryan.roberts@arm.com. His is of a whole fork.
        yield Line(
            "fork",
            f"{name}: fork, all PTEs with 64-bit words",
            "(Roberts: 1.40)",
            shown(found),
            None,
        )


def scanned(bench: Bench) -> Iterator[Line]:
    for kind in WORDS:
        for fields in (NARROW, WORD):
            found = bench.ratio(
                "inpte", "adaptive", tasks.scan, fields, ONE_PERCENT, kind
            )
            what = f"adaptive: scan at 1 %, {fields.bits}-bit words, {kind}"
            yield faster("scan", what, 10, found)


def cleared(bench: Bench) -> Iterator[Line]:
    for kind in WORDS:
        for fields in (NARROW, WORD):
            found = bench.ratio(
                "inpte", "adaptive", tasks.clear, fields, ONE_PERCENT, kind
            )
            what = f"adaptive: clear at 1 %, {fields.bits}-bit words, {kind}"
            yield faster("clear", what, 5, found)


def one_word(bench: Bench) -> Iterator[Line]:
    worst = 0
    for per_table in (1, 2, 6, 7, 14, 15, 100, 512):
        for word in (1, 2**22, 2**63 + 1):
            table = em.PageTable("adaptive", WORD)
            vpns = sparse_tables(64, per_table, seed=1).vpns
            table.map(vpns)
            table.store(vpns, word)
            worst = max(worst, -(-table.memory().side // 64))
    what = "adaptive: bytes a table, its 1 to 512 flagged PTEs share a word"
    yield Line("one-word", what, "<= 16", str(worst), worst <= 16)


def bytes_held(bench: Bench) -> Iterator[Line]:
    worst, where = 0.0, ""
    rng = np.random.default_rng(1)
    for k in (*range(1, 65), *range(72, 513, 8)):
        for width in (1, 2, 4, 8):
            table = em.PageTable("adaptive", em.Fields(meta=8 * width))
            vpns = sparse_tables(16, k, seed=k).vpns
            table.map(vpns)
            top = 2 ** (8 * width) - 1
            words = rng.integers(1, top, len(vpns), np.uint64, endpoint=True)
            table.store(vpns, words)
            share = table.memory().side / 16 / (1.25 * k * width + 80)
            worst, where = max((worst, where), (share, f"k = {k}, w = {width}"))
    yield Line(
        "bytes",
        "adaptive: bytes over 1.25 k w + 80, k random PTEs of a table",
        "<= 1",
        f"{worst:.2f} at {where}",
        worst <= 1,
    )
    spaces = [space_of(load_capture(path), name) for name, path in shipped().items()]
    for rival in ("linked", "hash"):
        worst, where = 0.0, "no point"
        for space in spaces:
            for fields in (em.Fields(uffd_wp=1, soft_dirty=1, age=8), NARROW, WORD):
                for point in SWEEP:
                    for kind in WORDS:
                        held = [
                            beside(space, name, fields, point, kind)
                            for name in ("adaptive", rival)
                        ]
                        none = inf if held[0] else 0.0
                        share = held[0] / held[1] if held[1] else none
                        at = f"{space.name}, {point}, {fields.bits} bits, {kind}"
                        worst, where = max((worst, where), (share, at))
        yield Line(
            "bytes",
            f"adaptive: bytes over those of {rival}, captures",
            "<= 1",
            f"{worst:.2f} at {where}",
            worst <= 1,
        )


def beside(space: Space, name: str, fields: em.Fields, point: Point, kind: str) -> int:
    """Return the bytes beside the page tables."""
    words, _ = tasks.point_words(space, fields, fields, point, 0, kind)
    held = Filled(space.bare(name, fields), words).table.memory()
    return held.side + held.index


def compact(bench: Bench) -> Iterator[Line]:
    for name in ("load", "store"):
        task = tasks.OPERATIONS[name]
        found = bench.ratio("inpte", "compact", task, NARROW, ALL)
        yield at_most("compact", f"{name}, all PTEs flagged", 1.5, found)


def random(bench: Bench) -> Iterator[Line]:
    tables = 4 * bench.nr_tables
    for kind in ("different", "one"):
        found = bench.ratio(
            "linked", "adaptive", random_load, WORD, ALL, kind, nr_tables=tables
        )
        what = f"adaptive over linked: random load, all flagged, {kind}"
        yield at_most("random", what, 1.3, found)
    for point in (Point(0.1, "random"), Point(0.01, "random")):
        found = bench.ratio(
            "linked",
            "adaptive",
            flagged_load,
            WORD,
            point,
            "different",
            nr_tables=tables,
        )
        what = f"adaptive over linked: random load of the {point} flagged"
        yield at_most("random", what, 1.3, found)


def random_load(filled: Filled) -> Task:
    load = filled.load
    return reading(drawn(load.space.vpns, load.words, NR_LOADS), filled.table.load)


def flagged_load(filled: Filled) -> Task:
    load = filled.load
    turns = drawn(load.flagged_vpns, load.flagged_words, NR_LOADS)
    return reading(turns, filled.table.load)


def snapshots(bench: Bench) -> Iterator[Line]:
    for name in ("inpte", "linked", "adaptive", "adjacent", "wide"):
        fields = NARROW if name == "inpte" else WORD
        for point in (NONE, ALL):
            filled = partial(bench.filled, name, fields, point, "different")
            every = cache(lambda filled=filled: of_all(filled()))
            found = bench.paired(lambda every=every: every()[:2])
            what = f"{name}: snapshot of all over load, {point} flagged"
            yield at_most("snapshot", what, 1.3, found)
            found = bench.paired(lambda every=every: every()[2:0:-1])
            what = f"{name}: snapshot of all over load and a copy, {point} flagged"
            yield Line("snapshot", what, "", shown(found), None)
            found = bench.paired(
                lambda filled=filled: of_random(filled(nr_tables=4 * bench.nr_tables))
            )
            what = f"{name}: snapshot of random ones over load, {point} flagged"
            yield at_most("snapshot", what, 1.3, found)


def of_all(filled: Filled) -> tuple[Task, Task, Task]:
    """Return tasks over all PTEs: load; snapshot; load and a copy of the entries."""
    table = filled.table
    # As a bulk reader with the lock might: the entries lie in tables in a row.
    views = [view for _, view in table.tables.items()]
    copies = np.empty((len(views), len(views[0])), np.uint64)

    def copied(vpns: slice) -> np.ndarray:
        for to, view in zip(copies, views, strict=True):
            np.copyto(to, view)
        return table.load(vpns)

    turns = repeat((filled.load.space.range, filled.load.words))
    load, seen = both_ways(table, turns)
    return load, seen, reading(turns, copied)


def of_random(filled: Filled) -> tuple[Task, Task]:
    """Return tasks over random PTEs: load; snapshot."""
    turns = drawn(filled.load.space.vpns, filled.load.words, NR_LOADS)
    return both_ways(filled.table, turns)


def both_ways(table: em.PageTable, turns: Turns) -> tuple[Task, Task]:
    return reading(turns, table.load), reading(turns, lambda v: table.snapshot(v)[1])


def headlines(bench: Bench) -> Iterator[Line]:
    """Yield the claims that stand first, at one size; scale.py has the others."""
    floor = bench.ratio("inpte", "inpte", tasks.fork, NARROW, NONE)
    ratio = floor.ratio, floor.low, floor.high
    yield Line("noise", "fork: inpte over inpte", "", shown(floor), None, ratio)
    for name in ("linked", "adaptive"):
        for operation in ("load", "fork"):
            task = tasks.OPERATIONS[operation]
            found = bench.ratio("inpte", name, task, NARROW, NONE)
            yield at_most("unused", f"{name}: {operation}, no word", 1.02, found)
    found = bench.ratio("inpte", "adaptive", tasks.fork, WORD, ALL)
    yield at_most("fork", "adaptive: fork, all PTEs with 64-bit words", 1.05, found)
    for operation, times, measure in (("scan", 10, "scan"), ("clear", 5, "clear")):
        for kind in ("one", "different"):
            task = tasks.OPERATIONS[operation]
            found = bench.ratio("inpte", "adaptive", task, NARROW, ONE_PERCENT, kind)
            what = f"adaptive: {operation} at 1 %, {NARROW.bits}-bit words, {kind}"
            yield faster(measure, what, times, found)
    found = bench.ratio("linked", "adaptive", random_load, WORD, ALL)
    what = "adaptive over linked: random load, all flagged, different"
    yield at_most("random", what, 1.3, found)


MEASURES = {
    "noise": noise,
    "unused": unused,
    "fork": forked,
    "scan": scanned,
    "clear": cleared,
    "one-word": one_word,
    "bytes": bytes_held,
    "snapshot": snapshots,
    "compact": compact,
    "random": random,
    "headlines": headlines,
}
# Bytes alone, which do not differ between processes.
EXACT = ("one-word", "bytes")
# Without NAME: all but the headlines, which others have too.
DEFAULT = [name for name in MEASURES if name != "headlines"]


def worker() -> None:
    """Measure for another process, and tell it each ratio."""
    name, nr_tables, quick = workers.work_given()
    bench = Bench(nr_tables, quick)
    bench.measured = lambda found: workers.tell(asdict(found))
    for _line in MEASURES[name](bench):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="smaller, fewer pairs")
    parser.add_argument(
        "--processes",
        type=from_1,
        metavar="N",
        help=f"{workers.PROCESSES}; --quick: {workers.QUICK_PROCESSES}",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in MEASURES]
    if unknown:
        parser.error(f"no measure named {unknown[0]!r}; there are {[*MEASURES]}")
    quick = arguments.quick
    default = workers.QUICK_PROCESSES if quick else workers.PROCESSES
    lines = []
    for name in arguments.names or DEFAULT:
        bench = Bench(1024 if quick else 8192, quick)
        for line in bench.lines(name, arguments.processes or default):
            lines.append(line)
            if not arguments.json:
                met = {None: "", True: "met", False: "MISSED"}[line.met]
                print(
                    f"{line.measure:<10}{line.what:<62}{line.goal:>16}"
                    f"  {line.measured:<24} {met}".rstrip(),
                    flush=True,
                )
    if arguments.json:
        json.dump([asdict(line) for line in lines], sys.stdout, indent=1)


if __name__ == "__main__":
    # `workers.results` runs this file without arguments, and with work on its stdin.
    worker() if workers.started() else main()
