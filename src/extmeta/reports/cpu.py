"""The tables of CPU: ratios to the baseline, and the bounds."""

from collections.abc import Iterator, Sequence

from extmeta.reports import bounds
from extmeta.reports.figures import nanoseconds, ratio
from extmeta.reports.layout import (
    OPERATIONS_ACROSS,
    add_row,
    new_table,
    plain,
    rendered,
)
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, CALL, CONTROL, LIVES, LOOPS, OPERATIONS, Point


def cpu_tables(c: Comparison, over_bound: bool = False) -> Iterator[str]:
    """Yield the tables of CPU of each point.

    ``over_bound`` adds tables of time over the bound.
    """
    for point in c.points:
        timed = {op for at, _encoding, op in c.cpu if at == point}
        # In the sweep's order, then any others.
        operations = [op for op in OPERATIONS if op in timed]
        operations += sorted(timed - {*operations, *LOOPS, *map(str, LIVES)})
        for at in range(0, len(operations), OPERATIONS_ACROSS):
            across = operations[at : at + OPERATIONS_ACROSS]
            yield _cpu_table(c, point, across)
            if over_bound and c.bound:
                yield _bounds_table(c, point, across)
        loops = [op for op in LOOPS if op in timed]
        if loops:
            yield _cpu_table(c, point, loops, "CPU entry by entry")
        for of in dict.fromkeys(life.of for life in LIVES):
            lived = {str(life): life.share for life in LIVES if life.of == of}
            heads = [f"{100 * share:g}%" for op, share in lived.items() if op in timed]
            if heads:
                what = f"CPU, fork, write to {of}, exit"
                ops = [op for op in lived if op in timed]
                yield _cpu_table(c, point, ops, what, heads)


def _cpu_table(
    c: Comparison,
    point: Point,
    operations: Sequence[str],
    what: str = "CPU",
    heads: Sequence[str] = (),
) -> str:
    table = new_table("", heads or operations, 15, 11)
    names = (CONTROL, CALL, *c.encodings)
    rows = {name: [c.cpu.get((point, name, op)) for op in operations] for name in names}
    # The baseline's time is taken from its own pairs, else from another encoding's.
    timed = [
        next((r for r in column if r), None)
        for column in zip(*rows.values(), strict=True)
    ]
    add_row(
        table,
        f"{BASELINE}, ns/PTE",
        [nanoseconds(row.baseline_ns) if row else "" for row in timed],
    )
    held, nr_ptes = c.ram[point, BASELINE], c.subject.nr_ptes
    least = [bounds.bound_ns(c.bound, op, held, nr_ptes) for op in operations]
    if any(least):
        add_row(table, "bound, ns/PTE", [nanoseconds(ns) if ns else "" for ns in least])
    for name in names:
        if any(rows[name]):
            add_row(table, name, [ratio(row) if row else "" for row in rows[name]])
    title = (
        f"{what}, {plain(str(point))}: {held.flagged:,} of {c.subject.nr_ptes:,} PTEs "
        f"flagged; ratio to {BASELINE}" + ("" if heads else " and its interval")
    )
    return f"{title}\n{rendered(table)}"


def _bounds_table(c: Comparison, point: Point, operations: Sequence[str]) -> str:
    """Return the time of each operation as a multiple of its bound."""
    table = new_table("", operations, 15, 11)
    for name in (BASELINE, *c.encodings):
        of = CONTROL if name == BASELINE else name
        rows = [c.cpu.get((point, of, op)) for op in operations]
        if any(rows):
            times = [bounds.times_bound(c, row) if row else 0 for row in rows]
            add_row(table, name, [f"{nanoseconds(n)} x" if n else "" for n in times])
    return (
        f"CPU, {plain(str(point))}: time over the bound of what is held\n"
        + rendered(table)
    )
