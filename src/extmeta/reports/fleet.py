"""What a sweep found, over machines and processes, by DuckDB.

The rows are what `extmeta sweep` wrote. A figure of RAM is what an encoding holds
beyond in-PTE words at the same point. Instructions are estimates, and say so.
"""

import os
from collections.abc import Sequence
from typing import Any

from extmeta.reports.layout import COLUMNS, plain, wrapped
from extmeta.rows import BASELINE, OPERATIONS

QUANTILES = (0.05, 0.5, 0.95, 1.0)

# Classes of processes that are shown; the others are added up.
CLASSES = 12

GIB = 1 << 30

# One view, so that each table is a short query.
_VIEW = f"""
CREATE VIEW found AS
SELECT r.*, r.total - b.total AS extra,
       coalesce(nullif(r.comm, ''), 'pages < 4^' || ceil(ln(r.nr_ptes) / ln(4))) AS class
FROM read_parquet($files, hive_partitioning = true) r
JOIN read_parquet($files, hive_partitioning = true) b
USING (arch, fields, machine, capture, fraction, placement)
WHERE b.encoding = '{BASELINE}' AND r.total IS NOT NULL
"""


class NoRowsError(ValueError):
    """There is no result of a sweep."""


def text(folder: str, machines: int | None = None) -> str:
    """Return the report of a sweep.

    Parameters
    ----------
    folder : str
    machines : int, optional
        Scale the fleet's GiB to so many machines.

    Raises
    ------
    NoRowsError
        If there are no files, or no rows.
    ImportError
        If duckdb is missing.
    """
    import duckdb

    files = os.path.join(folder, "arch=*", "fields=*", "*.parquet")
    found = duckdb.connect()
    try:
        # A view can't have parameters.
        found.execute(_VIEW.replace("$files", "'" + files.replace("'", "''") + "'"))
        groups = found.execute(
            "SELECT DISTINCT arch, fields FROM found ORDER BY ALL"
        ).fetchall()
    except duckdb.IOException:
        raise NoRowsError(f"{folder}: no results of a sweep") from None
    if not groups:
        raise NoRowsError(f"{folder}: its results have no row")
    blocks = []
    for arch, fields in groups:
        rows = _Rows(found, arch, fields)
        scale = machines / rows.machines if machines else 1.0
        blocks += [_head(rows, machines), _quantiles(rows), _winners(rows)]
        blocks += [_fleet(rows, scale), _instructions(rows)]
    return "\n\n".join(block for block in blocks if block)


class _Rows:
    """The rows of one architecture and one set of fields."""

    def __init__(self, connection: Any, arch: str, fields: str) -> None:
        self.connection, self.arch, self.fields = connection, arch, fields
        self.captures, self.machines, self.ptes = self.of(
            "SELECT count(DISTINCT (machine, capture)), count(DISTINCT machine), "
            f"sum(nr_ptes) FILTER (encoding = '{BASELINE}' AND (fraction, placement) = "
            "(SELECT min((fraction, placement)) FROM mine)) FROM mine"
        )[0]

    def of(self, query: str) -> list[tuple[Any, ...]]:
        mine = "WITH mine AS (SELECT * FROM found WHERE arch = ? AND fields = ?) "
        done = self.connection.execute(mine + query, [self.arch, self.fields])
        return [tuple(row) for row in done.fetchall()]


def _head(rows: _Rows, machines: int | None) -> str:
    scaled = f", scaled to {machines:,} machines" if machines else ""
    return wrapped(
        f"{plain(rows.fields)} on {plain(rows.arch)}: {rows.captures:,} captures of "
        f"{rows.machines:,} machines, {rows.ptes:,} PTEs{scaled}"
    )


