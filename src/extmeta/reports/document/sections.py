"""Puts a report together out of rows: its sections in their order."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from extmeta.cost.kernel import prototype
from extmeta.reports import calibration as real
from extmeta.reports.bounds import bound_line
from extmeta.reports.document import cpu, ram
from extmeta.reports.document.pictures import Chart, Document, Section, Table
from extmeta.reports.document.prototype import prototype_chart
from extmeta.reports.document.strip import strip_charts
from extmeta.reports.figures import size
from extmeta.reports.head import head_lines
from extmeta.reports.kernel_shares import calibrations
from extmeta.reports.layout import plain
from extmeta.reports.missing import told
from extmeta.reports.notes import notes
from extmeta.reports.prototype import SHOWN, prototype_line
from extmeta.reports.subjects import Comparison, by_subject
from extmeta.reports.verdict import verdict
from extmeta.rows import BASELINE, EACH, SET_ASIDE, Row

WORDS = (
    "A metadata word is what is kept for a PTE besides its pfn and permissions. A PTE "
    "that has a word is flagged. An encoding is one way to keep words. "
    f"{BASELINE} keeps them in the PTE; the others are compared with it."
)
STRIP = (
    "Each bar is a part of the address space that has PTEs, in the order of addresses. "
    "Its height above the line is the share of its entries that are mapped. Its depth "
    "below the line is the number of flagged PTEs in a PTE table, on a logarithmic "
    "scale. A dotted line stands for a gap."
)
RATIOS = (
    f"A mark left of 1 is faster than {BASELINE}. The line through it is the 95% "
    f"interval; without a line the interval is narrower than the mark. The grey band is the noise floor: {BASELINE} against a second table of "
    "itself."
)
ASIDE = (
    "A kernel can't allocate memory under the page-table lock, so it sets some aside "
    "before. The table has the bytes for one PTE table all of whose PTEs have a word."
)
UNCALIBRATED = (
    "What the kernel's own operations take on this machine is not known, so shares of "
    "their time are missing. `extmeta calibrate` measures it."
)
UNCOUNTED = (
    "Shares of the kernel's instructions are missing, because instructions of the "
    "encodings were not counted. --instructions counts them."
)


NO_CROSSOVER = (
    "There is no chart of bytes by the flagged PTEs of a table: its figures are in the "
    "JSON of `extmeta compare --crossover`, which `extmeta report` takes too."
)
NO_MAP = "There is no map of the address space: the JSON is of a version that did not have it."


def document(
    rows: Iterable[Row], provenance: dict[str, Any], lacks: Sequence[str] | None = None
) -> Document:
    """Return the report on the rows of one or more comparisons.

    Parameters
    ----------
    rows : iterable of Row
        ValueError is raised if the first is no Subject.
    provenance : dict
        See `cost.origin.provenance`; ValueError is raised if it is malformed.
    lacks : sequence of str, optional
        What is missing; None if the rows are complete.
    """
    rows = [*rows]
    found = by_subject(rows)
    crossovers = [c for c in found if any(p.placement == EACH for p in c.points)]
    spaces = [c for c in found if c.ram and c not in crossovers]
    names = dict.fromkeys(plain(c.subject.name) for c in spaces or crossovers or found)
    incomplete = [] if lacks is None else [" ".join(told(lacks).split())]
    left_out = [] if crossovers else [NO_CROSSOVER]
    if spaces and not any(c.spreads for c in spaces):
        left_out.append(NO_MAP)
    sections = [
        Section("Verdict", (*incomplete, *map(plain, verdict(rows, provenance)))),
        Section("What was compared", (WORDS, *_heads(found))),
        *_if_any(ram.crossover_section(crossovers, spaces)),
        *_if_any(_ram(spaces)),
        *_if_any(
            Section(
                "Address space",
                charts=_charts(map(strip_charts, spaces)),
                reading=STRIP,
            )
        ),
        *_if_any(_cpu(spaces)),
        *_if_any(_bound(spaces)),
        *_if_any(
            Section("Instructions", (), _charts(map(cpu.instruction_charts, found)))
        ),
        *_if_any(_kernel(found, provenance)),
        *_if_any(_prototype(spaces)),
        *_if_any(_aside(found)),
        Section("What the figures leave out", (*notes(found), *left_out)),
        Section("Where the figures are from", (), (), _origin(found, provenance)),
    ]
    return Document(
        title=f"What metadata words cost: {', '.join(names)}",
        sections=tuple(_named(sections)),
        encodings=tuple(dict.fromkeys(map(plain, _encodings(found)))),
    )


def _encodings(found: Sequence[Comparison]) -> Iterator[str]:
    yield BASELINE
    for c in found:
        yield from c.encodings
        yield from (name for _fraction, name, _operation in c.counted)


def _if_any(section: Section) -> list[Section]:
    """Return a section if it has a chart or a table."""
    there = {title: table for title, table in section.tables.items() if table.rows}
    return [replace(section, tables=there)] if section.charts or there else []


def _charts(each: Iterable[Iterator[Chart]]) -> tuple[Chart, ...]:
    return tuple(chart for charts in each for chart in charts)


def _named(sections: Sequence[Section]) -> Iterator[Section]:
    """Give each chart a name that is part of a file's, and no other chart's."""
    taken: set[str] = set()
    for section in sections:
        charts = []
        for chart in section.charts:
            plain_name = re.sub(r"[^a-z0-9]+", "-", chart.name.lower()).strip("-")
            name = plain_name
            number = 1
            while name in taken:
                number += 1
                name = f"{plain_name}-{number}"
            taken.add(name)
            charts.append(replace(chart, name=name))
        yield replace(section, charts=tuple(charts))


def _heads(found: Sequence[Comparison]) -> list[str]:
    """Return what is said of each subject; what is said of several, once."""
    return list(dict.fromkeys(line for c in found for line in head_lines(c)))


def _ram(spaces: Sequence[Comparison]) -> Section:
    return Section(
        "RAM",
        ("Percentages are of the page tables that words in the PTE need.",),
        _charts(map(ram.ram_charts, spaces)),
        {
            f"Bytes a flagged PTE, {plain(c.subject.name)}": ram.each_table(c)
            for c in spaces
        },
    )


def _cpu(spaces: Sequence[Comparison]) -> Section:
    return Section(
        "CPU",
        (),
        _charts(map(cpu.ratio_charts, spaces)),
        {
            f"Time of {BASELINE}, {plain(c.subject.name)}": cpu.baseline_table(c)
            for c in spaces
            if c.cpu
        },
        reading=RATIOS,
    )


def _bound(spaces: Sequence[Comparison]) -> Section:
    lines = [" ".join(bound_line(c).split()) for c in spaces]
    return Section(
        "Time over the bound",
        tuple(line[:1].upper() + line[1:] for line in lines if line),
        _charts(map(cpu.bound_charts, spaces)),
    )


def _kernel(found: Sequence[Comparison], provenance: dict[str, Any]) -> Section:
    """Return extra costs beside the kernel's own operations."""
    parts = calibrations(provenance)
    said = [real.LEGEND, real.LEFT_OUT]
    host = parts.get("host")
    if host is None:
        said.append(UNCALIBRATED)
    else:
        where = (provenance.get("kernel"), provenance.get("cpu"))
        if differs := real.elsewhere(host, *where):
            said.append(
                f"The kernel's operations were measured elsewhere: {plain(differs)}."
            )
    if not any(c.counted for c in found):
        said.append(UNCOUNTED)
    said += [
        f"The kernel's {of.unit} are of Linux {plain(of.kernel)}, {plain(of.cpu)}, "
        f"measured by `{plain(of.command)}` on {plain(of.date)[:10]}."
        for of in parts.values()
    ]
    return Section(
        "Beside the kernel's own operations",
        tuple(said),
        _charts(cpu.share_charts(c, provenance) for c in found),
        {f"The kernel's {of.unit}": cpu.kernel_table(of) for of in parts.values()},
    )


