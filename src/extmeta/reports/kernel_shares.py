"""The tables of extra costs as a share of the kernel's own operations."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from extmeta.cost.kernel import costs
from extmeta.cost.kernel.costs import Calibration
from extmeta.reports import calibration as real
from extmeta.reports.figures import MARK, UNSTABLE, nanoseconds, unstable
from extmeta.reports.layout import add_row, new_table, plain, rendered, wrapped
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, CONTROL, Point


def calibrations(provenance: dict[str, Any]) -> dict[str, Calibration]:
    """Return the kernel's costs in a provenance, by part; ValueError if malformed."""
    match provenance.get("calibration") or {}:
        case dict(found):
            there = [name for name in costs.UNITS if found.get(name)]
            return {name: costs.part(name, found[name]) for name in there}
        case found:
            raise ValueError(f"calibration is {str(found)[:40]!r}")


def ns_tables(c: Comparison, provenance: dict[str, Any]) -> Iterator[str]:
    """Yield the extra time in percent of the kernel's operation, if that is known."""
    if not c.cpu or "calibration" not in provenance:
        return
    host = calibrations(provenance).get("host")
    if host is None:
        yield wrapped(
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

    marked = False
    for point in c.points:
        names = [n for n in (CONTROL, *c.encodings) if (point, n) in c.timed]
        operations = {op for at, _encoding, op in c.cpu if at == point}
        if names and operations:
            title = f"CPU, {plain(str(point))}: extra over {BASELINE}, of the kernel's"
            table = _share_table(
                title, host, names, operations, functools.partial(cells, point)
            )
            marked |= MARK in table
            yield table
    if marked:
        yield f"{MARK} the ratio, or the kernel's cost, is uncertain by more than {UNSTABLE:.0%}."
    where = real.elsewhere(host, provenance.get("kernel"), provenance.get("cpu"))
    if where:
        yield wrapped(
            f"The kernel's operations were measured elsewhere: {plain(where)}."
        )
    yield _calibrated(host)


def instruction_tables(c: Comparison, provenance: dict[str, Any]) -> Iterator[str]:
    """Yield the extra instructions in percent of the kernel's."""
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
    table = new_table("", heads, 15, 11)
    unit = f"kernel, {of.unit}" if of.unit == "ns" else "kernel, instr."
    add_row(table, unit, [nanoseconds(cost.median) for _ours, _label, cost in columns])
    for name in names:
        add_row(table, name, [cell(name, ours, cost) for ours, _label, cost in columns])
    return f"{title}\n{rendered(table)}"


def _calibrated(of: Calibration) -> str:
    shipped = " (ships with extmeta)" if of == costs.shipped() else ""
    return wrapped(
        f"The kernel's {of.unit} per PTE: Linux {plain(of.kernel)}, {plain(of.cpu)}, "
        f"`{plain(of.command)}`, {plain(of.date)[:10]}{shipped}. {real.LEGEND} "
        f"{real.LEFT_OUT}"
    )