def _quantiles(rows: _Rows) -> str:
    """Return what each encoding holds beyond the baseline, a machine."""
    names = ", ".join(f"quantile_disc(extra, {q})" for q in QUANTILES)
    found = rows.of(
        f"""SELECT encoding, fraction, placement, {names} FROM (
        SELECT encoding, fraction, placement, machine, sum(extra) AS extra
        FROM mine WHERE encoding <> '{BASELINE}' GROUP BY ALL)
        GROUP BY ALL ORDER BY fraction, placement, encoding"""
    )
    heads = [f"{100 * q:g}% of machines" if q < 1 else "the most" for q in QUANTILES]
    return _table(
        "RAM beyond in-PTE words, of a machine's processes, MiB: at most so much in",
        ["words", "encoding", *heads],
        [
            [_point(row[1:3]), row[0], *(f"{n / (1 << 20):,.2f}" for n in row[3:])]
            for row in found
        ],
    )


def _winners(rows: _Rows) -> str:
    """Return which encoding is the smallest, by class of process."""
    found = rows.of(
        f"""SELECT * FROM (
        SELECT fraction, placement, class, count(*) AS captures, mode(best),
        count(*) FILTER (best = usual) FROM (
        SELECT *, mode(best) OVER (PARTITION BY fraction, placement, class) AS usual
        FROM (SELECT fraction, placement, class, machine, capture,
        arg_min(encoding, (total, encoding)) AS best
        FROM mine WHERE encoding <> '{BASELINE}' AND fraction > 0 GROUP BY ALL))
        GROUP BY ALL) QUALIFY row_number() OVER (
        PARTITION BY fraction, placement ORDER BY captures DESC, class) <= {CLASSES}
        ORDER BY fraction, placement, captures DESC, class"""
    )
    return _table(
        f"The smallest beside in-PTE words, by process; the {CLASSES} most frequent",
        ["words", "process", "captures", "encoding", "share"],
        [
            [
                _point(row[:2]),
                plain(row[2]),
                f"{row[3]:,}",
                row[4],
                f"{row[5] / row[3]:.0%}",
            ]
            for row in found
        ],
    )


def _fleet(rows: _Rows, scale: float) -> str:
    """Return what use of 1 % and of all PTEs costs all machines together."""
    found = rows.of(
        f"""SELECT encoding, fraction, placement, sum(extra), sum(total) FROM mine
        WHERE fraction IN (0.01, 1) AND encoding <> '{BASELINE}'
        GROUP BY ALL ORDER BY fraction, placement, sum(extra), encoding"""
    )
    return _table(
        "All machines, GiB",
        ["words", "encoding", "beyond in-PTE", "with page tables"],
        [
            [_point(row[1:3]), row[0], *(f"{scale * n / GIB:,.3f}" for n in row[3:])]
            for row in found
        ],
    )


def _instructions(rows: _Rows) -> str:
    """Return the estimated instructions, over the baseline's."""
    ratios = ", ".join(
        f"sum(r.estimated_{name}) / sum(b.estimated_{name})" for name in OPERATIONS
    )
    found = rows.of(
        f"""SELECT r.encoding, r.fraction, r.placement, {ratios} FROM mine r JOIN mine b
        USING (machine, capture, fraction, placement)
        WHERE b.encoding = '{BASELINE}' AND r.encoding <> '{BASELINE}'
        AND r.estimated_load IS NOT NULL
        GROUP BY ALL ORDER BY r.fraction, r.placement, r.encoding"""
    )
    return _table(
        "Instructions over those of in-PTE words; estimated from fills of PTE tables",
        ["words", "encoding", *OPERATIONS],
        [
            [
                _point(row[1:3]),
                row[0],
                *("" if n is None else f"{n:.2f}" for n in row[3:]),
            ]
            for row in found
        ],
    )


def _point(of: Sequence[Any]) -> str:
    return f"{100 * of[0]:g}% {of[1]}".rstrip()


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text; "" if it has no row."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    texts = heads.index("encoding") + 1

    def line(cells: Sequence[str]) -> str:
        padded = [
            f"{cell:<{width}}" if i < texts else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()[:COLUMNS]

    return "\n".join([wrapped(title), *map(line, [heads, *rows])])
