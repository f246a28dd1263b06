"""The tables over several captures: the median and the worst of each figure."""

import statistics
from collections.abc import Iterator, Sequence

from extmeta.reports.figures import nanoseconds, share
from extmeta.reports.layout import add_row, new_table, plain, rendered, wrapped
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, CONTROL, OPERATIONS, Point

# Fewer captures have no median that says more than their own tables.
FEWEST = 3

# Width of a column; longer names of captures are cut.
CHARS = 8

# The figure of each capture, with its name.
Column = list[tuple[float, str]]


def captures_tables(found: Sequence[Comparison]) -> Iterator[str]:
    """Yield tables for each point that was timed on several captures."""
    by_kind: dict[object, list[Comparison]] = {}
    for c in found:
        if c.cpu and c.subject.sha256:
            kind = c.subject.arch, c.subject.words, str(c.subject.fields)
            by_kind.setdefault(kind, []).append(c)
    for several in by_kind.values():
        if len({c.subject.sha256 for c in several}) >= FEWEST:
            for point in several[0].points:
                yield _table(several, point)


def _table(found: Sequence[Comparison], point: Point) -> str:
    """Return the median and the worst of each encoding, and where that is."""
    table = new_table("", ["RAM", *OPERATIONS], 22, CHARS)
    for encoding in (CONTROL, *found[0].encodings):
        columns = [_ram(found, point, encoding)]
        columns += [_ratios(found, point, encoding, name) for name in OPERATIONS]
        medians = [statistics.median(v for v, _ in c) if c else None for c in columns]
        worst = [max(column, default=(None, "")) for column in columns]
        add_row(table, f"{encoding}, median", _cells(medians))
        add_row(table, "  worst", _cells([value for value, _name in worst]))
        add_row(table, "  worst is", [name[:CHARS] for _value, name in worst])
    title = wrapped(
        f"{plain(str(point))} of the PTEs flagged, over {len(found)} captures: RAM in % "
        f"of {BASELINE}'s page tables, CPU as ratio to {BASELINE}; worst is the capture "
        "with the largest"
    )
    return f"{title}\n{rendered(table)}"


def _ram(found: Sequence[Comparison], point: Point, encoding: str) -> Column:
    """Return the bytes beyond the baseline over its bytes, for each capture."""
    return [
        (extra / c.ram[point, BASELINE].total, c.subject.name)
        for c in found
        if (extra := c.extra(point, encoding)) is not None
    ]


def _ratios(
    found: Sequence[Comparison], point: Point, encoding: str, operation: str
) -> Column:
    """Return the ratio of an operation, for each capture that has it."""
    rows = [(c.cpu.get((point, encoding, operation)), c.subject.name) for c in found]
    return [(row.ratio, name) for row, name in rows if row]


def _cells(figures: Sequence[float | None]) -> Iterator[str]:
    ram, *ratios = figures
    yield "" if ram is None else share(ram, 1)
    for ratio in ratios:
        yield "" if ratio is None else nanoseconds(ratio)
