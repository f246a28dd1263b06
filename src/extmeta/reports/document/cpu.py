"""Charts of CPU: ratios, time over the bound, instructions, shares of the kernel's."""

from collections.abc import Iterator
from typing import Any

from extmeta.cost.kernel.costs import Calibration, Cost
from extmeta.reports import calibration as real
from extmeta.reports.bounds import bound_ns, times_bound
from extmeta.reports.document.dots import dots_chart
from extmeta.reports.document.pictures import Chart, Table, Value
from extmeta.reports.figures import MARK, nanoseconds, ratio, unstable
from extmeta.reports.kernel_shares import calibrations
from extmeta.reports.layout import plain
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, CONTROL, OPERATIONS, Cpu, Point


def exact(at: float) -> Value:
    """Return a value without an interval."""
    return Value(at, at, at)


def _operations(found: set[str]) -> list[str]:
    """Return operations in the sweep's order, then any others."""
    known = [operation for operation in OPERATIONS if operation in found]
    return known + sorted(found - {*known})


def _rows(c: Comparison, point: Point) -> dict[tuple[str, str], Cpu]:
    """Return the ratios of a point by operation and encoding."""
    return {(op, name): row for (at, name, op), row in c.cpu.items() if at == point}


def ratio_charts(c: Comparison) -> Iterator[Chart]:
    """Yield each point's ratios to the baseline, with intervals and the noise floor."""
    for point in c.points:
        rows = _rows(c, point)
        cells = {
            (op, plain(name)): Value(row.ratio, row.low, row.high)
            for (op, name), row in rows.items()
        }
        texts = {
            (op, plain(name)): ratio(row)
            + MARK * unstable(row, rows.get((op, CONTROL)))
            for (op, name), row in rows.items()
        }
        floor = {op: cells[op, CONTROL] for op, name in rows if name == CONTROL}
        operations = _operations({op for op, _name in rows})
        chart = dots_chart(
            f"cpu {point}",
            f"CPU at {plain(str(point))} flagged, {plain(c.subject.name)}",
            f"Time as a multiple of {BASELINE}, log scale",
            "ratio",
            operations,
            [plain(name) for name in c.encodings],
            cells,
            lambda row, name, texts=texts: texts[row, name],  # type: ignore[misc]
            floor=floor,
        )
        if rows:
            yield chart


def baseline_table(c: Comparison) -> Table:
    """Return the baseline's ns a PTE, and their bound, by point and operation."""
    operations = _operations({op for _p, _name, op in c.cpu})
    lines = []
    for point in c.points:
        rows = _rows(c, point)
        ns = {op: row.baseline_ns for (op, _name), row in rows.items()}
        # The baseline's time is taken from its own pairs where there are some.
        ns |= {op: r.baseline_ns for (op, name), r in rows.items() if name == CONTROL}
        least = {
            op: bound_ns(c.bound, op, c.ram[point, BASELINE], c.subject.nr_ptes)
            for op in ns
        }
        cells = [nanoseconds(ns[op]) if op in ns else "-" for op in operations]
        lines.append((plain(str(point)), *cells))
        bounds = [nanoseconds(least[op]) if least.get(op) else "-" for op in operations]
        if any(least.values()):
            lines.append((f"bound, {plain(str(point))}", *bounds))
    return Table(("ns a PTE", *operations), tuple(lines))


def bound_charts(c: Comparison) -> Iterator[Chart]:
    """Yield each point's times as multiples of what memory allows."""
    for point in c.points:
        cells = {}
        texts = {}
        for (op, timed), row in _rows(c, point).items():
            name = BASELINE if timed == CONTROL else timed
            if times := times_bound(c, row):
                cells[op, plain(name)] = exact(times)
                texts[op, plain(name)] = f"{times:.3g}"
        if cells:
            yield dots_chart(
                f"bound {point}",
                f"Time over the bound at {plain(str(point))} flagged, "
                f"{plain(c.subject.name)}",
                "Time as a multiple of the bound of what is held, log scale",
                "ratio",
                _operations({op for op, _name in cells}),
                [BASELINE, *map(plain, c.encodings)],
                cells,
                lambda row, name, texts=texts: texts[row, name],  # type: ignore[misc]
            )


def instruction_charts(c: Comparison) -> Iterator[Chart]:
    """Yield the instructions of operations, for each fraction that was counted."""
    for fraction in dict.fromkeys(at for at, _name, _op in c.counted):
        cells = {
            (op, plain(name)): exact(counted)
            for (at, name, op), counted in c.counted.items()
            if at == fraction and counted > 0
        }
        names = list(dict.fromkeys(name for _op, name in cells))
        yield dots_chart(
            f"instructions {100 * fraction:g}",
            f"Instructions at {100 * fraction:g}% flagged",
            "Instructions a PTE, log scale",
            "ratio",
            _operations({op for op, _name in cells}),
            names,
            cells,
            lambda row, name, cells=cells: nanoseconds(  # type: ignore[misc]
                cells[row, name].at
            ),
        )


def share_charts(c: Comparison, provenance: dict[str, Any]) -> Iterator[Chart]:
    """Yield extra costs in percent of the kernel's own operation, where both are known."""
    parts = calibrations(provenance)
    if host := parts.get("host"):
        for point in c.points:
            extra = {
                (op, name): Value(*((x - 1) * row.baseline_ns for x in _ends(row)))
                for (op, name), row in _rows(c, point).items()
            }
            yield from _share_chart(
                f"share {point}",
                f"Extra time of the kernel's, {plain(str(point))} flagged, "
                f"{plain(c.subject.name)}",
                extra,
                host,
            )
    if guest := parts.get("guest"):
        for fraction in dict.fromkeys(at for at, _name, _op in c.counted):
            found = {k[1:]: n for k, n in c.counted.items() if k[0] == fraction}
            extra = {
                (op, name): exact(n - found[BASELINE, op])
                for (name, op), n in found.items()
                if name != BASELINE and (BASELINE, op) in found
            }
            yield from _share_chart(
                f"share of instructions {100 * fraction:g}",
                f"Extra instructions of the kernel's, {100 * fraction:g}% flagged",
                extra,
                guest,
            )


def _ends(row: Cpu) -> tuple[float, float, float]:
    return row.ratio, row.low, row.high


def _share_chart(
    name: str, title: str, extra: dict[tuple[str, str], Value], of: Calibration
) -> Iterator[Chart]:
    cells = {}
    texts = {}
    rows = []
    for ours, theirs, label in real.ALIKE:
        cost = of.cost(theirs)
        row = ours if ours == label else f"{ours} ({label})"
        for (op, encoding), value in extra.items():
            if op == ours and cost and cost.median > 0:
                at = row, plain(encoding)
                ends = (value.at, value.low, value.high)
                cells[at] = Value(*(100 * end / cost.median for end in ends))
                texts[at] = real.share(value.at, cost)
                rows.append(row)
    if cells:
        yield dots_chart(
            name,
            title,
            f"Extra over {BASELINE} in % of the kernel's {of.unit}",
            "percent",
            list(dict.fromkeys(rows)),
            list(dict.fromkeys(encoding for _row, encoding in cells)),
            cells,
            lambda row, encoding: texts[row, encoding],
        )


def kernel_table(of: Calibration) -> Table:
    """Return what the kernel's operations cost a PTE."""

    def line(cost: Cost) -> tuple[str, ...]:
        ends = f"{nanoseconds(cost.low)} to {nanoseconds(cost.high)}"
        return cost.operation, nanoseconds(cost.median), ends

    head = ("operation", f"{of.unit} a PTE", "95% interval")
    return Table(head, tuple(map(line, of.costs)))
