"""The figures of a report as one table: a line for each, for other programs."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from extmeta.reports.layout import plain
from extmeta.rows import Row, Subject

if TYPE_CHECKING:
    import pyarrow as pa

# What a figure is about; all other numbers of a row are figures.
ABOUT = ("encoding", "operation", "fraction", "placement")


class Figure(NamedTuple):
    """A number of a row: bytes, ns, or what the row's docstring says."""

    subject: str
    arch: str
    words: str
    row: str
    encoding: str | None
    operation: str | None
    fraction: float | None
    placement: str | None
    figure: str
    value: float


def figures(rows: Iterable[Row]) -> Iterator[Figure]:
    """Yield each number of each row; ValueError if the first row is no Subject."""
    of: tuple[str, str, str] | None = None
    for row in rows:
        if isinstance(row, Subject):
            of = (plain(row.name), plain(row.arch), plain(row.words))
        if of is None:
            raise ValueError("rows before the subject they are about")
        held = dataclasses.asdict(row)
        about = {name: held.pop(name, None) for name in ABOUT}
        about |= {name: plain(v) for name, v in about.items() if isinstance(v, str)}
        kind = type(row).__name__
        for name, value in held.items():
            if isinstance(value, int | float):
                yield Figure(*of, kind, **about, figure=name, value=float(value))


def to_csv(rows: Iterable[Row]) -> str:
    """Return the figures as CSV with a head line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Figure._fields)
    writer.writerows(figures(rows))
    return out.getvalue()


def to_arrow(rows: Iterable[Row], provenance: dict[str, Any]) -> "pa.Table":
    """Return the figures as an Arrow table, with the provenance as JSON in its schema.

    Raises
    ------
    ModuleNotFoundError
        If pyarrow is not installed.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    types = [number if n in ("fraction", "value") else text for n in Figure._fields]
    schema = pa.schema(
        zip(Figure._fields, types, strict=True),
        metadata={"extmeta": json.dumps(provenance)},
    )
    columns = [list(column) for column in zip(*figures(rows), strict=True)]
    return pa.table(columns, schema=schema)


def to_parquet(rows: Iterable[Row], provenance: dict[str, Any]) -> bytes:
    """Return `to_arrow` as Parquet."""
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(to_arrow(rows, provenance), out)
    return out.getvalue()
