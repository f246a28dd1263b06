"""The sweep: RAM of every encoding at every point, and its time beside the baseline's.

At each point (a fraction of PTEs flagged, and how they lie) every encoding gets equal
PTEs and words. Its memory is read; then each operation is timed in pairs with the
baseline, which keeps words in the PTE, in this process or in several
(:mod:`extmeta.cost.workers`). The baseline is also compared with a second table of
itself, the noise floor, and with a table of one PTE: what a call takes alone.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from extmeta.arch import arch_named, bit_ranges
from extmeta.cost import forks, loop_tasks, machine, measure, workers
from extmeta.cost.forms import fitting, form, in_pte, lack, left_out
from extmeta.cost.measure import Task
from extmeta.cost.space import Space, sparse_tables
from extmeta.cost.spread import spread
from extmeta.cost.tasks import OPERATIONS, Filled, PointWords, point_words
from extmeta.encodings.inpte import places
from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.rows import (
    BASELINE,
    CALL,
    CONTROL,
    Blocks,
    Cpu,
    Point,
    Ram,
    Refused,
    Row,
    Spread,
    Subject,
)

FRACTIONS = (0.0, 0.01, 0.1, 1.0)

# The point at which RAM is compared on every architecture.
ONE_POINT = Point(0.01, "random")

# What a verdict needs where no PTE has a word, and where some have.
BRIEF = (("scan", "fork"), ("load", "store", "update", "scan", "fork"))

Progress = Callable[[int, int, str], object]


def subject_of(
    space: Space,
    fields: Fields,
    bare: PageTable,
    kind: str = "different",
    nr_distinct: int = 0,
) -> Subject:
    """Return the head of a comparison; ``bare`` is the baseline's, without a word."""
    arch = bare.arch
    return Subject(
        name=space.name,
        sha256=space.sha256,
        arch=space.arch,
        nr_ptes=len(space.vpns),
        nr_tables=len(bare.tables),
        nr_huge=space.nr_huge,
        present_bytes=space.present_bytes,
        fields=dict(fields),
        baseline_fields=dict(bare.fields),
        baseline_lacks=lack(fields, arch, space.has_swap),
        words=kind,
        note=space.note,
        cleared=bit_ranges(
            {*arch.cleared} & {*places(bare.fields, arch)[0], arch.flag}
        ),
        nr_deposited=len(space.deposited),
        nr_unplaced=space.nr_unplaced,
        nr_unmarked=space.nr_unmarked,
        nr_distinct=nr_distinct,
    )


@dataclass(frozen=True)
class Options:
    """How ratios are measured: see `measure.in_rounds`."""

    rounds: int
    least: int
    budget_ns: int
    narrow: float
    seed: int


class Timed(NamedTuple):
    """The ratio of an operation in one encoding to the baseline's."""

    encoding: str
    operation: str
    found: measure.Paired


def cpu_of(
    name: str, operation: str, point: Point, nr_ptes: int, found: measure.Paired
) -> Cpu:
    """Return the row for an operation on ``nr_ptes``."""
    return Cpu(
        encoding=name,
        operation=operation,
        fraction=point.fraction,
        placement=point.placement,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        baseline_ns=found.baseline_ns / nr_ptes,
        pairs=found.pairs,
        repeat=found.repeat,
        waited=found.waited,
        processes=found.processes,
    )


def operations_at(
    point: Point, name: str = "", brief: bool = False
) -> dict[str, Callable[[Filled], Task]]:
    """Return what is timed at a point for the encoding that rows call ``name``.

    The kernel's loops are left out at placements other than at random, which takes them
    to all tables; the lives of forks, unless every PTE has a word. ``brief`` is what a
    verdict needs: the operations of `BRIEF`, and a fork that copies each word if every
    PTE has one. A call alone is timed for the bulk operations, unless ``brief``.
    """
    if brief:
        if name == CALL:
            return {}
        wanted = BRIEF[point.fraction > 0]
        each = (
            {"fork each": loop_tasks.TASKS["fork each"]} if point.fraction == 1 else {}
        )
        return {**{operation: OPERATIONS[operation] for operation in wanted}, **each}
    loops = loop_tasks.TASKS if point.placement in ("", "random") else {}
    if name == CALL:
        return OPERATIONS
    lives = forks.TASKS if point.fraction == 1 else {}
    return {**OPERATIONS, **loops, **lives}


