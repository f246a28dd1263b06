"""Results as text and as JSON: pure functions of rows.

A comparison's text is 100 columns wide, the baseline first, and needs no
colour. Its JSON holds the rows and where they come from, so that the same text
can be printed again.
"""

import dataclasses
import functools
import io
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import UnionType
from typing import Any, get_args, get_origin

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extmeta.cost.kernel import costs
from extmeta.cost.kernel.costs import Calibration
from extmeta.reports import calibration as real
from extmeta.rows import (
    BASELINE,
    CONTROL,
    EACH,
    OPERATIONS,
    SET_ASIDE,
    Blocks,
    Bound,
    Counted,
    Cpu,
    Demand,
    Point,
    Ram,
    Refused,
    Row,
    Split,
    Subject,
    smallest,
)

COLUMNS = 100

# Side by side in the tables of RAM and CPU: what 100 columns hold.
POINTS_ACROSS = 8
OPERATIONS_ACROSS = 7
ENCODINGS_ACROSS = 8

# A ratio is marked where its interval reaches farther than this, or where the
# baseline differs from itself by as much: three times what is usual on a shared
# two-core guest.
UNSTABLE = 0.10
MARK = "?"

# Of a table's smallest.
LEAST = "*"

FORMAT = "extmeta comparison 1"

KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (*(Subject, Bound, Refused, Ram, Cpu, Counted, Demand, Blocks, Split),)
}

# What `workload.words` calls kinds of words.
WORDS = {
    "one": "the same word for all PTEs",
    "few": "one of eight words for each PTE",
    "byte": "random words of 8 bits",
    "different": "all different as far as their bits allow",
}

NOT_MODELLED = (
    "Not in the model, and so in none of these numbers: the TLB and the hardware "
    "walker, waiting for locks, references to struct page, write-protecting at fork, and the "
    "kernel's page allocator (ours has its pages at hand, and zeroes only tables)."
)
NO_HUGE = "Nor are huge pages, which have no word: there are none here."
HUGE = "Huge pages have no PTE, and so no word in any encoding."
UNMARKED = (
    "Huge pages have no PTE, and so no word in any encoding; the capture does not say "
    "which PTEs are in fact parts of them."
)


# -- numbers ----------------------------------------------------------------


def plain(text: str) -> str:
    """Return text on one line, without what would steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def size(nbytes: float) -> str:
    """Return bytes in binary units, as in "704 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(nbytes) < 1024 or unit == "TiB":
            break
        nbytes /= 1024
    digits = 1 if unit != "B" and abs(nbytes) < 9.95 else 0
    return f"{nbytes:,.{digits}f} {unit}"


def count(number: int) -> str:
    """Return a number, in millions where it is long."""
    return f"{number:,}" if number < 10**7 else f"{number / 1e6:,.1f} M"


