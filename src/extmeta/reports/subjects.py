"""The rows of each subject, found by what they are about."""

import dataclasses
from collections.abc import Iterable

from extmeta.rows import (
    BASELINE,
    CALL,
    CONTROL,
    Blocks,
    Bound,
    Counted,
    Cpu,
    Demand,
    Locked,
    Point,
    Ram,
    Refused,
    Row,
    Split,
    Spread,
    Subject,
)


@dataclasses.dataclass
class Comparison:
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
    locked: dict[tuple[str, str], Locked] = dataclasses.field(default_factory=dict)
    blocks: dict[tuple[Point, str], Blocks] = dataclasses.field(default_factory=dict)
    splits: list[Split] = dataclasses.field(default_factory=list)
    spreads: dict[Point, Spread] = dataclasses.field(default_factory=dict)

    @property
    def points(self) -> list[Point]:
        return [point for point, encoding in self.ram if encoding == BASELINE]

    @property
    def encodings(self) -> list[str]:
        names = [name for _point, name in self.ram]
        names += [name for _point, name, _operation in self.cpu]
        return [n for n in dict.fromkeys(names) if n not in (BASELINE, CALL, CONTROL)]

    @property
    def timed(self) -> set[tuple[Point, str]]:
        return {(point, encoding) for point, encoding, _operation in self.cpu}

    def extra(self, point: Point, encoding: str) -> int | None:
        """Return the bytes an encoding holds beyond the baseline."""
        base, row = self.ram.get((point, BASELINE)), self.ram.get((point, encoding))
        return None if base is None or row is None else row.total - base.total

    def extra_pages(self, point: Point, encoding: str) -> int | None:
        """Return the bytes of whole pages an encoding holds beyond the baseline."""
        base, row = self.ram.get((point, BASELINE)), self.ram.get((point, encoding))
        return None if base is None or row is None else row.pages - base.pages


def by_subject(rows: Iterable[Row]) -> list[Comparison]:
    """Put rows together by their subject."""
    found: list[Comparison] = []
    for row in rows:
        if isinstance(row, Subject):
            found.append(Comparison(row))
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
        elif isinstance(row, Locked):
            found[-1].locked[row.encoding, row.operation] = row
        elif isinstance(row, Blocks):
            found[-1].blocks[Point(row.fraction, row.placement), row.encoding] = row
        elif isinstance(row, Split):
            found[-1].splits.append(row)
        elif isinstance(row, Spread):
            found[-1].spreads[Point(row.fraction, row.placement)] = row
        else:
            point = Point(row.fraction, row.placement)
            found[-1].cpu[point, row.encoding, row.operation] = row
    return found