def sweep(
    space: Space,
    forms: Sequence[str],
    fields: Fields,
    points: Sequence[Point],
    *,
    seed: int = 0,
    rounds: int = measure.ROUNDS,
    budget_ns: int = measure.BUDGET_NS,
    narrow: float = measure.NARROW,
    kind: str = "different",
    brief: bool = False,
    processes: int = 1,
    progress: Progress | None = None,
) -> Iterator[Row]:
    """Compare encodings on one address space, row by row.

    Parameters
    ----------
    space : Space
    forms : sequence of str
        See `form`. The baseline is measured whether it is named or not.
    fields : Fields
    points : sequence of Point
    seed : int
    rounds, budget_ns, narrow
        See `measure.in_rounds`; of each process.
    kind : str
        See `placement.words`.
    brief : bool
        See `operations_at`.
    processes : int
        How many processes measure each ratio, one after the other, new ones for each
        point; 1 is this one.
    progress : callable, optional
        Called with the number of ratios measured, their total, and what comes next.
        Each process counts.

    Yields
    ------
    Row
        Subject and Bound; Refused if an encoding can't hold the fields, or another
        package's fails; for each point a Spread, the Ram of each encoding, on arm64 a
        Blocks, and then the operations' Cpu. If it is interrupted, the rows so far are
        valid.

    Raises
    ------
    ValueError
        If a form is unknown, or the baseline can hold no bit of the fields.
    CheckError
        If an encoding of this package does not do what was asked of it.
    ChildProcessError
        If that, or any other error, ends one of several processes.
    """
    held = Held(space, forms, fields, seed=seed, kind=kind, brief=brief)
    subject, *refused = held.head
    yield subject
    yield machine.bound_of(held.base.memory().pte)
    yield from refused
    options = Options(
        rounds=rounds,
        least=measure.MIN_ROUNDS if processes == 1 else measure.MIN_PROCESS_ROUNDS,
        budget_ns=budget_ns,
        narrow=narrow,
        seed=seed,
    )
    nr_ratios = {point: processes * held.nr_ratios(point) for point in points}
    done, nr_ptes = 0, len(space.vpns)

    def told(measured: int, what: str) -> None:
        if progress:
            progress(done + measured, sum(nr_ratios.values()), what)

    for point in points:
        yield held.spread(point)
        said: set[Row] = set()
        if processes == 1:
            found = timed(held, point, options, told)
        else:
            found = timed_by_processes(held, point, options, processes, told)
        for each in itertools.chain(held.at(point), found):
            row: Row = (
                cpu_of(each.encoding, each.operation, point, nr_ptes, each.found)
                if isinstance(each, Timed)
                else each
            )
            # Memory and time, or several processes, may be refused for one reason.
            if row not in said:
                yield row
            said.add(row)
        done += nr_ratios[point]
    told(0, "done")


class Held:
    """What each encoding holds of one address space; nothing is timed.

    `head` are the Subject and the Refused. Parameters and errors are those of `sweep`.
    """

    def __init__(
        self,
        space: Space,
        forms: Sequence[str],
        fields: Fields,
        *,
        seed: int = 0,
        kind: str = "different",
        brief: bool = False,
    ) -> None:
        made = {text: form(text) for text in forms if text != BASELINE}
        self.given = (space, forms, fields, seed, kind, brief)
        self.space = space
        self.fields = fields
        self.kept = fitting(fields, arch_named(space.arch), space.has_swap)
        self.seed = seed
        self.kind = kind
        self.brief = brief
        self.base = space.bare(BASELINE, self.kept)
        every = self.words(Point(1.0, ""))[1].words
        nr_distinct = len(np.unique(every, axis=0))
        self.head: list[Row] = [subject_of(space, fields, self.base, kind, nr_distinct)]
        self.bare: dict[str, PageTable] = {}
        for text, encoding in made.items():
            try:
                its = self.kept if in_pte(text) else fields
                self.bare[text] = space.bare(encoding, its)
            except Exception as error:  # noqa: BLE001 (left_out raises ours)
                self.head.append(left_out(text, error))

    def nr_ratios(self, point: Point) -> int:
        """Return the number of ratios at a point, with those of the noise floor."""
        timed = (CONTROL, CALL, *self.bare)
        return sum(len(operations_at(point, text, self.brief)) for text in timed)

    def spread(self, point: Point) -> Spread:
        """Return how the PTEs and the flagged ones lie."""
        return spread(self.space, point, self.words(point)[0].flagged_vpns)

    def words(self, point: Point) -> tuple[PointWords, PointWords]:
        """Return the words of a point: the baseline's, and those of all others."""
        return point_words(
            self.space, self.fields, self.kept, point, self.seed, self.kind
        )

    def at(self, point: Point) -> list[Ram | Blocks | Refused]:
        """Return a Ram, and on arm64 a Blocks, of each encoding, or why it has none."""
        ours, theirs = self.words(point)
        base = Filled(self.base, ours)
        rows: list[Ram | Blocks | Refused] = [base.ram(BASELINE, point)]
        rows += base.blocks(BASELINE, point)
        for text, table in self.bare.items():
            try:
                other = Filled(table, ours if in_pte(text) else theirs)
                rows += [other.ram(text, point), *other.blocks(text, point)]
            except Exception as error:  # noqa: BLE001 (left_out raises ours)
                rows.append(left_out(text, error, str(point)))
        return rows


