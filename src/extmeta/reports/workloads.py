"""A workload's comparison as text and as JSON: pure functions of rows."""

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from extmeta.reports import stored
from extmeta.reports.figures import (
    count,
    nanoseconds,
    ratio,
    size,
    trust_note,
)
from extmeta.reports.layout import COLUMNS, add_row, new_table, plain, rendered, wrapped
from extmeta.reports.notes import made_line
from extmeta.rows import (
    ALL_PHASES,
    BASELINE,
    CONTROL,
    Cpu,
    Load,
    Peak,
    PlayedRow,
    Refused,
)

if TYPE_CHECKING:
    from extmeta.workloads.play import Workload

FORMAT = "extmeta workload 1"

KINDS: dict[str, type] = {kind.__name__: kind for kind in (Load, Peak, Refused, Cpu)}

# The most rounds of a count that a line shows.
ROUNDS_SHOWN = 12

NOT_MODELLED = (
    "Time is that of the page table's operations alone, replayed on a bare table. Left "
    "out are the faults, system calls and copying around them, which cost far more; the "
    "TLB and its flushes, locks, struct page, reading PTEs to find what is mapped, and "
    "the kernel's page allocator. An operation is a call from Python, which costs every "
    "encoding a few us: with few PTEs to a call, ratios are drawn towards 1."
)


@dataclasses.dataclass
class _Played:
    """The rows of one workload on one process."""

    load: Load
    refused: list[Refused] = dataclasses.field(default_factory=list)
    peaks: dict[str, int] = dataclasses.field(default_factory=dict)
    cpu: dict[tuple[str, str], Cpu] = dataclasses.field(default_factory=dict)


def _grouped(rows: Iterable[PlayedRow]) -> list[_Played]:
    found: list[_Played] = []
    for row in rows:
        if isinstance(row, Load):
            found.append(_Played(row))
        elif not found:
            raise ValueError("rows before the workload they are about")
        elif isinstance(row, Refused):
            found[-1].refused.append(row)
        elif isinstance(row, Peak):
            found[-1].peaks[row.encoding] = row.extra_bytes
        else:
            found[-1].cpu[row.encoding, row.operation] = row
    return found


def text(rows: Iterable[PlayedRow], provenance: dict[str, Any]) -> str:
    """Return comparisons for people, 100 columns wide.

    ``rows`` are those of one or more `comparison.compare`, perhaps interrupted;
    ValueError if the first is no Load. For ``provenance`` see `origin.provenance`.
    """
    found = _grouped(rows)
    parts = [part for each in found for part in (_head(each), _table(each))]
    parts += [_notes(found), made_line(provenance)]
    return "\n\n".join(part for part in parts if part)


def _head(found: _Played) -> str:
    a = found.load
    vmas = f"{a.nr_vmas:,} VMA{'s' if a.nr_vmas > 1 else ''}"
    where = f"{plain(a.process)}, {a.nr_pages:,} pages in {vmas}, {plain(a.arch)}"
    lines = [
        f"{plain(a.name)}: {plain(a.question)}",
        f"On {where}; {plain(a.parameters)}",
    ]
    for name, rounds in a.counts.items():
        shown = " ".join(f"{n:,}" for n in rounds[:ROUNDS_SHOWN])
        more = len(rounds) - ROUNDS_SHOWN
        rest = f" and {more:,} more rounds" if more > 0 else ""
        lines.append(f"{plain(name)}: {shown}{rest}; as the plain set has it")
    lines.append(
        f"{count(a.faults)} faults; {count(a.calls)} operations on the page table, "
        f"{count(a.ptes)} PTEs, {count(a.words_made)} words made; {_fields(a.fields)}"
    )
    if a.baseline_lacks:
        lines.append(
            f"{BASELINE} can't play it: {plain(a.baseline_lacks)}. As denominator it "
            f"has {_fields(a.baseline_fields)}, and comes to the same counts."
        )
    lines += [f"{plain(r.encoding)} refuses: {plain(r.why)}." for r in found.refused]
    return "\n".join(wrapped(line, indent=2) for line in lines)


def _fields(fields: Mapping[str, int]) -> str:
    named = ", ".join(f"{plain(name)}={bits}" for name, bits in fields.items())
    return f"words of {named}"


def _table(found: _Played) -> str:
    names = list(dict.fromkeys([*found.peaks, *(name for name, _phase in found.cpu)]))
    if not names:
        return ""
    load = found.load
    calls = {**load.phase_calls, ALL_PHASES: load.calls}
    ptes = {**load.phase_ptes, ALL_PHASES: load.ptes}
    phases = [ALL_PHASES, *load.phase_ptes]
    table = new_table("", ["RAM, peak", *phases], 25, 11)
    for what, of in (("operations", calls), ("PTEs", ptes)):
        add_row(table, what, ["", *(count(of.get(phase, 0)) for phase in phases)])
    add_row(
        table, f"{BASELINE}, us", ["", *(_micros(found, p, ptes[p]) for p in phases)]
    )
    for name in sorted(names, key=lambda name: name != CONTROL):
        cells = [size(found.peaks[name]) if name in found.peaks else ""]
        for phase in phases:
            row = found.cpu.get((name, phase))
            cells.append(ratio(row) if row else "")
        add_row(table, name, cells)
    return rendered(table)


def _micros(found: _Played, phase: str, nr_ptes: int) -> str:
    """Return the baseline's time of a phase."""
    row = next((r for (_name, of), r in found.cpu.items() if of == phase), None)
    return nanoseconds(row.baseline_ns * max(1, nr_ptes) / 1000) if row else ""


def _notes(found: list[_Played]) -> str:
    peak = (
        f"RAM, peak: the most that was held beyond {BASELINE}'s page tables. us and "
        "ratios: of page-table operations, all and by phase; ratios are of paired "
        "replays, median ± the longer side of the 95% interval; below 1 is faster "
        f"than {BASELINE}. {CONTROL}: the noise floor."
    )
    lines = [peak]
    trust = trust_note(
        (row, each.cpu.get((CONTROL, phase)))
        for each in found
        for (_name, phase), row in each.cpu.items()
    )
    lines += [*trust, NOT_MODELLED]
    return "\n".join(wrapped(line) for line in lines)


def catalogue(workloads: "Mapping[str, type[Workload]]") -> str:
    """Return what workloads there are, with their parameters and defaults."""
    lines: list[str] = []
    for name, kind in workloads.items():
        lines += [f"{name}: {kind.question}", _parameters(kind)]
    return "\n".join(lines)


def _parameters(kind: "type[Workload]") -> str:
    shown = []
    for name, value in dataclasses.asdict(kind()).items():
        there = kind.choices.get(name)
        choices = f" (of {', '.join(there)})" if there else ""
        shown.append(f"{name}={value}{choices}")
    return textwrap.fill(
        ", ".join(shown), COLUMNS, initial_indent="    ", subsequent_indent="    "
    )


def to_json(
    rows: Iterable[PlayedRow],
    provenance: dict[str, Any],
    complete: bool = True,
    missing: Sequence[str] = (),
) -> str:
    """Return rows and their provenance as JSON; see `stored.to_json`."""
    return stored.to_json(rows, provenance, FORMAT, complete, missing)


def from_json(document: str) -> tuple[list[PlayedRow], dict[str, Any]]:
    """Return the rows and the provenance that `to_json` wrote; else ValueError."""
    rows, provenance = stored.rows_of(document, FORMAT, KINDS)
    _grouped(rows)
    return rows, provenance