def share(part: float, whole: float) -> str:
    """Return a part of a whole in percent."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    if percent and abs(percent) < 0.005:
        return "<0.01%"
    digits = 0 if percent == 0 or abs(percent) >= 99.5 else 1
    if 0 < abs(percent) < 9.95:
        digits = 2 if abs(percent) < 0.995 else 1
    return f"{percent:,.{digits}f}%"


def nanoseconds(ns: float) -> str:
    """Return nanoseconds with about three digits, without the unit."""
    digits = 2 if ns < 9.995 else 1 if ns < 99.95 else 0
    return f"{ns:,.{digits}f}"


def reach(row: Cpu) -> float:
    """Return how far the interval reaches from the ratio, on its longer side."""
    return max(row.high / row.ratio, row.ratio / row.low) - 1


def ratio(row: Cpu, floor: Cpu | None) -> str:
    """Return a ratio with its interval, marked if it is unstable.

    Parameters
    ----------
    row : Cpu
    floor : Cpu, optional
        The same operation of the baseline against itself, at the same point.
    """
    value = row.ratio
    if value < 0.01:
        text = f"{value:.2g}"
    else:
        digits = 3 if value < 0.0995 else 2 if value < 9.995 else 1
        text = f"{value:,.{digits if value < 99.95 else 0}f}"
    text += f" ±{math.ceil(100 * min(reach(row), 9.99))}%"
    return text + (MARK if unstable(row, floor) else "")


def unstable(row: Cpu, floor: Cpu | None) -> bool:
    """Tell whether a ratio is not to be relied on."""
    off = floor is not None and max(floor.ratio, 1 / floor.ratio) - 1 > UNSTABLE
    return off or reach(row) > UNSTABLE


# -- a comparison as text -----------------------------------------------------


@dataclasses.dataclass
class _Comparison:
    """The rows of one subject, found by what they are about."""

    subject: Subject
    bound: Bound | None = None
    refused: list[Refused] = dataclasses.field(default_factory=list)
    ram: dict[tuple[Point, str], Ram] = dataclasses.field(default_factory=dict)
    cpu: dict[tuple[Point, str, str], Cpu] = dataclasses.field(default_factory=dict)
    counted: dict[tuple[float, str, str], float] = dataclasses.field(
        default_factory=dict
    )
    demands: dict[tuple[str, str], Demand] = dataclasses.field(default_factory=dict)
    blocks: dict[tuple[Point, str], Blocks] = dataclasses.field(default_factory=dict)
    splits: list[Split] = dataclasses.field(default_factory=list)

    @property
    def points(self) -> list[Point]:
        return [point for point, encoding in self.ram if encoding == BASELINE]

    @property
    def encodings(self) -> list[str]:
        names = [name for _point, name in self.ram]
        names += [name for _point, name, _operation in self.cpu]
        return [n for n in dict.fromkeys(names) if n not in (BASELINE, CONTROL)]

    @property
    def timed(self) -> set[tuple[Point, str]]:
        return {(point, encoding) for point, encoding, _operation in self.cpu}

    def extra(self, point: Point, encoding: str) -> int | None:
        """Return the bytes an encoding holds beyond the baseline."""
        base, row = self.ram.get((point, BASELINE)), self.ram.get((point, encoding))
        return None if base is None or row is None else row.total - base.total


def _comparisons(rows: Iterable[Row]) -> list[_Comparison]:
    found: list[_Comparison] = []
    for row in rows:
        if isinstance(row, Subject):
            found.append(_Comparison(row))
        elif not found:
            raise ValueError("rows before the subject they are about")
        elif isinstance(row, Bound):
            found[-1].bound = row
        elif isinstance(row, Refused):
            found[-1].refused.append(row)
        elif isinstance(row, Ram):
            found[-1].ram[Point(row.fraction, row.placement), row.encoding] = row
        elif isinstance(row, Counted):
            at = row.fraction, row.encoding, row.operation
            found[-1].counted[at] = row.instructions
        elif isinstance(row, Demand):
            found[-1].demands[row.encoding, row.operation] = row
        elif isinstance(row, Blocks):
            found[-1].blocks[Point(row.fraction, row.placement), row.encoding] = row
        elif isinstance(row, Split):
            found[-1].splits.append(row)
        else:
            point = Point(row.fraction, row.placement)
            found[-1].cpu[point, row.encoding, row.operation] = row
    return found


def text(rows: Iterable[Row], provenance: dict[str, Any]) -> str:
    """Return a comparison for people, 100 columns wide.

    Parameters
    ----------
    rows : iterable of Row
        As `compare.sweep` yields them; several sweeps one after the other.
        What an interrupted one lacks is left out.
    provenance : dict
        See `origin.provenance`.

    Raises
    ------
    ValueError
        If the first row is no Subject.
    """
    parts: list[str] = []
    found = _comparisons(rows)
    for c, *more in _alike(found):
        if more:
            parts += _arches([c, *more])
        elif any(point.placement == EACH for point in c.points):
            parts += _crossover(c)
        else:
            parts += [_head(c), *_ram(c), *_blocks(c), *_splits(c), *_cpu(c)]
            parts.append(_read_bound(c))
            parts += _demands(c)
            parts += [*_of_the_kernels(c, provenance), *_counted(c, provenance)]
    parts += [_notes(found), _made(provenance)]
    return "\n\n".join(part for part in parts if part)


def _head(c: _Comparison) -> str:
    s = c.subject
    base = next((row for (_p, name), row in c.ram.items() if name == BASELINE), None)
    tables = "" if base is None else f", {size(base.total)} of page tables"
    huge = f" ({s.nr_huge:,} huge pages)" if s.nr_huge else ""
    if s.nr_deposited:
        huge = f" ({s.nr_huge:,} huge pages, {s.nr_deposited:,} of them anonymous)"
    what = (
        f"{plain(s.name)}: {s.nr_ptes:,} PTEs in {s.nr_tables:,} PTE tables "
        f"({s.nr_ptes / s.nr_tables if s.nr_tables else 0:.0f} a table){tables}, "
        f"{size(s.present_bytes)} present{huge}; {plain(s.arch)}"
    )
    lines = [what, _words(s)]
    if s.note:
        lines.append(f"{plain(s.note)[:1].upper()}{plain(s.note)[1:]}.")
    if s.nr_unplaced:
        lines.append(
            f"{s.nr_unplaced:,} huge pages are counted as 512 PTEs each: the kernel did "
            "not tell where they are."
        )
    if s.nr_unmarked:
        lines.append(
            f"Up to {s.nr_unmarked:,} anonymous huge pages may be counted as 512 PTEs "
            "each: this capture was made before they were marked. A new one tells."
        )
    if s.baseline_lacks:
        instead = (
            "The same PTEs are flagged. Their words are cut to these bits, none to 0"
            if s.baseline_fields.keys() <= s.fields.keys()
            else "It is a tracker that Linux owns there, set if a PTE is flagged"
        )
        lines.append(
            f"{BASELINE} can't hold them: {plain(s.baseline_lacks)}. As denominator it "
            f"has {_fields(s.baseline_fields)}. {instead}."
        )
    if s.cleared:
        lines.append(
            f"mprotect clears bits of a present PTE ({plain(s.cleared)}) in which "
            f"{BASELINE} has words or other encodings have the flag. A kernel that uses "
            "them has to add them to _PAGE_CHG_MASK, which is one line."
        )
    lines += _refused(c.refused)
    return "\n".join(_wrapped(line, indent=2) for line in lines)


def _refused(rows: Sequence[Refused]) -> Iterator[str]:
    """Yield a sentence for each encoding and reason."""
    whole = {row.encoding for row in rows if not row.where}
    places: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row.where or row.encoding not in whole:
            places.setdefault((row.encoding, row.why), []).append(row.where)
    for (name, why), where in places.items():
        lacks = "is left out"
        if all(where):
            lacks = f"lacks figures for {'; '.join(map(plain, dict.fromkeys(where)))}"
        yield f"{plain(name)} {lacks}: {plain(why)}."


def _words(s: Subject) -> str:
    return f"Words of {_fields(s.fields)}, {WORDS.get(s.words, plain(s.words))}."


def _fields(fields: dict[str, int]) -> str:
    bits = sum(fields.values())
    named = ", ".join(f"{plain(name)}={width}" for name, width in fields.items())
    return f"{named} ({bits} bit{'s' if bits > 1 else ''})"


def _wrapped(line: str, indent: int = 0) -> str:
    return textwrap.fill(line, COLUMNS, subsequent_indent=" " * indent)


def _render(table: Table) -> str:
    # An environment of its own: COLUMNS or FORCE_COLOR must not change the text.
    console = Console(
        file=io.StringIO(),
        width=COLUMNS,
        color_system=None,
        force_terminal=False,
        highlight=False,
        _environ={},
    )
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _table(first: str, columns: Sequence[str], name_width: int, width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(
        Text(first), width=name_width, no_wrap=True, overflow="ellipsis", style=""
    )
    for column in columns:
        table.add_column(Text(column), justify="right", width=width, no_wrap=True)
    return table


def _row(table: Table, name: str, cells: Iterable[str]) -> None:
    table.add_row(Text(plain(name)), *(Text(cell) for cell in cells))


def _ram(c: _Comparison) -> Iterator[str]:
    for at in range(0, len(c.points), POINTS_ACROSS):
        yield _ram_table(c, c.points[at : at + POINTS_ACROSS])


def _ram_table(c: _Comparison, points: Sequence[Point]) -> str:
    heads = [plain(str(point)).replace(" ", "\n") for point in points]
    table = _table("RAM", heads, 17, 9)

    def section(title: str, names: Sequence[str], cells: list[list[str]]) -> None:
        _row(table, title, [])
        for name, line in zip(names, cells, strict=True):
            _row(table, f"  {name}", line)

    base = [c.ram[point, BASELINE] for point in points]
    _row(table, "PTEs flagged", [count(row.flagged) for row in base])
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
        [cells(name, lambda n, _row: size(n)) for name in extra],
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
            cells(name, lambda n, _row: share(n, c.subject.present_bytes))
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
    return _render(table)


def _blocks(c: _Comparison) -> Iterator[str]:
    if not c.blocks:
        return
    row = next(iter(c.blocks.values()))
    bound = "" if row.known_by == "PFNs" else ", at most: PFNs are not known"
    yield _wrapped(
        f"Contiguous blocks of {row.size} PTEs that words break, of {row.without:,}"
        f"{bound}. Linux folds PTEs that are alike, so a flag or a word in some of them "
        "costs the block its one TLB entry.",
        indent=2,
    )
    for at in range(0, len(c.points), POINTS_ACROSS):
        points = c.points[at : at + POINTS_ACROSS]
        heads = [plain(str(point)).replace(" ", "\n") for point in points]
        table = _table("encoding", heads, 17, 9)
        for name in (BASELINE, *c.encodings):
            rows = [c.blocks.get((point, name)) for point in points]
            cells = ["" if r is None else share(r.broken, r.without) for r in rows]
            if any(rows):
                _row(table, name, cells)
        yield _render(table)


def _alike(found: Iterable[_Comparison]) -> list[list[_Comparison]]:
    """Put together what is of one address space, on several architectures.

    Only where nothing was timed: those are too much for a table.
    """
    groups: list[list[_Comparison]] = []
    for c in found:
        last = groups[-1][-1] if groups else None
        same = last and not (last.bound or c.bound) and _about(last) == _about(c)
        if last and same and last.subject.arch != c.subject.arch:
            groups[-1].append(c)
        else:
            groups.append([c])
    return groups


def _about(c: _Comparison) -> object:
    s = c.subject
    return s.name, s.sha256, s.fields, s.words, c.points


def _arches(found: Sequence[_Comparison]) -> Iterator[str]:
    s = found[0].subject
    lines = [
        f"{plain(s.name)}, on {len(found)} architectures: RAM beyond {BASELINE}'s",
        _words(s),
    ]
    # What is said of several architectures is said once.
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
            f"{_of(on[key], there)}: {example}{line}" for line in _refused(rows[:1])
        ]
    yield "\n".join(_wrapped(line, indent=2) for line in lines)
    names = list(dict.fromkeys(name for c in found for name in c.encodings))
    for point in found[0].points:
        for at in range(0, len(names), ENCODINGS_ACROSS):
            some = names[at : at + ENCODINGS_ACROSS]
            yield _arches_table(found, point, some)


def _of(arches: Sequence[str], there: Sequence[str]) -> str:
    """Return names, or which they are not where that is shorter."""
    others = [plain(name) for name in there if name not in arches]
    if not others:
        return "All"
    if len(others) < len(arches):
        return f"All but {', '.join(others)}"
    return f"On {', '.join(map(plain, arches))}"


def _arches_table(
    found: Sequence[_Comparison], point: Point, names: Sequence[str]
) -> str:
    heads = [plain(name).replace(":", "\n:") for name in names]
    table = _table(f"RAM, {plain(str(point))}", heads, 25, 8)

    def section(title: str, show: Any) -> None:
        _row(table, title, [])
        for c in found:
            base = c.ram[point, BASELINE]
            extra = [c.extra(point, name) for name in names]
            cells = ["" if n is None else show(n, base) for n in extra]
            _row(table, f" {c.subject.arch}", cells)

    section("% of page tables", lambda n, base: share(n, base.total))
    section(
        "bytes/flagged PTE",
        lambda n, base: f"{n / base.flagged:,.1f}" if base.flagged else "-",
    )
    return _render(table)


def _crossover(c: _Comparison) -> Iterator[str]:
    s = c.subject
    yield _head(c)
    for at in range(0, len(c.encodings), ENCODINGS_ACROSS):
        yield _crossover_table(c, c.encodings[at : at + ENCODINGS_ACROSS])
    leads: list[tuple[str, int, int]] = []
    for point in c.points:
        each = c.ram[point, BASELINE].flagged // (s.nr_tables or 1)
        rows = [c.ram[at] for at in c.ram if at[0] == point]
        lead = smallest(rows, leads[-1][0] if leads else "")
        if leads and leads[-1][0] == lead:
            leads[-1] = (lead, leads[-1][1], each)
        else:
            leads.append((lead, each, each))
    yield _lead(leads)


def _crossover_table(c: _Comparison, names: Sequence[str]) -> str:
    heads = [plain(name).replace(":", "\n:") for name in names]
    table = _table("flagged/table", heads, 13, 10)
    for point in c.points:
        flagged = c.ram[point, BASELINE].flagged
        extra = {name: c.extra(point, name) for name in c.encodings}
        least = min((n for n in extra.values() if n is not None), default=None)
        cells = []
        for name in names:
            n = extra[name]
            shown = "" if n is None or not flagged else f"{n / flagged:,.2f}"
            # Room for the mark in all, so that the digits stay in line.
            cells.append(shown and shown + (LEAST if n == least else " "))
        _row(table, f"{flagged // (c.subject.nr_tables or 1):>13,}", cells)
    return f"bytes/flagged PTE; {LEAST} the smallest\n{_render(table)}"


def _lead(leads: Sequence[tuple[str, int, int]]) -> str:
    """Return a line for each stretch of flagged PTEs in which one is the smallest."""
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


def _cpu(c: _Comparison) -> Iterator[str]:
    for point in c.points:
        timed = {op for at, _encoding, op in c.cpu if at == point}
        # The sweep's in its order, then whatever else was measured.
        operations = [op for op in OPERATIONS if op in timed]
        operations += sorted(timed - {*operations})
        for at in range(0, len(operations), OPERATIONS_ACROSS):
            yield _cpu_table(c, point, operations[at : at + OPERATIONS_ACROSS])


def _cpu_table(c: _Comparison, point: Point, operations: Sequence[str]) -> str:
    table = _table("", operations, 15, 11)
    names = (CONTROL, *c.encodings)
    rows = {name: [c.cpu.get((point, name, op)) for op in operations] for name in names}
    # The baseline's time: of its own pairs, or where these are missing of others'.
    timed = [
        next((r for r in column if r), None)
        for column in zip(*rows.values(), strict=True)
    ]
    _row(
        table,
        f"{BASELINE}, ns/PTE",
        [nanoseconds(row.baseline_ns) if row else "" for row in timed],
    )
    if c.bound and c.subject.nr_ptes and "scan" in operations:
        bound = nanoseconds(bound_ns(c.bound, c.subject))
        _row(
            table,
            "read bound, ns",
            [bound if op == "scan" else "" for op in operations],
        )
    for name in names:
        if any(rows[name]):
            floors = rows[CONTROL]
            cells = zip(rows[name], floors, strict=True)
            _row(table, name, [ratio(r, floor) if r else "" for r, floor in cells])
    flagged = c.ram[point, BASELINE].flagged
    title = (
        f"CPU, {plain(str(point))}: {flagged:,} of {c.subject.nr_ptes:,} PTEs flagged; "
        f"ratio to {BASELINE} and its interval"
    )
    return f"{title}\n{_render(table)}"


def bound_ns(bound: Bound, subject: Subject) -> float:
    """Return how long reading the PTE tables takes at least, in ns for each PTE."""
    return 1e9 * bound.table_bytes / (bound.near_bytes_per_s or 1) / subject.nr_ptes


def _read_bound(c: _Comparison) -> str:
    if not c.bound or not any(op == "scan" for _p, _e, op in c.cpu):
        return ""
    return _wrapped(
        f"read bound: the time to read {size(c.bound.table_bytes)} of PTE tables at "
        f"{size(c.bound.near_bytes_per_s)}/s. An array of that size is read so fast "
        f"if it is read again and again, one of 64 MiB at "
        f"{size(c.bound.far_bytes_per_s)}/s."
    )


def calibrations(provenance: dict[str, Any]) -> dict[str, Calibration]:
    """Return the kernel's costs that results were made with, by part.

    Raises
    ------
    ValueError
        If they are none.
    """
    match provenance.get("calibration") or {}:
        case dict(found):
            there = [name for name in costs.UNITS if found.get(name)]
            return {name: costs.part(name, found[name]) for name in there}
        case found:
            raise ValueError(f"calibration is {str(found)[:40]!r}")


def _of_the_kernels(c: _Comparison, provenance: dict[str, Any]) -> Iterator[str]:
    """Yield what is extra in percent of the kernel's operation, if that is known."""
    if not c.cpu or "calibration" not in provenance:
        return
    host = calibrations(provenance).get("host")
    if host is None:
        yield _wrapped(
            "`extmeta calibrate` measures what the kernel's own operations cost on this "
            "machine. After it, the extra time is printed as a share of that too."
        )
        return

    def cells(at: Point, encoding: str, operation: str, cost: costs.Cost) -> str:
        row = c.cpu.get((at, encoding, operation))
        if row is None:
            return ""
        extra = (row.ratio - 1) * row.baseline_ns
        shaky = unstable(row, c.cpu.get((at, CONTROL, operation)))
        return real.share(extra, cost) + MARK * (shaky or real.wide(cost))

    for point in c.points:
        names = [n for n in (CONTROL, *c.encodings) if (point, n) in c.timed]
        operations = {op for at, _encoding, op in c.cpu if at == point}
        if names and operations:
            title = f"CPU, {plain(str(point))}: extra over {BASELINE}, of the kernel's"
            yield _share_table(
                title, host, names, operations, functools.partial(cells, point)
            )
    where = real.elsewhere(host, provenance.get("kernel"), provenance.get("cpu"))
    if where:
        yield _wrapped(
            f"The kernel's operations were measured elsewhere: {plain(where)}."
        )
    yield _calibrated(host)


