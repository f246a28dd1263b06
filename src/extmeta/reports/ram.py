"""The tables of RAM at each point: bytes, broken blocks, splits of huge pages."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.table import Table

from extmeta.reports.figures import count, for_each, share, size
from extmeta.reports.layout import (
    POINTS_ACROSS,
    add_row,
    new_table,
    plain,
    rendered,
    wrapped,
)
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, Point, Ram, Row


def with_links(rows: Iterable[Row]) -> list[Row]:
    """Charge each table's link and count, as a part of the index."""
    return [
        dataclasses.replace(row, index=row.index + row.links)
        if isinstance(row, Ram)
        else row
        for row in rows
    ]


def ram_tables(c: Comparison) -> Iterator[str]:
    """Yield the tables of RAM, as many points in each as fit."""
    for at in range(0, len(c.points), POINTS_ACROSS):
        yield _ram_table(c, c.points[at : at + POINTS_ACROSS])


def _point_table(first: str, points: Sequence[Point]) -> Table:
    heads = [plain(str(point)).replace(" ", "\n") for point in points]
    return new_table(first, heads, 17, 9)


def _ram_table(c: Comparison, points: Sequence[Point]) -> str:
    table = _point_table("RAM", points)
    base = [c.ram[point, BASELINE] for point in points]
    add_row(table, "PTEs flagged", [count(row.flagged) for row in base])

    def section(
        title: str, names: Sequence[str], cell: Callable[[Ram, int, Ram], str]
    ) -> None:
        """Add a line for each name; a cell gets the row, its extra and the base."""
        add_row(table, title, [])
        for name in names:
            rows = [c.ram.get((point, name)) for point in points]
            cells = [
                cell(row, row.total - its.total, its) if row else ""
                for row, its in zip(rows, base, strict=True)
            ]
            add_row(table, f"  {name}", cells)

    rivals, present = c.encodings, c.subject.present_bytes
    section("beside the tables", [BASELINE, *rivals], lambda _row, n, _its: size(n))
    section(
        "in pages, alone",
        rivals,
        lambda row, _n, its: size(row.pages - its.pages),
    )
    section("% of page tables", rivals, lambda _row, n, its: share(n, its.total))
    section("% of present RAM", rivals, lambda _row, n, _its: share(n, present))
    section("bytes/flagged PTE", rivals, lambda _row, n, its: for_each(n, its.flagged))
    repointing = {
        name for (_point, name), row in c.ram.items() if row.repointings is not None
    }
    if moved := [name for name in rivals if name in repointing]:
        section(
            "tables re-pointed",
            moved,
            lambda row, _n, _its: count(row.repointings or 0),
        )
    return rendered(table)


def block_tables(c: Comparison) -> Iterator[str]:
    """Yield what words do to contiguous blocks, on arm64."""
    if not c.blocks:
        return
    row = next(iter(c.blocks.values()))
    bound = "" if row.known_by == "PFNs" else ", at most: PFNs are not known"
    yield wrapped(
        f"Contiguous blocks of {row.size} PTEs that words break, of {row.without:,}"
        f"{bound}. Linux folds PTEs that are alike, so a flag or a word in some of them "
        "costs the block its one TLB entry.",
        indent=2,
    )
    for at in range(0, len(c.points), POINTS_ACROSS):
        points = c.points[at : at + POINTS_ACROSS]
        table = _point_table("encoding", points)
        for name in (BASELINE, *c.encodings):
            rows = [c.blocks.get((point, name)) for point in points]
            cells = ["" if r is None else share(r.broken, r.without) for r in rows]
            if any(rows):
                add_row(table, name, cells)
        yield rendered(table)


def split_table(c: Comparison) -> Iterator[str]:
    """Yield what a split of anonymous huge pages takes."""
    if not c.splits:
        return
    table = new_table("bytes", ["a huge page", "all of them"], 17, 11)
    for row in c.splits:
        cells = [size(row.all(1)), size(row.all(c.subject.nr_deposited))]
        add_row(table, row.encoding, cells)
    line = (
        f"What a split of anonymous huge pages takes: {c.splits[0].leaves:,} of "
        f"{c.subject.nr_deposited:,} were split, and all PTEs of each got one word, the "
        "one that the huge page has. The PTE tables are the deposited ones, which "
        "the RAM above has, with their side pages where an encoding always has one. A "
        "kernel can't allocate in a split, so it keeps this for each huge page."
    )
    yield f"{wrapped(line)}\n{rendered(table)}"
