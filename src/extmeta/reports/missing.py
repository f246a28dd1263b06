"""What an interrupted comparison lacks."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from extmeta.reports.layout import COLUMNS, plain
from extmeta.rows import DEMANDS, Cpu, Demand, Load, Peak, Point, Ram, Refused, Subject

# A stage that measures all of a subject.
WHOLE = "all"


@dataclass(frozen=True)
class Stage:
    """A part of a comparison, measured in one go.

    `subject` counts from 0 and `name` is its name; `what` is a point, the name of an
    encoding, `rows.DEMANDS` or `WHOLE`.
    """

    subject: int
    name: str
    what: Point | str


def missing(rows: Iterable[object], stages: Sequence[Stage]) -> list[str]:
    """Return, in a line for each subject, which of the stages lack rows.

    Stages are in the order of measurement. The last one that has rows may lack some.
    """
    begun: set[tuple[int, Point | str]] = set()
    refused: set[tuple[int, Point | str]] = set()
    subject = -1
    for row in rows:
        if isinstance(row, Subject | Load):
            subject += 1
            begun.add((subject, WHOLE))
        elif isinstance(row, Demand):
            begun.add((subject, DEMANDS))
        elif isinstance(row, Ram | Cpu):
            begun.add((subject, Point(row.fraction, row.placement)))
        if isinstance(row, Refused | Peak | Cpu):
            begun.add((subject, row.encoding))
        if isinstance(row, Refused):
            refused.add((subject, row.encoding))
    last = max(
        (at for at, s in enumerate(stages) if (s.subject, s.what) in begun), default=-1
    )
    lacks = [(s.subject, s.name, str(s.what)) for s in stages[last + 1 :]]
    # Earlier subjects than the last one are complete.
    if last >= 0 and stages[last].subject == subject:
        s = stages[last]
        if (s.subject, s.what) not in refused:
            lacks.insert(0, (s.subject, s.name, f"the rest of {s.what}"))
    return [
        f"{name}: {', '.join(what for _subject, _name, what in of)}"
        for (_subject, name), of in groupby(lacks, key=lambda lack: lack[:2])
    ]


def told(lines: Sequence[str]) -> str:
    """Return the first lines of a text about an incomplete comparison."""
    what = "; ".join(map(plain, lines)) or "the file does not say what"
    return textwrap.fill(
        f"INCOMPLETE: stopped before the end. Missing: {what}.",
        COLUMNS,
        subsequent_indent="  ",
    )


def stored(document: str) -> list[str] | None:
    """Return what the JSON of `stored.to_json` says is missing; None if complete."""
    match json.loads(document):
        case {"complete": True}:
            return None
        case {"complete": False, "missing": list(lines)} if all(
            isinstance(line, str) for line in lines
        ):
            return lines
        case {"complete": False, **more} if "missing" not in more:
            return []
    raise ValueError("it does not say whether it is complete, and what is missing")
