"""A report as Markdown: its sentences, and its tables up to 40 lines."""

from extmeta.reports.document.letter import MOST_LINES
from extmeta.reports.document.pictures import Document, Table, short_tables

# Characters with a meaning in the text of a cell or a sentence.
SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\|_*<>[]"})


def text(document: Document) -> str:
    """Return the report, without the tables that are longer than 40 lines."""
    parts = [f"# {_plain(document.title)}"]
    for section in document.sections:
        tables = short_tables(section, MOST_LINES)
        if not (section.sentences or tables):
            continue
        parts.append(f"## {_plain(section.title)}")
        parts += [_plain(line) for line in section.sentences]
        for title, table in tables.items():
            parts += [f"### {_plain(title)}", _table(table)]
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    return text.translate(SPECIAL)


def _table(table: Table) -> str:
    head, *rows = ([*map(_plain, line)] for line in (table.head, *table.rows))
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))
