"""The table of the crossover: which encoding is the smallest."""

import math
from collections.abc import Callable, Iterator, Sequence

from extmeta.reports.head import head
from extmeta.reports.layout import ENCODINGS_ACROSS, add_row, new_table, plain, rendered
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, Point, smallest

# Marks the smallest figure of a row.
LEAST = "*"


def crossover_tables(c: Comparison) -> Iterator[str]:
    """Yield the head and the tables of a crossover, and where each encoding leads."""
    yield head(c)
    for at in range(0, len(c.encodings), ENCODINGS_ACROSS):
        names = c.encodings[at : at + ENCODINGS_ACROSS]
        yield _crossover_table(c, names, "bytes", c.extra)
        yield _crossover_table(c, names, "bytes of whole pages", c.extra_pages)
    yield _lead(leads(c))


def leads(c: Comparison) -> list[tuple[str, int, int]]:
    """Return the smallest encodings by the number of flagged PTEs in a table.

    Each has the first and the last number measured at which it is the smallest.
    """
    found: list[tuple[str, int, int]] = []
    for point in c.points:
        each = c.ram[point, BASELINE].flagged // (c.subject.nr_tables or 1)
        rows = [c.ram[at] for at in c.ram if at[0] == point]
        lead = smallest(rows, found[-1][0] if found else "")
        if found and found[-1][0] == lead:
            found[-1] = (lead, found[-1][1], each)
        else:
            found.append((lead, each, each))
    return found


def _crossover_table(
    c: Comparison,
    names: Sequence[str],
    unit: str,
    extra_of: Callable[[Point, str], int | None],
) -> str:
    heads = [plain(name).replace(":", "\n:") for name in names]
    table = new_table("flagged/table", heads, 13, 10)
    for point in c.points:
        flagged = c.ram[point, BASELINE].flagged
        extra = {name: extra_of(point, name) for name in c.encodings}
        least = min((n for n in extra.values() if n is not None), default=None)
        cells = []
        for name in names:
            n = extra[name]
            shown = "" if n is None or not flagged else f"{n / flagged:,.2f}"
            # A space in place of the mark keeps the digits in line.
            cells.append(shown and shown + (LEAST if n == least else " "))
        add_row(table, f"{flagged // (c.subject.nr_tables or 1):>13,}", cells)
    return f"{unit}/flagged PTE; {LEAST} the smallest\n{rendered(table)}"


def _lead(leads: Sequence[tuple[str, int, int]]) -> str:
    """Return a line for each range of flagged PTEs with one smallest encoding."""
    most = max((last for _name, _first, last in leads), default=1)
    width = 48 / (most.bit_length() or 1)
    lines = []
    for place, (name, first, last) in enumerate(leads):
        stop = leads[place + 1][1] if place + 1 < len(leads) else 2 * most
        start, end = (round(width * math.log2(n or 1)) for n in (first, stop))
        bar = " " * start + "#" * max(1, end - start)
        span = f"{first:,}" if stop <= first + 1 else f"{first:,} on"
        if place + 1 == len(leads):
            span = f"{first:,}" if first == last else f"{first:,} to {last:,}"
        lines.append(f"  {plain(name)[:24]:<24} {span:<12}|{bar[:48]:<48}|")
    head = f"the smallest, from 1 to {most:,} flagged PTEs in each table (log scale)"
    return "\n".join([head, *lines])
