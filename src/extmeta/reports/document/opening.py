"""The first sentences of a report: its verdict."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from extmeta.reports.figures import ratio, share, size, unstable
from extmeta.reports.layout import plain
from extmeta.reports.subjects import Comparison
from extmeta.rows import BASELINE, CONTROL, Point, Row


def opening(rows: Sequence[Row], found: Sequence[Comparison]) -> list[str]:
    """Return the sentences of `extmeta.reports.verdict`, by default the leaders."""
    if find_spec("extmeta.reports.verdict"):
        verdict = import_module("extmeta.reports.verdict").verdict
        if said := [plain(sentence) for sentence in verdict(rows)]:
            return said
    return [sentence for c in found for sentence in _leaders(c)]


def _leaders(c: Comparison) -> Iterator[str]:
    """Yield what the smallest encoding needs at each point, and what it costs there."""
    name = plain(c.subject.name)
    if c.subject.baseline_lacks:
        yield f"{name}: the PTE can't hold the fields: {plain(c.subject.baseline_lacks)}."
    for point in c.points:
        base = c.ram[point, BASELINE]
        extra = {e: n for e in c.encodings if (n := c.extra(point, e)) is not None}
        if not base.flagged or not extra:
            continue
        least, *others = sorted(extra, key=extra.__getitem__)
        said = (
            f"{name}, {plain(str(point))} flagged: {plain(least)} is the smallest with "
            f"{size(extra[least])} beside the page tables, "
            f"{share(extra[least], base.total)} of them"
        )
        if others:
            said += f"; {plain(others[0])} follows with {size(extra[others[0]])}"
        yield said + "." + _worst(c, point, least)


def _worst(c: Comparison, point: Point, encoding: str) -> str:
    """Return the operations at which an encoding gains and loses most, or ""."""
    timed: dict[str, Any] = {
        op: row
        for (at, name, op), row in c.cpu.items()
        if (at, name) == (point, encoding)
        and not unstable(row, c.cpu.get((point, CONTROL, op)))
    }
    if not timed:
        return ""
    best, worst = (pick(timed, key=lambda op: timed[op].ratio) for pick in (min, max))
    return (
        f" Beside {BASELINE}, its {best} takes the least time (x {ratio(timed[best])}), "
        f"its {worst} the most (x {ratio(timed[worst])})."
    )
