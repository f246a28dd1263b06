"""The tables of RAM at each point: bytes, blocks that break, splits of huge pages."""

from collections.abc import Iterator, Sequence
from typing import Any

from extmeta.reports.figures import count, share, size
from extmeta.reports.layout import (
    POINTS_ACROSS,
    add_row,
    new_table,
    plain,
    rendered,
    wrapped,
)
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, Point


def ram_tables(c: Comparison) -> Iterator[str]:
    """Yield the tables of RAM, as many points in each as fit."""
    for at in range(0, len(c.points), POINTS_ACROSS):
        yield _ram_table(c, c.points[at : at + POINTS_ACROSS])


def _ram_table(c: Comparison, points: Sequence[Point]) -> str:
    heads = [plain(str(point)).replace(" ", "\n") for point in points]
    table = new_table("RAM", heads, 17, 9)

    def section(title: str, names: Sequence[str], cells: list[list[str]]) -> None:
        add_row(table, title, [])
        for name, line in zip(names, cells, strict=True):
            add_row(table, f"  {name}", line)

    base = [c.ram[point, BASELINE] for point in points]
    add_row(table, "PTEs flagged", [count(row.flagged) for row in base])
    extra = {
        name: [c.extra(point, name) for point in points]
        for name in (BASELINE, *c.encodings)
    }
    rivals = list(extra)[1:]

    def cells(name: str, show: Any) -> list[str]:
        return [
            "" if nbytes is None else show(nbytes, row)
            for nbytes, row in zip(extra[name], base, strict=True)
        ]

    section(
        "beside the tables",
        list(extra),
        [cells(name, lambda n, add_row: size(n)) for name in extra],
    )
    section(
        "% of page tables",
        rivals,
        [cells(name, lambda n, row: share(n, row.total)) for name in rivals],
    )
    section(
        "% of present RAM",
        rivals,
        [
            cells(name, lambda n, add_row: share(n, c.subject.present_bytes))
            for name in rivals
        ],
    )
    section(
        "bytes/flagged PTE",
        rivals,
        [
            cells(
                name,
                lambda n, row: f"{n / row.flagged:,.1f}" if row.flagged else "-",
            )
            for name in rivals
        ],
    )
    moved = {
        name: [c.ram.get((point, name)) for point in points]
        for name in rivals
        if any(
            row.repointings is not None
            for (_point, of), row in c.ram.items()
            if of == name
        )
    }
    if moved:
        section(
            "tables re-pointed",
            list(moved),
            [
                ["" if r is None else count(r.repointings or 0) for r in rows]
                for rows in moved.values()
            ],
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
        heads = [plain(str(point)).replace(" ", "\n") for point in points]
        table = new_table("encoding", heads, 17, 9)
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
        each = row.nbytes / row.leaves
        add_row(table, row.encoding, [size(each), size(each * c.subject.nr_deposited)])
    line = (
        f"What a split of anonymous huge pages takes: {c.splits[0].leaves:,} of "
        f"{c.subject.nr_deposited:,} were split, and all PTEs of each got one word, the "
        "one that the huge page has. The PTE tables are the deposited ones, which "
        "the RAM above has, with their side pages where an encoding always has one."
    )
    yield f"{wrapped(line)}\n{rendered(table)}"
