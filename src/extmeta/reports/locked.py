"""The tables of what each operation does under the lock of a PTE table."""

import textwrap
from collections.abc import Callable, Iterator

from extmeta.reports.layout import add_row, new_table, rendered, wrapped
from extmeta.reports.subjects import Comparison
from extmeta.rows import Locked

ACROSS = 6

# The longest section is printed too if it took this much more than the average.
WORSE = 1.1

# Marks that the descriptor changes.
MARK = "*"


def locked_tables(c: Comparison) -> Iterator[str]:
    """Yield the instructions between lock and unlock, and those before."""
    if not c.locked:
        return
    yield wrapped(
        "What each operation does under the lock of a full PTE table, all of whose PTEs "
        "have a word, as the kernel's loops do it: instructions between lock and unlock, "
        "in thousands, for a table, and behind the stroke the most in one turn if that "
        f"is more. {MARK}: the link or the count in the descriptor changes. They lie in "
        "the lock's cache line, so none more is touched, unless the kernel allocates the "
        "lock apart. each: words one entry at a time; a fork then locks twice. Nothing is "
        "allocated under the lock. A kernel that can't make room before takes what was "
        "set aside, above. Left out: cache misses, waiting, TLB flushes, what a fault "
        "does before it has the lock; a copy of 4 KiB counts as 150 instructions or so."
    )
    yield from _tables(c, "under the lock", lambda r: (r.held, r.held_most))
    yield wrapped(
        "Before the lock: making room, and the words of a fork if they are copied or "
        "shared at once. This may allocate. The words of a fork of xarray and hash are not "
        "counted: they are copied as a whole, before the first table."
    )
    yield from _tables(c, "before the lock", lambda r: (r.before, r.before_most))


def _tables(
    c: Comparison, title: str, numbers: Callable[[Locked], tuple[float, float]]
) -> Iterator[str]:
    names = list(dict.fromkeys(name for name, _operation in c.locked))
    operations = list(dict.fromkeys(operation for _name, operation in c.locked))
    for at in range(0, len(operations), ACROSS):
        across = operations[at : at + ACROSS]
        heads = ["\n".join(textwrap.wrap(operation, 12)) for operation in across]
        table = new_table(title, heads, 17, 12)
        for name in names:
            rows = [c.locked.get((name, operation)) for operation in across]
            add_row(table, name, [_cell(r, *numbers(r)) if r else "" for r in rows])
        yield rendered(table)


def _cell(row: Locked, mean: float, most: float) -> str:
    mark = MARK * (row.described > 0 and (mean, most) == (row.held, row.held_most))
    worst = f"/{_thousands(most)}" if most > WORSE * mean else ""
    return f"{_thousands(mean)}{worst}{mark}"


def _thousands(number: float) -> str:
    return (
        f"{number / 1000:,.{0 if number >= 99_500 else 1 if number >= 9_950 else 2}f}"
    )
