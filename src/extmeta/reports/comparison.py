"""A comparison as text and as JSON: pure functions of rows.

The text is 100 columns wide, the baseline first, and needs no colour. The JSON holds
the rows and where they come from.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from extmeta.cost.kernel import prototype
from extmeta.reports import stored
from extmeta.reports.arches import arches_tables, by_space
from extmeta.reports.bounds import bound_line, times_bound
from extmeta.reports.captures import captures_tables
from extmeta.reports.cpu import cpu_tables
from extmeta.reports.crossover import crossover_tables
from extmeta.reports.demands import demands_table
from extmeta.reports.head import head
from extmeta.reports.kernel_shares import calibrations, instruction_tables, ns_tables
from extmeta.reports.locked import locked_tables
from extmeta.reports.notes import made_line, notes_text
from extmeta.reports.prototype import prototype_table
from extmeta.reports.ram import block_tables, ram_tables, split_table, with_links
from extmeta.reports.subjects import Comparison, by_subject
from extmeta.rows import EACH, LOOPS, Row

FORMAT = "extmeta comparison 1"

KINDS: dict[str, type] = {kind.__name__: kind for kind in get_args(Row)}


def text(rows: Iterable[Row], provenance: dict[str, Any]) -> str:
    """Return a comparison for people, 100 columns wide.

    ``rows`` are those of one or more `sweep.sweep`, perhaps interrupted; ValueError if
    the first is no Subject. For ``provenance`` see `origin.provenance`.
    """
    parts: list[str] = []
    if provenance.get("charge_links"):
        rows = with_links(rows)
        parts.append("Each PTE table is charged 8 bytes for its link and count.")
    found = by_subject(rows)
    for c, *more in by_space(found):
        if more:
            parts += arches_tables([c, *more])
        elif any(point.placement == EACH for point in c.points):
            parts += crossover_tables(c)
        else:
            parts += [
                head(c),
                *ram_tables(c),
                *block_tables(c),
                *split_table(c),
                *_in_a_kernel(c),
                *cpu_tables(c, bool(provenance.get("bounds"))),
                bound_line(c),
                *demands_table(c),
                *locked_tables(c),
                *ns_tables(c, provenance),
                *instruction_tables(c, provenance),
            ]
    parts += captures_tables(found)
    parts += [notes_text(found), made_line(provenance)]
    return "\n\n".join(part for part in parts if part)


def _in_a_kernel(c: Comparison) -> Iterator[str]:
    """Yield the counts of a real kernel before those of the model's loops."""
    if any(operation in LOOPS for _point, _encoding, operation in c.cpu):
        yield prototype_table(prototype.shipped())


def to_json(
    rows: Iterable[Row],
    provenance: dict[str, Any],
    complete: bool = True,
    missing: Sequence[str] = (),
) -> str:
    """Return rows and their provenance as JSON; see `stored.to_json`.

    A Cpu whose bound is known has `times_bound` besides, its time over that bound.
    """
    rows = [*rows]
    times = {
        id(row): n
        for c in by_subject(rows)
        for row in c.cpu.values()
        if (n := times_bound(c, row))
    }

    def derived(row: Row) -> dict[str, float]:
        return {"times_bound": times[id(row)]} if id(row) in times else {}

    return stored.to_json(rows, provenance, FORMAT, complete, missing, derived)


def from_json(document: str) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows and the provenance that `to_json` wrote; else ValueError."""
    rows, provenance = stored.rows_of(document, FORMAT, KINDS)
    by_subject(rows)
    calibrations(provenance)
    return rows, provenance
