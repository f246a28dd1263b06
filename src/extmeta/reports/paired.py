"""The comparisons of the pytest fixture `paired`: a table, and sentences on limits."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from extmeta.compared import Compared
from extmeta.reports.figures import BUSY, MARK, UNSTABLE, size
from extmeta.reports.layout import COLUMNS, add_row, new_table, plain, rendered, wrapped

# What a limit is called, and what it limits.
LIMITS = {
    "max_ratio": "time",
    "max_ram_ratio": "RAM",
    "max_instruction_ratio": "instructions",
}

# Columns of a cell.
WIDTH = 12


def exceeded(row: Compared, limits: Mapping[str, float]) -> Iterator[str]:
    """Yield a sentence for each of `LIMITS` that a comparison exceeds.

    That of time is held against the upper end of the interval.
    """
    if (limit := limits.get("max_ratio")) and row.high > limit:
        said = "above" if row.low > limit else "not for certain below"
        floor = f"; the noise floor is {_interval(*row.floor)}" if row.floor else ""
        yield (
            f"{row.name} takes {_interval(row.ratio, row.low, row.high)} of "
            f"{row.baseline}'s time, {said} max_ratio={limit:g}{floor}"
        )
    for key, ratio in (
        ("max_ram_ratio", row.ram_ratio),
        ("max_instruction_ratio", row.instruction_ratio),
    ):
        limit = limits.get(key)
        if limit and ratio is not None and ratio > limit:
            yield (
                f"{row.name} takes {_figure(ratio)} of {row.baseline}'s {LIMITS[key]}, "
                f"above {key}={limit:g}"
            )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return comparisons as a table of 100 columns.

    Parameters
    ----------
    rows : sequence of dict
        The fields of each `Compared`.
    """
    found = [Compared(**row) for row in rows]
    with_ram = any(row.ram for row in found)
    counted = any(row.instructions for row in found)
    heads = ["ratio", "95% interval", "baseline"]
    heads += ["RAM", "RAM ratio"] * with_ram + ["instr. ratio"] * counted
    lines = []
    for at, group in enumerate(dict.fromkeys(row.group for row in found)):
        members = [row for row in found if row.group == group]
        baselines = dict.fromkeys(row.baseline for row in members)
        drawn = new_table("", heads, COLUMNS - (WIDTH + 1) * len(heads), WIDTH)
        drawn.show_header = at == 0
        floors: set[str] = set()
        for row in members:
            if row.floor and row.baseline not in floors:
                floors.add(row.baseline)
                cells = _times(row.floor, row)
                add_row(drawn, f"  {row.baseline} again", cells)
            cells = _times((row.ratio, row.low, row.high), row)
            cells[0] += MARK * _uncertain(row)
            if with_ram:
                cells += [size(row.ram[1]) if row.ram else "", _maybe(row.ram_ratio)]
            if counted:
                cells.append(_maybe(row.instruction_ratio))
            of = f" / {row.baseline}" if len(baselines) > 1 else ""
            add_row(drawn, f"  {row.name}{of}", cells)
        over = f", over {next(iter(baselines))}" if len(baselines) == 1 else ""
        body = rendered(drawn).split("\n")
        lines += body[: not at]
        lines += [plain(f"{group}{over}")[:COLUMNS], *body[not at :]]
    return "\n".join([*lines, "", *map(wrapped, _notes(found))])


def _times(ratio: tuple[float, float, float], row: Compared) -> list[str]:
    middle, low, high = map(_figure, ratio)
    return [middle, f"{low} - {high}", _duration(row.baseline_ns)]


def _uncertain(row: Compared) -> bool:
    """Tell whether the interval or the noise floor reaches too far to tell much."""
    reach = max(row.high / row.ratio, row.ratio / row.low)
    off = max(row.floor[0], 1 / row.floor[0]) if row.floor else 1.0
    return max(reach, off) > 1 + UNSTABLE


def _maybe(ratio: float | None) -> str:
    return "" if ratio is None else _figure(ratio)


def _figure(ratio: float) -> str:
    """Return a ratio with about three digits."""
    digits = 3 if ratio < 0.0995 else 2 if ratio < 9.995 else 1 if ratio < 99.95 else 0
    return f"{ratio:,.{digits}f}"


def _interval(ratio: float, low: float, high: float) -> str:
    return f"{_figure(ratio)} [{_figure(low)}, {_figure(high)}]"


def _duration(ns: float) -> str:
    for unit in ("ns", "us", "ms"):
        if ns < 999.5:
            return f"{_figure(ns)} {unit}"
        ns /= 1000
    return f"{_figure(ns)} s"


def _notes(found: Sequence[Compared]) -> Iterator[str]:
    yield (
        "A ratio is of CPU time to the baseline's, in interleaved pairs; below 1 is faster. "
        "Again: the baseline against itself, the noise floor."
    )
    if doubtful := sum(map(_uncertain, found)):
        yield (
            f"{doubtful} of {len(found)} ratios are uncertain ({MARK}): the interval reaches "
            f"more than {UNSTABLE:.0%} from the ratio, or the noise floor is as far from 1."
        )
    waited = sorted(row.waited for row in found)[len(found) // 2]
    if waited > BUSY:
        yield (
            f"The machine is busy: other programs had the processor {waited:.0%} of the time."
        )
