"""The table of demands: memory set aside, tables re-pointed."""

import textwrap
from collections.abc import Iterator

from extmeta.reports.figures import size
from extmeta.reports.layout import add_row, new_table, rendered, wrapped
from extmeta.reports.subjects import Comparison
from extmeta.rows import SET_ASIDE


def demands_table(c: Comparison) -> Iterator[str]:
    """Yield what operations need from a kernel: memory set aside, TLB flushes."""
    if not c.demands:
        return
    names = list(dict.fromkeys(name for name, _operation in c.demands))
    operations = list(dict.fromkeys(operation for _name, operation in c.demands))
    asking, silent = [SET_ASIDE], []
    for operation in operations[1:]:
        rows = [row for (_name, of), row in c.demands.items() if of == operation]
        if any(row.aside or row.repointings for row in rows):
            asking.append(operation)
        elif any(row.aside is not None for row in rows):
            silent.append(operation)
    heads = ["\n".join(textwrap.wrap(operation, 10)) for operation in asking]
    table = new_table("bytes a table", heads, 17, 10)
    for name in names:
        found = [c.demands.get((name, operation)) for operation in asking]
        cells = ["-" if r is None or r.aside is None else size(r.aside) for r in found]
        add_row(table, name, cells)
    moved = dict.fromkeys(r.encoding for r in c.demands.values() if r.repointings)
    if moved:
        add_row(table, "tables re-pointed", [])
    for name in moved:
        found = [c.demands.get((name, operation)) for operation in asking]
        cells = ["" if row is None else f"{row.repointings:g}" for row in found]
        add_row(table, f"  {name}", cells)
    lines = [
        "Memory that a kernel sets aside, because it can't allocate under the "
        "page-table lock. The table has the bytes for one PTE table all of whose PTEs "
        "have a word: what is set aside so that any operation can be done, and what "
        "each operation takes of it. The PTE table of a split comes on top. These take "
        f"nothing in any encoding: {', '.join(silent) or '-'}. fork and move may "
        "allocate. "
        + (
            "Each table that is re-pointed takes one TLB flush more than the operation "
            "itself does. Encodings without a row there re-point none."
            if moved
            else "No table is re-pointed, which would take a TLB flush."
        )
    ]
    yield "\n".join((*map(wrapped, lines), rendered(table)))