def timed(
    held: Held, point: Point, options: Options, told: Callable[[int, str], None]
) -> Iterator[Timed | Refused]:
    """Measure each ratio of a point in this process.

    ``told`` is called with the number of ratios measured, and what comes next.
    """
    ours, theirs = held.words(point)
    base = Filled(held.base, ours)
    alone = sparse_tables(1, 1, held.seed, held.space.arch)
    call = Held(alone, [], held.kept, seed=held.seed, kind=held.kind)
    again = held.space.bare(BASELINE, held.kept)
    bare = {CONTROL: again, CALL: call.base, **held.bare}
    given = {CONTROL: ours, CALL: call.words(point)[0]}
    given |= {text: ours for text in held.bare if in_pte(text)}
    measured = 0
    for text, table in bare.items():
        operations = operations_at(point, text, held.brief)
        try:
            other = Filled(table, given.get(text, theirs))
        except Exception as error:  # noqa: BLE001 (left_out raises ours)
            yield left_out(text, error, str(point))
            measured += len(operations)
            continue
        for operation, task in operations.items():
            told(measured, f"{point} flagged: {text} {operation}")
            measured += 1
            try:
                found = measure.paired(
                    task(base), task(other), **dataclasses.asdict(options)
                )
            except Exception as error:  # noqa: BLE001 (left_out raises ours)
                yield left_out(text, error, f"{point}, {operation}")
                continue
            yield Timed(text, operation, found)


def timed_by_processes(
    held: Held,
    point: Point,
    options: Options,
    processes: int,
    told: Callable[[int, str], None],
) -> Iterator[Timed | Refused]:
    """Measure each ratio of a point in several processes, one after the other.

    If it is interrupted, it yields what the processes have measured, and then raises
    KeyboardInterrupt.
    """
    found: dict[tuple[str, str], list[measure.Paired]] = {}
    refused = []
    interrupted = False
    try:
        for number in range(processes):
            first = number * held.nr_ratios(point)
            told(first, f"{point} flagged: process {number + 1} of {processes}")
            work = (*held.given, point, options)
            for line in workers.results(WORKER, work, number):
                if "why" in line:
                    refused.append(Refused(**line))
                    continue
                measured = measure.Paired(**line["found"])
                name, operation = line["encoding"], line["operation"]
                found.setdefault((name, operation), []).append(measured)
                first += 1
                told(first, f"{point} flagged: {name} {operation}")
    except KeyboardInterrupt:
        interrupted = True
    yield from refused
    for (name, operation), parts in found.items():
        yield Timed(name, operation, measure.of_processes(parts, options.seed))
    if interrupted:
        raise KeyboardInterrupt


# What runs `main` of this module.
WORKER = ("-m", "extmeta.cost.sweep")


def main() -> None:
    """Measure one point for `timed_by_processes`, and print each result."""
    space, forms, fields, seed, kind, brief, point, options = workers.work_given()
    held = Held(space, forms, fields, seed=seed, kind=kind, brief=brief)
    for result in timed(held, point, options, lambda _measured, _what: None):
        if isinstance(result, Refused):
            workers.tell(dataclasses.asdict(result))
        else:
            found = dataclasses.asdict(result.found)
            workers.tell({**result._asdict(), "found": found})


def ram(
    space: Space,
    forms: Sequence[str],
    fields: Fields,
    points: Sequence[Point],
    *,
    seed: int = 0,
    kind: str = "different",
) -> Iterator[Row]:
    """Yield a Subject, and a Ram at each point, as `sweep` does; time nothing."""
    held = Held(space, forms, fields, seed=seed, kind=kind)
    yield from held.head
    for point in points:
        yield from held.at(point)


if __name__ == "__main__":
    main()