def _splits(c: _Comparison) -> Iterator[str]:
    """Yield what a split of anonymous huge pages takes."""
    if not c.splits:
        return
    table = _table("bytes", ["a huge page", "all of them"], 17, 11)
    for row in c.splits:
        each = row.nbytes / row.leaves
        _row(table, row.encoding, [size(each), size(each * c.subject.nr_deposited)])
    line = (
        f"What a split of anonymous huge pages takes: {c.splits[0].leaves:,} of "
        f"{c.subject.nr_deposited:,} were split, and all PTEs of each got one word, the "
        "one that the huge page has. The PTE tables are the deposited ones, which "
        "the RAM above has, with their side pages where an encoding always has one."
    )
    yield f"{_wrapped(line)}\n{_render(table)}"


def _demands(c: _Comparison) -> Iterator[str]:
    """Yield what operations ask of a kernel: memory set aside, flushes."""
    if not c.demands:
        return
    names = list(dict.fromkeys(name for name, _operation in c.demands))
    operations = list(dict.fromkeys(operation for _name, operation in c.demands))
    asking, silent = [SET_ASIDE], []
    for operation in operations[1:]:
        rows = [row for (_name, of), row in c.demands.items() if of == operation]
        if any(row.aside or row.repointings for row in rows):
            asking.append(operation)
        elif any(row.aside is not None for row in rows):
            silent.append(operation)
    heads = ["\n".join(textwrap.wrap(operation, 10)) for operation in asking]
    table = _table("bytes a table", heads, 17, 10)
    for name in names:
        found = [c.demands.get((name, operation)) for operation in asking]
        cells = ["-" if r is None or r.aside is None else size(r.aside) for r in found]
        _row(table, name, cells)
    moved = dict.fromkeys(r.encoding for r in c.demands.values() if r.repointings)
    if moved:
        _row(table, "tables re-pointed", [])
    for name in moved:
        found = [c.demands.get((name, operation)) for operation in asking]
        cells = ["" if row is None else f"{row.repointings:g}" for row in found]
        _row(table, f"  {name}", cells)
    lines = [
        "Memory that a kernel sets aside, because it can't allocate under the "
        "page-table lock. The table has the bytes for one PTE table all of whose PTEs "
        "have a word: what is set aside so that any operation can be done, and what "
        "each operation takes of it. The PTE table of a split comes on top. These take "
        f"nothing in any encoding: {', '.join(silent) or '-'}. fork and move may "
        "allocate. "
        + (
            "Each table that is re-pointed takes one TLB flush more than the operation "
            "itself does. Encodings without a row there re-point none."
            if moved
            else "No table is re-pointed, which would take a TLB flush."
        )
    ]
    yield "\n".join((*map(_wrapped, lines), _render(table)))


