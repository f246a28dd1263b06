"""Rows and their provenance as JSON, from which the text can be printed again."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from types import UnionType
from typing import Any, get_args, get_origin

from extmeta.arch import arch_named
from extmeta.rows import Cpu, Split, Spread, Subject


def to_json(
    rows: Iterable[Any],
    provenance: dict[str, Any],
    format: str,
    complete: bool = True,
    missing: Sequence[str] = (),
    derived: Callable[[Any], dict[str, float]] = lambda _row: {},
) -> str:
    """Return rows and their provenance as JSON, in bytes and ns.

    ``format`` names the kind of rows; ``missing`` says what they lack if they are not
    ``complete``. ``derived`` returns figures of a row that readers of the JSON would
    have to compute from others; `rows_of` skips them.
    """
    document = {
        "format": format,
        "complete": complete,
        **({} if complete else {"missing": [*missing]}),
        "provenance": provenance,
        "rows": [
            {"row": type(row).__name__, **dataclasses.asdict(row), **derived(row)}
            for row in rows
        ],
    }
    return json.dumps(document, indent=1)


def rows_of(
    document: str, format: str, kinds: dict[str, type]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the rows and the provenance in JSON; ValueError names what is wrong."""
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
    if wrong := _wrong(row):
        raise ValueError(f"row {number}, a {kind.__name__}: {wrong}")
    return row


def _wrong(row: Any) -> str:
    """Return why no measurement has these values, though their types fit; else ""."""
    match row:
        case Cpu() if not min(row.ratio, row.low, row.high) > 0:
            return "a ratio of 0"
        case Split() if not row.leaves:
            return "no huge page was split"
        case Subject() if not row.fields:
            return "no field"
        case Subject():
            try:
                arch_named(row.arch)
            except (KeyError, ValueError) as error:
                return str(error.args[0])
        case Spread():
            cells = {len(row.first_vpns), len(row.ptes), len(row.flagged)}
            if not row.cell_tables or len(cells) > 1:
                return "cell_tables is 0, or its lists differ in length"
    return ""


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether a value out of JSON has the type of a row's field."""
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
        # Nothing measured is larger, and a chart can't draw the largest of floats.
        return isinstance(value, (int, kind)) and 0 <= value < 1 << 64
    return isinstance(value, kind)
