"""The tables of CPU: ratios to the baseline, and the read bound."""

from collections.abc import Iterator, Sequence

from extmeta.reports.figures import nanoseconds, ratio, size
from extmeta.reports.layout import (
    OPERATIONS_ACROSS,
    add_row,
    new_table,
    plain,
    rendered,
    wrapped,
)
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, CONTROL, OPERATIONS, Bound, Point, Subject


def cpu_tables(c: Comparison) -> Iterator[str]:
    """Yield the tables of CPU of each point."""
    for point in c.points:
        timed = {op for at, _encoding, op in c.cpu if at == point}
        # In the sweep's order, then any others.
        operations = [op for op in OPERATIONS if op in timed]
        operations += sorted(timed - {*operations})
        for at in range(0, len(operations), OPERATIONS_ACROSS):
            yield _cpu_table(c, point, operations[at : at + OPERATIONS_ACROSS])


def _cpu_table(c: Comparison, point: Point, operations: Sequence[str]) -> str:
    table = new_table("", operations, 15, 11)
    names = (CONTROL, *c.encodings)
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
    if c.bound and c.subject.nr_ptes and "scan" in operations:
        bound = nanoseconds(bound_ns(c.bound, c.subject))
        add_row(
            table,
            "read bound, ns",
            [bound if op == "scan" else "" for op in operations],
        )
    for name in names:
        if any(rows[name]):
            add_row(table, name, [ratio(row) if row else "" for row in rows[name]])
    flagged = c.ram[point, BASELINE].flagged
    title = (
        f"CPU, {plain(str(point))}: {flagged:,} of {c.subject.nr_ptes:,} PTEs flagged; "
        f"ratio to {BASELINE} and its interval"
    )
    return f"{title}\n{rendered(table)}"


def bound_ns(bound: Bound, subject: Subject) -> float:
    """Return the least time to read the PTE tables, in ns for each PTE."""
    return 1e9 * bound.table_bytes / (bound.near_bytes_per_s or 1) / subject.nr_ptes


def read_bound_line(c: Comparison) -> str:
    """Return what the read bound is, if scans were timed."""
    if not c.bound or not any(op == "scan" for _p, _e, op in c.cpu):
        return ""
    return wrapped(
        f"read bound: the time to read {size(c.bound.table_bytes)} of PTE tables at "
        f"{size(c.bound.near_bytes_per_s)}/s. An array of that size is read so fast "
        f"if it is read again and again, one of 64 MiB at "
        f"{size(c.bound.far_bytes_per_s)}/s."
    )