def _counted(c: _Comparison, provenance: dict[str, Any]) -> Iterator[str]:
    """Yield what is extra in instructions, and in percent of the kernel's."""
    guest = calibrations(provenance).get("guest") if c.counted else None
    if guest is None:
        return

    def cells(at: float, encoding: str, operation: str, cost: costs.Cost) -> str:
        base = c.counted.get((at, BASELINE, operation))
        ours = c.counted.get((at, encoding, operation))
        return "" if base is None or ours is None else real.share(ours - base, cost)

    for fraction in dict.fromkeys(at for at, _encoding, _operation in c.counted):
        found = [(name, op) for at, name, op in c.counted if at == fraction]
        names = [n for n in dict.fromkeys(name for name, _op in found) if n != BASELINE]
        operations = {op for _name, op in found}
        title = (
            f"instructions, {100 * fraction:g}%: extra over {BASELINE}, of the kernel's"
        )
        yield _share_table(
            title, guest, names, operations, functools.partial(cells, fraction)
        )
    yield _calibrated(guest)


def _share_table(
    title: str,
    of: Calibration,
    names: Sequence[str],
    operations: set[str],
    cell: Callable[[str, str, costs.Cost], str],
) -> str:
    columns = [
        (ours, label, cost)
        for ours, theirs, label in real.ALIKE
        if ours in operations and (cost := of.cost(theirs))
    ]
    heads = [f"{ours}\n{label}" for ours, label, _cost in columns]
    table = _table("", heads, 15, 11)
    unit = f"kernel, {of.unit}" if of.unit == "ns" else "kernel, instr."
    _row(table, unit, [real.number(cost.median) for _ours, _label, cost in columns])
    for name in names:
        _row(table, name, [cell(name, ours, cost) for ours, _label, cost in columns])
    return f"{title}\n{_render(table)}"


