"""A comparison in brief: the verdict, then the figures that it comes from.

At most 60 lines if one address space was compared. What needs more room is in
`comparison`, which has everything.
"""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from extmeta.cost.kernel import prototype
from extmeta.reports import comparison
from extmeta.reports.document import letter, sections
from extmeta.reports.figures import MARK, UNSTABLE, share, size, unstable
from extmeta.reports.head import refused_lines
from extmeta.reports.layout import plain
from extmeta.reports.notes import made
from extmeta.reports.ram import with_links
from extmeta.reports.subjects import Comparison, by_subject
from extmeta.reports.verdict import headline, verdict
from extmeta.rows import BASELINE, CONTROL, EACH, INDEXED, SET_ASIDE, Point, Row

COLUMNS = 80

LETTER_COLUMNS = letter.COLUMNS

WORDS = (
    "A word is the metadata of one PTE, made of named fields. The flag is a bit of the "
    "PTE that says it has a word."
)

# The most important first: a narrow table has fewer.
OPERATIONS = ("fork", "scan", "update", "load", "store")

# Widths of a table's first column and of its cells.
NAME, RATIO, BYTES = 16, 6, 10

# Forms and operations of a kernel's table.
FORMS = (
    "linked, no word",
    "linked, each word copied in the loop",
    "linked, side page copied at once",
    "adjacent, no word",
)
KERNEL = (("fork_1st", "fork"), ("mprotect_ro", "mprotect"), ("munmap", "munmap"))


def text(
    rows: Iterable[Row], provenance: dict[str, Any], columns: int = COLUMNS
) -> str:
    """Return a comparison in brief, or all of it if there are several address spaces.

    All of it has 100 columns, or 72 if ``columns`` are fewer than `COLUMNS`.

    Raises
    ------
    ValueError
        If the first row is no Subject.
    """
    rows = [*rows]
    if provenance.get("charge_links"):
        rows = with_links(rows)
    found = by_subject(rows)
    if len(found) != 1 or not found[0].points or found[0].points[0].placement == EACH:
        if columns < COLUMNS:
            return letter.text(sections.document(rows, provenance))
        return full(rows, {**provenance, "charge_links": False})
    (c,) = found
    parts = [
        textwrap.fill(f"{_what(c)} {WORDS}", columns),
        said(rows, provenance, columns),
        _ram(c, columns),
        _cpu(c, columns),
        _kernel(c, columns),
        textwrap.fill(f"{_end(c)} {made(provenance)}", columns),
    ]
    return "\n\n".join(part for part in parts if part)


def full(rows: Iterable[Row], provenance: dict[str, Any]) -> str:
    """Return the verdict, and then all that `comparison.text` has."""
    rows = [*rows]
    parts = (said(rows, provenance), comparison.text(rows, provenance))
    return "\n\n".join(part for part in parts if part)


