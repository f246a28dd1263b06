"""A report as plain text of 72 columns, as for a mailing list."""

import textwrap
from collections.abc import Iterator

from extmeta.reports.document.pictures import Document, Table, short_tables

COLUMNS = 72

# Longer tables are left out: nobody reads 384 lines of a map in a letter.
MOST_LINES = 40


def text(document: Document) -> str:
    """Return the report, without the tables that are longer than 40 lines."""
    parts = [_underlined(document.title, "=")]
    for section in document.sections:
        tables = short_tables(section, MOST_LINES)
        if not (section.sentences or tables):
            continue
        parts.append(_underlined(section.title, "-"))
        parts += [textwrap.fill(line, COLUMNS) for line in section.sentences]
        for title, table in tables.items():
            blocks = "\n\n".join(_blocks(table))
            parts.append(f"{textwrap.fill(title, COLUMNS)}:\n\n{blocks}")
    return "\n\n".join(parts)


def _underlined(title: str, line: str) -> str:
    wrapped = textwrap.fill(title, COLUMNS)
    return f"{wrapped}\n{line * max(map(len, wrapped.splitlines()))}"


def _blocks(table: Table) -> Iterator[str]:
    """Yield a table as lines, in as many blocks side by side as the columns need."""
    if table.head == ("what", "value"):
        yield "\n".join(
            textwrap.fill(f"{what}: {value}", COLUMNS, subsequent_indent="  ")
            for what, value in table.rows
        )
        return
    lines = (table.head, *table.rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first = 1
    while first < len(widths):
        stop = first + 1
        while (
            stop < len(widths)
            and widths[0] + sum(w + 2 for w in widths[first : stop + 1]) <= COLUMNS
        ):
            stop += 1
        yield "\n".join(
            line[0].ljust(widths[0])
            + "".join(
                "  " + cell.rjust(width)
                for cell, width in zip(
                    line[first:stop], widths[first:stop], strict=True
                )
            )
            for line in lines
        )
        first = stop
