"""The sweep: RAM of every encoding at every point, and its time beside the baseline's.

At each point (a fraction of PTEs flagged, and how they lie) every encoding gets equal
PTEs and words. Its memory is read; then each operation is timed in pairs with the
baseline, which keeps words in the PTE. The baseline is also compared with a second
table of itself, the noise floor, and with a table of one PTE: what a call takes alone.
"""

from collections.abc import Callable, Iterator, Sequence

from extmeta.arch import arch_named, bit_ranges
from extmeta.cost import forks, loop_tasks, machine, measure
from extmeta.cost.forms import fitting, form, lack, left_out
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
    Subject,
)

FRACTIONS = (0.0, 0.01, 0.1, 1.0)

# The point at which RAM is compared on every architecture.
ONE_POINT = Point(0.01, "random")

Progress = Callable[[int, int, str], object]


def subject_of(
    space: Space, fields: Fields, bare: PageTable, kind: str = "different"
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
    )


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
    )


def operations_at(
    point: Point, name: str = "", brief: bool = False
) -> dict[str, Callable[[Filled], Task]]:
    """Return what is timed at a point for the encoding that rows call ``name``.

    The kernel's loops are left out at placements other than at random, which takes them
    to all tables; the lives of forks, unless every PTE has a word. ``brief`` leaves out
    the loops if only some PTEs have one, and most lives. A call alone is timed for the
    bulk operations.
    """
    ends = ("",) if brief else ("", "random")
    loops = loop_tasks.TASKS if point.placement in ends else {}
    lives = forks.BRIEF if brief else forks.TASKS
    if name == CALL:
        return OPERATIONS
    return {**OPERATIONS, **loops, **(lives if point.fraction == 1 else {})}


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
        See `measure.in_rounds`.
    kind : str
        See `placement.words`.
    brief : bool
        See `operations_at`.
    progress : callable, optional
        Called with the number of ratios measured, their total, and what comes next.

    Yields
    ------
    Row
        Subject and Bound; Refused if an encoding can't hold the fields, or another
        package's fails; for each point a Spread; for each encoding there a Ram, on arm64 a
        Blocks, and then the operations' Cpu. If it is interrupted, the rows so far are valid.

    Raises
    ------
    ValueError
        If a form is unknown, or the baseline can hold no bit of the fields.
    CheckError
        If an encoding of this package does not do what was asked of it.
    """
    held = Held(space, forms, fields, seed=seed, kind=kind)
    subject, *refused = held.head
    yield subject
    yield machine.bound_of(held.base.memory().pte)
    yield from refused
    alone = sparse_tables(1, 1, seed, space.arch)
    call = Held(alone, [], held.kept, seed=seed, kind=kind)
    bare = {CONTROL: space.bare(BASELINE, held.kept), CALL: call.base, **held.bare}
    total = sum(len(operations_at(p, text, brief)) for p in points for text in bare)
    done = 0
    for point in points:
        ours, theirs = held.words(point)
        given = {CONTROL: ours, CALL: call.words(point)[0]}
        base = Filled(held.base, ours)
        yield base.ram(BASELINE, point)
        yield from base.blocks(BASELINE, point)
        yield spread(space, point, ours.flagged_vpns)
        for text, table in bare.items():
            operations = operations_at(point, text, brief)
            try:
                other = Filled(table, given.get(text, theirs))
                ram_row = other.ram(text, point)
            except Exception as error:  # noqa: BLE001 (left_out raises ours)
                yield left_out(text, error, str(point))
                done += len(operations)
                continue
            if text not in (CONTROL, CALL):
                yield ram_row
                yield from other.blocks(text, point)
            for operation, task in operations.items():
                if progress:
                    progress(done, total, f"{point} flagged: {text} {operation}")
                done += 1
                try:
                    found = measure.paired(
                        task(base),
                        task(other),
                        rounds=rounds,
                        budget_ns=budget_ns,
                        narrow=narrow,
                        seed=seed,
                    )
                except Exception as error:  # noqa: BLE001 (left_out raises ours)
                    yield left_out(text, error, f"{point}, {operation}")
                    continue
                yield cpu_of(text, operation, point, len(space.vpns), found)
    if progress:
        progress(done, total, "done")


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
    ) -> None:
        made = {text: form(text) for text in forms if text != BASELINE}
        self.space = space
        self.fields = fields
        self.kept = fitting(fields, arch_named(space.arch), space.has_swap)
        self.seed = seed
        self.kind = kind
        self.base = space.bare(BASELINE, self.kept)
        self.head: list[Row] = [subject_of(space, fields, self.base, kind)]
        self.bare: dict[str, PageTable] = {}
        for text, encoding in made.items():
            try:
                self.bare[text] = space.bare(encoding, fields)
            except Exception as error:  # noqa: BLE001 (left_out raises ours)
                self.head.append(left_out(text, error))

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
                other = Filled(table, theirs)
                rows += [other.ram(text, point), *other.blocks(text, point)]
            except Exception as error:  # noqa: BLE001 (left_out raises ours)
                rows.append(left_out(text, error, str(point)))
        return rows


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