def said(
    rows: Sequence[Row], provenance: dict[str, Any], columns: int = COLUMNS
) -> str:
    """Return the verdict as a list, broken to the columns."""
    return "\n".join(
        textwrap.fill(
            plain(line),
            columns,
            initial_indent="* ",
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
        for line in verdict(rows, provenance)
    )


def _what(c: Comparison) -> str:
    s = c.subject
    huge = f", {s.nr_huge:,} huge pages, which have no PTE and so no word" * bool(
        s.nr_huge
    )
    return (
        f"{plain(s.name)}: {s.nr_ptes:,} PTEs in {s.nr_tables:,} PTE tables, "
        f"{size(s.present_bytes)} present{huge}; {plain(s.arch)}."
        f" {plain(s.note)[:1].upper()}{plain(s.note)[1:]}".rstrip()
    )


def _line(name: str, cells: Iterable[str], width: int) -> str:
    shown = f"{name[: NAME - 1]:<{NAME}}" + "".join(f"{c:>{width}}" for c in cells)
    return shown.rstrip()


def _folded(lines: Sequence[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """Leave out a form whose line equals that of the encoding it is a form of."""
    cells = dict(lines)
    return [
        (name, line)
        for name, line in lines
        if not (":" in name and cells.get(name.partition(":")[0]) == line)
    ]


def _alike(c: Comparison, points: Sequence[Point], form: str) -> bool:
    """Tell whether the ratios of a form can't be told from those of its encoding."""
    name = form.partition(":")[0]
    pairs = [
        (row, c.cpu.get((at, name, op)))
        for (at, encoding, op), row in c.cpu.items()
        if encoding == form and at in points
    ]
    return name != form and all(
        other and row.low <= other.high and other.low <= row.high
        for row, other in pairs
    )


def _ram(c: Comparison, columns: int) -> str:
    """Return whole pages beside the page tables, and what a kernel sets aside."""
    many = headline(c) or c.points[0]
    splits = {row.encoding: row for row in c.splits}
    across = (columns - NAME) // BYTES - 2 - bool(splits)
    points = [p for p in c.points if p.placement in ("", many.placement)]
    points = [*points[: across - 1], points[-1]] if len(points) > across else points
    lines = []
    for name in c.encodings:
        if name == INDEXED:
            continue
        cells = []
        for point in points:
            extra = c.extra_pages(point, name)
            cells.append("" if extra is None else size(extra))
        extra = c.extra_pages(many, name)
        of = c.ram[many, BASELINE].pages
        cells.append("" if extra is None else share(extra, of))
        demand = c.demands.get((name, SET_ASIDE))
        aside = demand.aside if demand else None
        cells.append("-" if aside is None else size(aside))
        if splits:
            split = splits.get(name)
            cells.append(size(split.all(c.subject.nr_deposited)) if split else "")
        lines.append((name, cells))
    heads = [*(f"{100 * p.fraction:.3g}%" for p in points)]
    heads += [f"{100 * many.fraction:.3g}%", "a table"]
    kinds = [*(p.placement for p in points), "of tables", "set aside"]
    if splits:
        heads.append("all huge")
        kinds.append("split")
    title = (
        f"RAM in whole pages beside {size(c.ram[many, BASELINE].pages)} of page tables, "
        "by flagged PTEs. Set aside: kept free because a kernel can't allocate under a "
        "table's lock."
    )
    if splits:
        title += (
            f" All huge split: what it takes beside the deposited PTE tables to give the "
            f"PTEs of {c.subject.nr_deposited:,} anonymous huge pages the word that each "
            "page has."
        )
    shown = [_line(plain(name), cells, BYTES) for name, cells in _folded(lines)]
    return "\n".join(
        [
            textwrap.fill(title, columns),
            _line("", heads, BYTES),
            _line("", kinds, BYTES),
            *shown,
        ]
    )


def _cpu(c: Comparison, columns: int) -> str:
    """Return ratios where few and where all PTEs are flagged."""
    timed = {at for at, _encoding, _operation in c.cpu}
    flagged = [p for p in c.points if p in timed and p.fraction]
    if not flagged:
        return ""
    first = headline(c)
    points = [*dict.fromkeys((first if first in timed else flagged[0], flagged[-1]))]
    there = {op for at, _encoding, op in c.cpu if at in points}
    across = (columns - NAME) // (RATIO * len(points))
    operations = [op for op in OPERATIONS if op in there][:across]

    def cell(point: Point, name: str, op: str) -> str:
        row = c.cpu.get((point, name, op))
        if row is None:
            return ""
        mark = MARK * unstable(row, c.cpu.get((point, CONTROL, op)))
        return f"{row.ratio:.{2 if row.ratio < 9.95 else 0}f}{mark or ' '}"

    lines = [
        (name, [cell(p, name, op) for p in points for op in operations])
        for name in (CONTROL, *c.encodings)
        if any((p, name) in c.timed for p in points) and not _alike(c, points, name)
    ]
    heads = "".join(
        f"{f'{100 * p.fraction:.3g}% {p.placement}'.strip():>{RATIO * len(operations)}}"
        for p in points
    )
    title = (
        f"CPU time over in-PTE's. {CONTROL}: the noise. {MARK}: uncertain by {UNSTABLE:.0%} "
        "or more."
    )
    names = [f"{op} " for op in operations] * len(points)
    return "\n".join(
        [textwrap.fill(title, columns), f"{'':<{NAME}}{heads}"]
        + [_line("", names, RATIO)]
        + [_line(plain(name), cells, RATIO) for name, cells in lines]
    )


def _kernel(c: Comparison, columns: int) -> str:
    """Return what a prototype adds to a kernel's own operations, in brief."""
    if not c.cpu:
        return ""
    p = prototype.shipped()
    title = (
        f"Instructions that words add in a kernel, a prototype of Linux "
        f"{p.kernel.split(',')[0]}, beside the same kernel without a word. Rows of no word "
        "are beside the stock kernel, for which gcc makes other code."
    )
    width = max(map(len, FORMS)) + 1
    heads = "".join(f"{head:>10}" for _op, head in KERNEL)
    lines = [
        f"{form:<{width}}"
        + "".join(f"{100 * p.extra(op, form):>+9.1f}%" for op, _head in KERNEL)
        for form in FORMS
    ]
    return "\n".join([textwrap.fill(title, columns), " " * width + heads, *lines])


def _end(c: Comparison) -> str:
    """Return which encodings lack figures, and where there are more."""
    whole = {row.encoding: None for row in c.refused if not row.where}
    lines = list(refused_lines([row for row in c.refused if row.encoding not in whole]))
    if whole:
        lines.append(
            f"Left out, since the words don't fit: {', '.join(map(plain, whole))}."
        )
    return " ".join([*lines, "--full measures and prints more."])