def _calibrated(of: Calibration) -> str:
    shipped = " (ships with extmeta)" if of == costs.shipped() else ""
    return _wrapped(
        f"The kernel's {of.unit} per PTE: Linux {plain(of.kernel)}, {plain(of.cpu)}, "
        f"`{plain(of.command)}`, {plain(of.date)[:10]}{shipped}. {real.LEGEND} "
        f"{real.LEFT_OUT}"
    )


def _notes(found: Sequence[_Comparison]) -> str:
    lines = []
    if any(c.cpu for c in found):
        lines.append(
            f"Ratios are of paired runs, median ± the longer side of the 95% interval; "
            f"below 1 is faster than {BASELINE}. {CONTROL}: another table of it, the "
            "noise floor."
        )
    marked = (
        unstable(row, c.cpu.get((point, CONTROL, operation)))
        for c in found
        for (point, _encoding, operation), row in c.cpu.items()
    )
    if any(marked):
        lines.append(
            f"{MARK} unstable: the interval reaches more than {100 * UNSTABLE:.0f}% "
            f"from the ratio, or {BASELINE} differs from itself by as much. Run it "
            "again with nothing else running."
        )
    slack = max((row.slack for c in found for row in c.ram.values()), default=0)
    if slack:
        lines.append(
            "Side memory is allocated in pages. What is free in them for further words, "
            f"up to {size(slack)}, is not counted. The JSON has it."
        )
    huge = NO_HUGE
    if any(c.subject.nr_unmarked for c in found):
        huge = UNMARKED
    if any(c.subject.nr_huge or c.subject.nr_unplaced for c in found):
        huge = HUGE
    lines.append(f"{NOT_MODELLED} {huge}")
    return "\n".join(_wrapped(line) for line in lines)


