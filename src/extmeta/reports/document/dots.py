"""Makes charts of values by row and series, with a table and words for each."""

from collections.abc import Callable, Mapping, Sequence

from extmeta.reports.document.pictures import Chart, Dots, Table, Value
from extmeta.rows import CONTROL

Cells = Mapping[tuple[str, str], Value]


def dots_chart(
    name: str,
    title: str,
    axis: str,
    scale: str,
    rows: Sequence[str],
    series: Sequence[str],
    cells: Cells,
    shown: Callable[[str, str], str],
    *,
    floor: Mapping[str, Value] | None = None,
    encodings: bool = True,
) -> Chart:
    """Return a chart of ``cells``, by row and series.

    ``shown`` returns the text of a cell that is there. ``floor`` is the noise floor of
    each row: it is `CONTROL` among ``cells``, and drawn as a band instead of a series.
    The table has a line for each encoding, and a column for each of the others.
    """
    there = [s for s in series if any((row, s) in cells for row in rows)]
    lines, columns = (there, rows) if encodings else (rows, there)
    listed = [CONTROL, *lines] if floor else lines

    def text(line: str, column: str) -> str:
        row, one = (column, line) if encodings else (line, column)
        return shown(row, one) if (row, one) in cells else "-"

    table = Table(
        ("encoding", *columns),
        tuple((line, *(text(line, column) for column in columns)) for line in listed),
    )
    picture = Dots(
        axis=axis,
        rows=tuple(rows),
        series={s: tuple(cells.get((row, s)) for row in rows) for s in there},
        scale=scale,
        floor=tuple(floor.get(row) for row in rows) if floor else (),
        encodings=encodings,
    )
    return Chart(name, title, _alt(axis, lines, columns, text, cells), picture, table)


def _alt(
    axis: str,
    lines: Sequence[str],
    columns: Sequence[str],
    text: Callable[[str, str], str],
    cells: Cells,
) -> str:
    """Return the smallest and the largest value of each column in words."""
    said = [f"{axis}."]
    for column in columns:
        at = {
            line: (cells.get((column, line)) or cells.get((line, column)))
            for line in lines
        }
        there = {line: value.at for line, value in at.items() if value}
        if there:
            least = min(there, key=lambda line: there[line])
            most = max(there, key=lambda line: there[line])
            said.append(
                f"{column}: from {text(least, column)} ({least}) to "
                f"{text(most, column)} ({most})."
            )
    return " ".join(said)
