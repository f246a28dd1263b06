"""The result of `extmeta.compare`: its rows, and what can be made of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from extmeta.comparing import engine
from extmeta.cost.crossover import crossover
from extmeta.cost.forms import default_forms
from extmeta.names import unknown
from extmeta.reports import brief, comparison
from extmeta.reports.document import flat, ram
from extmeta.reports.layout import plain
from extmeta.reports.missing import told
from extmeta.reports.subjects import by_subject
from extmeta.reports.verdict import verdict
from extmeta.rows import BASELINE, Row, Subject

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure


class ComparisonResult:
    """What each encoding costs: rows, sentences, text, frames, charts.

    ``str()`` is the text that `extmeta compare` prints.

    Attributes
    ----------
    rows : tuple of Row
        As `extmeta.rows` defines them. The rows after a Subject are about it.
    provenance : dict
        The machine, versions, the seed, and what the kernel's own operations take.
    missing : tuple of str, or None
        What an interrupted comparison lacks; None if it was not interrupted.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        provenance: dict[str, Any],
        request: engine.Request,
        lacks: Sequence[str] | None = None,
    ) -> None:
        self.rows = tuple(rows)
        self.provenance = provenance
        self.missing = None if lacks is None else tuple(lacks)
        self._request = request

    @property
    def verdict(self) -> list[str]:
        """What the rows say, in a few sentences with figures."""
        return [plain(said) for said in verdict(self.rows, self.provenance)]

    def rows_of(self, kind: str) -> list[Row]:
        """Return the rows of one kind, for example "Ram" or "Cpu".

        Raises
        ------
        ValueError
            If there is no such kind of row.
        """
        if kind not in comparison.KINDS:
            raise ValueError(unknown("kind of row", kind, comparison.KINDS))
        return [row for row in self.rows if type(row).__name__ == kind]

    def to_pandas(self, kind: str | None = None) -> pd.DataFrame:
        """Return a frame.

        Parameters
        ----------
        kind : str, optional
            A kind of row, for example "Ram" or "Cpu": a line for each row, a column for
            each attribute, and columns with the subject, arch and words that it is
            about. By default there is a line for each figure of each row.

        Raises
        ------
        ImportError
            If pandas is not installed.
        ValueError
            If there is no such kind of row.
        """
        with _needs("to_pandas()", "pandas", "pandas"):
            import pandas as pd
        if kind is None:
            return pd.DataFrame(flat.figures(self.rows), columns=flat.Figure._fields)
        return pd.DataFrame(self._records(kind))

    def to_arrow(self, kind: str | None = None) -> pa.Table:
        """Return an Arrow table of what `to_pandas` has.

        Raises
        ------
        ImportError
            If pyarrow is not installed.
        ValueError
            If there is no such kind of row.
        """
        with _needs("to_arrow()", "pyarrow", "parquet"):
            import pyarrow as pa
        if kind is None:
            return flat.to_arrow(self.rows, self.provenance)
        return pa.Table.from_pylist(self._records(kind))

    def to_json(self) -> str:
        """Return the JSON that `extmeta compare --json` writes, and --from reads."""
        complete = self.missing is None
        return comparison.to_json(
            self.rows, self.provenance, complete, self.missing or ()
        )

    def plot_crossover(self) -> Figure:
        """Draw bytes a flagged PTE by the number of flagged PTEs in a table.

        They are counted in full tables when this is called, with the fields and
        encodings of this comparison; a panel above shows what tables the compared
        address spaces have.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        with _needs("plot_crossover()", "matplotlib", "report"):
            from extmeta.reports.document import charts
        request = self._request
        first = next(row for row in self.rows if isinstance(row, Subject))
        rows = crossover(
            request.forms or default_forms(),
            request.fields,
            arch=first.arch,
            seed=request.seed,
            kind=first.words,
        )
        curves = by_subject(rows)
        spaces = [c for c in by_subject(self.rows) if c.spreads]
        (chart,) = ram.crossover_section(curves, spaces).charts
        return charts.drawing(chart, [BASELINE, *map(plain, curves[0].encodings)])

    def _records(self, kind: str) -> list[dict[str, Any]]:
        """Return a dict for each row of a kind, with the subject that it is about."""
        self.rows_of(kind)
        cls = comparison.KINDS[kind]
        derived = [name for name, of in vars(cls).items() if isinstance(of, property)]
        found = []
        about: dict[str, str] = {}
        for row in self.rows:
            if isinstance(row, Subject):
                about = {"subject": row.name, "arch": row.arch, "words": row.words}
            if isinstance(row, cls):
                values = {name: getattr(row, name) for name in derived}
                found.append({**about, **dataclasses.asdict(row), **values})
        return found

    def __str__(self) -> str:
        text = brief.text(self.rows, self.provenance)
        return text if self.missing is None else f"{told(self.missing)}\n\n{text}"

    def __repr__(self) -> str:
        subjects = [row for row in self.rows if isinstance(row, Subject)]
        names = ", ".join(dict.fromkeys(plain(row.name) for row in subjects))
        arches = ", ".join(dict.fromkeys(row.arch for row in subjects))
        return f"<ComparisonResult of {names} on {arches}: {len(self.rows)} rows>"

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.verdict)
        return (
            f"<p><b>{escape(repr(self)[1:-1])}</b></p><ul>{said}</ul>"
            f"<details><summary>all figures</summary><pre>{escape(str(self))}</pre>"
            "</details>"
        )


@contextlib.contextmanager
def _needs(call: str, package: str, extra: str) -> Iterator[None]:
    """Name the extra that installs a package if it can't be imported in the block."""
    try:
        yield
    except ImportError:
        raise ImportError(
            f"{call} needs {package}: pip install 'extmeta[{extra}]'"
        ) from None