def _made(provenance: dict[str, Any]) -> str:
    p = {key: plain(str(value)) for key, value in provenance.items()}
    commit = f" ({p['commit']})" if p.get("commit") else ""
    line = (
        f"extmeta {p.get('extmeta')}{commit}, Linux {p.get('kernel')}, {p.get('cpu')}, "
        f"{p.get('cpus')} CPUs, Python {p.get('python')}, numpy {p.get('numpy')}, "
        f"seed {p.get('seed')}, {p.get('date')}"
    )
    return _wrapped(line)


# -- a comparison as JSON -----------------------------------------------------


def to_json(
    rows: Iterable[Any],
    provenance: dict[str, Any],
    complete: bool = True,
    format: str = FORMAT,
    missing: Sequence[str] = (),
) -> str:
    """Return rows and their provenance as JSON, bytes and ns as they are.

    Parameters
    ----------
    rows : iterable of Row
    provenance : dict
    complete : bool
        False if the sweep was interrupted.
    format : str, optional
        Of other rows.
    missing : sequence of str, optional
        What rows lack that are not complete.
    """
    document = {
        "format": format,
        "complete": complete,
        **({} if complete else {"missing": [*missing]}),
        "provenance": provenance,
        "rows": [
            {"row": type(row).__name__, **dataclasses.asdict(row)} for row in rows
        ],
    }
    return json.dumps(document, indent=1)


