"""The table of RAM on several architectures."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from extmeta.reports.figures import for_each, share
from extmeta.reports.head import refused_lines, words_line
from extmeta.reports.layout import (
    ENCODINGS_ACROSS,
    add_row,
    new_table,
    plain,
    rendered,
    wrapped,
)
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, Point, Refused

Extra = Callable[[Comparison, Point, str], int | None]


def by_space(found: Iterable[Comparison]) -> list[list[Comparison]]:
    """Group comparisons of one address space on several architectures.

    Timed comparisons are not grouped: they would not fit a table.
    """
    groups: list[list[Comparison]] = []
    for c in found:
        last = groups[-1][-1] if groups else None
        same = last and not (last.bound or c.bound) and _about(last) == _about(c)
        if last and same and last.subject.arch != c.subject.arch:
            groups[-1].append(c)
        else:
            groups.append([c])
    return groups


def _about(c: Comparison) -> object:
    s = c.subject
    return s.name, s.sha256, s.fields, s.words, c.points


def arches_tables(found: Sequence[Comparison]) -> Iterator[str]:
    """Yield the head and the tables of an address space on several architectures."""
    s = found[0].subject
    lines = [
        f"{plain(s.name)}, on {len(found)} architectures: RAM beyond {BASELINE}'s",
        words_line(s),
    ]
    # A line that applies to several architectures is printed once.
    notes: dict[str, list[str]] = {}
    refused: dict[tuple[str, str], list[Refused]] = {}
    on: dict[tuple[str, str], list[str]] = {}
    for c in found:
        for note in filter(None, c.subject.note.split("; ")):
            notes.setdefault(note, []).append(c.subject.arch)
        for row in c.refused:
            key = row.encoding, row.where
            refused.setdefault(key, []).append(row)
            on.setdefault(key, []).append(c.subject.arch)
    there = [c.subject.arch for c in found]
    for note, arches in notes.items():
        lines.append(f"{_of(arches, there)}: {plain(note)}.")
    for key, rows in refused.items():
        reasons = len({row.why for row in rows})
        example = f"on {on[key][0]}, for example, " if reasons > 1 else ""
        lines += [
            f"{_of(on[key], there)}: {example}{line}"
            for line in refused_lines(rows[:1])
        ]
    yield "\n".join(wrapped(line, indent=2) for line in lines)
    names = list(dict.fromkeys(name for c in found for name in c.encodings))
    for point in found[0].points:
        for at in range(0, len(names), ENCODINGS_ACROSS):
            some = names[at : at + ENCODINGS_ACROSS]
            yield _arches_table(found, point, some)


def _of(arches: Sequence[str], there: Sequence[str]) -> str:
    """Return "On A, B", or "All but C, D" if that is shorter."""
    others = [plain(name) for name in there if name not in arches]
    if not others:
        return "All"
    if len(others) < len(arches):
        return f"All but {', '.join(others)}"
    return f"On {', '.join(map(plain, arches))}"


def _arches_table(
    found: Sequence[Comparison], point: Point, names: Sequence[str]
) -> str:
    heads = [plain(name).replace(":", "\n:") for name in names]
    table = new_table(f"RAM, {plain(str(point))}", heads, 25, 8)

    def section(title: str, extra: Extra, show: Any) -> None:
        add_row(table, title, [])
        for c in found:
            base = c.ram[point, BASELINE]
            more = [extra(c, point, name) for name in names]
            cells = ["" if n is None else show(n, base) for n in more]
            add_row(table, f" {c.subject.arch}", cells)

    section(
        "% of page tables, pages",
        Comparison.extra_pages,
        lambda n, base: share(n, base.pages),
    )
    section(
        "bytes/flagged PTE",
        Comparison.extra,
        lambda n, base: for_each(n, base.flagged),
    )
    return rendered(table)