def _prototype(spaces: Sequence[Comparison]) -> Section:
    """Return what words add in a real kernel, if times were compared."""
    p = prototype.shipped()
    labels = {operation: head.replace("\n", " ") for operation, head in SHOWN}
    chart = prototype_chart(p, "in a kernel", "Instructions that words add", labels)
    return Section(
        "In a kernel",
        (prototype_line(p),),
        (chart,) if any(c.cpu for c in spaces) else (),
    )


def _aside(found: Sequence[Comparison]) -> Section:
    tables = {}
    for c in found:
        if not c.demands:
            continue
        names = dict.fromkeys(name for name, _operation in c.demands)
        rows = [row for row in c.demands.values() if row.aside or row.repointings]
        asking = list(dict.fromkeys([SET_ASIDE, *(row.operation for row in rows)]))
        lines = []
        for name in names:
            asked = [c.demands.get((name, operation)) for operation in asking]
            cells = [
                "-" if a is None or a.aside is None else size(a.aside) for a in asked
            ]
            moved = sum(row.repointings for row in rows if row.encoding == name)
            lines.append((plain(name), *cells, f"{moved:g}"))
        head = ("encoding", *map(plain, asking), "tables re-pointed")
        tables[f"Bytes a table, {plain(c.subject.arch)}"] = Table(head, tuple(lines))
    return Section("Memory that a kernel sets aside", (ASIDE,), (), tables)


def _origin(
    found: Sequence[Comparison], provenance: dict[str, Any]
) -> dict[str, Table]:
    """Return the provenance: machine, versions, command, and digests of captures."""
    lines = []
    for key, value in provenance.items():
        if key in ("calibration", "bounds"):
            continue
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append((plain(str(key)), plain(text)))
    lines += [
        (f"sha256 of {plain(c.subject.name)}", plain(c.subject.sha256))
        for c in found
        if c.subject.sha256
    ]
    unique = tuple(dict.fromkeys(lines))
    return {"Machine, versions and digests": Table(("what", "value"), unique)}