def from_json(document: str) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows and the provenance that `to_json` wrote.

    Raises
    ------
    ValueError
        If it is no such JSON, with the value that is wrong.
    """
    rows, provenance = rows_of(document, FORMAT, KINDS)
    _comparisons(rows)
    calibrations(provenance)
    return rows, provenance


def rows_of(
    document: str, format: str, kinds: dict[str, type]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the rows of some kinds, and the provenance, that JSON has.

    Raises
    ------
    ValueError
        If it is no such JSON, with the value that is wrong.
    """
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != format:
        raise ValueError(f"not an {format}: no JSON that `compare --json` has written")
    match found:
        case {"provenance": dict(provenance), "rows": list(raw)}:
            rows = [_read_row(number, row, kinds) for number, row in enumerate(raw)]
        case _:
            raise ValueError("it lacks rows or their provenance")
    return rows, provenance


def _read_row(number: int, found: Any, kinds: dict[str, type]) -> Any:
    kind = kinds.get(str(found.get("row"))) if isinstance(found, dict) else None
    if kind is None:
        raise ValueError(f"row {number} is of no known kind")
    values = {}
    for field in dataclasses.fields(kind):
        default = None if field.default is dataclasses.MISSING else field.default
        value = found.get(field.name, default)
        if not _fits(value, field.type):
            raise ValueError(
                f"row {number}, a {kind.__name__}: {field.name} is {value!r}"
            )
        values[field.name] = value
    row = kind(**values)
    if isinstance(row, Cpu) and not min(row.ratio, row.low, row.high) > 0:
        raise ValueError(f"row {number}, a Cpu: a ratio of 0")
    return row


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether a value out of JSON can be a row's."""
    if isinstance(kind, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is dict:
        _key, of = get_args(kind)
        return isinstance(value, dict) and all(_fits(v, of) for v in value.values())
    if get_origin(kind) is list:
        (of,) = get_args(kind)
        return isinstance(value, list) and all(_fits(v, of) for v in value)
    if isinstance(value, bool):
        return False
    if kind in (int, float):
        if isinstance(value, int):
            return 0 <= value < 1 << 64
        return kind is float and isinstance(value, float) and 0 <= value < math.inf
    return isinstance(value, kind)
