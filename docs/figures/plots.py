"""Plots for the objections: exact figures counted when the site is built.

Times and a kernel's counts are not measured here. They are read from where they are
kept: `benchmarks/budgets.json`, the package's data, and the tables of performance.md.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import extmeta as em
from extmeta.cost import sweep
from extmeta.cost.crossover import crossover
from extmeta.cost.demands import demanded
from extmeta.cost.kernel import prototype
from extmeta.cost.space import Space, space_of
from extmeta.reports.document.dots import dots_chart
from extmeta.reports.document.pictures import Chart, Value
from extmeta.reports.document.prototype import prototype_chart
from extmeta.reports.document.ram import crossover_section
from extmeta.reports.figures import size
from extmeta.reports.subjects import by_subject
from extmeta.rows import BASELINE, Demand, Point, Ram, Row, Subject

DOCS = Path(__file__).parents[1]
FIELDS = em.Fields(meta=64)
Counts = dict[str, dict[str, dict[str, int]]]
CAPTURE = "redis"

# In the order in which they get their looks, in all plots of the site.
ENCODINGS = ("linked", "adaptive", "adjacent", "hash", "xarray", "compact", "wide")


def value(at: float) -> Value:
    return Value(at, at, at)


def budgets() -> Counts:
    """Return instructions by encoding, share of flagged PTEs, and operation."""
    file = DOCS.parent / "benchmarks" / "budgets.json"
    found: Counts = json.loads(file.read_text())["counts"]
    return found


def instructions(
    name: str,
    title: str,
    encodings: Sequence[str],
    operations: Sequence[str],
    flags: str,
) -> Chart:
    """Return a plot of instructions over those of in-PTE words, from the budgets."""
    counts = budgets()
    cells = {
        (operation, encoding): value(
            counts[encoding][flags][operation] / counts[BASELINE][flags][operation]
        )
        for operation in operations
        for encoding in encodings
    }
    return dots_chart(
        name,
        title,
        "instructions over those of inpte",
        "ratio",
        operations,
        encodings,
        cells,
        lambda row, one: f"{cells[row, one].at:.2f}",
    )


def more_compact() -> Chart:
    operations = ("load", "store", "update", "clear", "scan", "fork", "unmap")
    title = "Codes instead of bits: instructions with every PTE flagged"
    return instructions("more-compact", title, ["compact"], operations, "1")


def fork() -> Chart:
    """Return what words add to a real kernel's fork."""
    runs = {"fork_1st": "first fork", "fork_2nd": "second fork"}
    title = "Instructions added to the whole fork(2)"
    return prototype_chart(prototype.shipped(), "fork", title, runs)


def atomicity() -> Chart:
    """Return instructions of a lockless snapshot over those of a load."""
    counts = budgets()
    points = {"no words": "0", "1% flagged": "0.01", "all flagged": "1"}
    shown = (BASELINE, "linked", "adaptive", "adjacent", "wide", "xarray")
    cells = {
        (encoding, point): value(
            counts[encoding][flags]["snapshot"] / counts[BASELINE][flags]["load"]
        )
        for encoding in shown
        for point, flags in points.items()
    }
    return dots_chart(
        "atomicity",
        "A snapshot without a lock: PTEs and words, over a load of inpte's words",
        "instructions over those of a load from inpte",
        "ratio",
        shown,
        list(points),
        cells,
        lambda row, point: f"{cells[row, point].at:.2f}",
        encodings=False,
    )


def look_up() -> Chart:
    """Return random loads over those of in-PTE words, from performance.md."""
    text = (DOCS / "performance.md").read_text()
    table = text.partition("ns a random load:")[2].strip().split("\n\n")[0]
    head, _line, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
    )
    shown = [name for name in head if name in ENCODINGS]
    # The last row is of another commit, and looks up one vpn at a time.
    sizes = {
        f"{row[0]} GiB": dict(zip(head, row, strict=True))
        for row in rows
        if re.fullmatch(r"[\d/]+", row[0])
    }
    cells = {
        (gib, name): value(float(row[name]) / float(row[BASELINE]))
        for gib, row in sizes.items()
        for name in shown
    }
    return dots_chart(
        "look-up",
        "Random loads, every PTE with a word, by memory mapped",
        "time over that of inpte",
        "ratio",
        list(sizes),
        shown,
        cells,
        lambda row, one: f"{cells[row, one].at:.2f}",
    )


def repointing() -> Chart:
    """Return the share of a process's PTE tables that `adjacent:needed` re-points."""
    space = space_of(em.load_capture(em.shipped()[CAPTURE]), CAPTURE)
    fractions = (0.001, 0.01, 0.1)
    placements = ("random", "clustered", "tables")
    points = [Point(f, p) for f in fractions for p in placements]
    cells: dict[tuple[str, str], Value] = {}
    nr_tables = 0
    for row in sweep.ram(space, ["adjacent:needed"], FIELDS, points):
        if isinstance(row, Subject):
            nr_tables = row.nr_tables
        elif isinstance(row, Ram) and row.encoding != BASELINE:
            moved = 100 * (row.repointings or 0) / nr_tables
            cells[f"{100 * row.fraction:g}% flagged", row.placement] = value(moved)
    return dots_chart(
        "re-pointing",
        f"PTE tables re-pointed by adjacent:needed, {CAPTURE}, {nr_tables} tables",
        "PTE tables re-pointed, of all",
        "percent",
        [f"{100 * f:g}% flagged" for f in fractions],
        placements,
        cells,
        lambda row, one: f"{cells[row, one].at:.0f}%",
        encodings=False,
    )


def set_aside() -> Chart:
    """Return the bytes that operations under the lock take."""
    shown = ("linked", "adaptive", "hash", "xarray")
    rows = ("set aside", "split", "first words", "clear half of one word")
    cells = {
        (row.operation, row.encoding): value(row.aside)
        for row in demanded(shown, FIELDS, "x86_64")
        if isinstance(row, Demand) and row.aside is not None and row.operation in rows
        if row.encoding != BASELINE
    }
    return dots_chart(
        "set-aside",
        "Bytes for a PTE table of 512 words of 64 bits, allocation refused",
        "bytes a PTE table",
        "bytes",
        rows,
        shown,
        cells,
        lambda row, one: size(cells[row, one].at),
    )


def corner_case() -> Chart:
    """Return bytes a flagged PTE by the flags of a table, with a process's tables."""
    forms = ("linked", "adaptive", "adjacent", "hash", "xarray", "wide")
    space = space_of(em.load_capture(em.shipped()[CAPTURE]), CAPTURE)
    found = by_subject(crossover(forms, FIELDS))
    real = by_subject(_spread(space))
    (chart,) = crossover_section(found, real).charts
    return chart


def _spread(space: Space) -> Iterator[Row]:
    """Yield how the flagged PTEs of a space lie if 1 % are flagged at random."""
    held = sweep.Held(space, [], FIELDS)
    yield from held.head
    yield held.spread(Point(0.01, "random"))


PLOTS: dict[str, Callable[[], Chart]] = {
    "more-compact": more_compact,
    "fork": fork,
    "atomicity": atomicity,
    "look-up": look_up,
    "re-pointing": repointing,
    "set-aside": set_aside,
    "corner-case": corner_case,
}
