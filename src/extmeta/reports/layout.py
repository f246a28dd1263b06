"""The layout of reports: 100 columns, plain text, tables."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

# rich is imported where a table is drawn: `extmeta --help` needs none.
if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = 100

# How many fit side by side into 100 columns.
POINTS_ACROSS = 8
OPERATIONS_ACROSS = 7
ENCODINGS_ACROSS = 8


def plain(text: str) -> str:
    """Return text on one line, control characters replaced."""
    return "".join(char if char.isprintable() else "?" for char in text)


def wrapped(line: str, indent: int = 0) -> str:
    """Return a line broken to 100 columns."""
    return textwrap.fill(line, COLUMNS, subsequent_indent=" " * indent)


def rendered(table: "Table") -> str:
    """Return a table as text."""
    from rich.console import Console

    # COLUMNS or FORCE_COLOR in the environment must not change the text.
    console = Console(
        file=io.StringIO(),
        width=COLUMNS,
        color_system=None,
        force_terminal=False,
        highlight=False,
        _environ={},
    )
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def new_table(
    first: str, columns: Sequence[str], name_width: int, width: int
) -> "Table":
    """Return a table with a first column of names."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(
        Text(first), width=name_width, no_wrap=True, overflow="ellipsis", style=""
    )
    for column in columns:
        table.add_column(Text(column), justify="right", width=width, no_wrap=True)
    return table


def add_row(table: "Table", name: str, cells: Iterable[str]) -> None:
    """Add a row to a table: a name and its cells."""
    from rich.text import Text

    table.add_row(Text(plain(name)), *(Text(cell) for cell in cells))
