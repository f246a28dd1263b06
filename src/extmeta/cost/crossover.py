"""Finds the smallest encoding by the number of flagged PTEs in a table."""

from collections.abc import Iterator, Sequence

from extmeta.arch import arch_named
from extmeta.cost.space import full_tables
from extmeta.cost.sweep import Held
from extmeta.fields import Fields
from extmeta.rows import EACH, Blocks, Point, Ram, Refused, Row, smallest

# Full tables to compare: enough that each bears its share of a slab or a hash table.
CROSSOVER_TABLES = 256


def crossover(
    forms: Sequence[str],
    fields: Fields,
    *,
    arch: str = "x86_64",
    nr_tables: int = CROSSOVER_TABLES,
    seed: int = 0,
    kind: str = "different",
) -> Iterator[Row]:
    """Find the smallest encoding by the number of flagged PTEs in a table.

    All tables are full and have an equal number of random PTEs flagged: 1, 2, 4 and so
    on. If another encoding becomes the smallest between two of these, bisection finds
    the first number at which it is.

    Parameters
    ----------
    forms, fields, seed, kind
        As of `sweep`.
    arch : str
    nr_tables : int

    Yields
    ------
    Row
        Subject, Refused, and Ram by the number of flagged PTEs, with placement `EACH`.

    Raises
    ------
    ValueError
        As `sweep` does.
    """
    size = arch_named(arch).ptrs_per_pte
    space = full_tables(nr_tables, arch)
    held = Held(space, forms, fields, seed=seed, kind=kind)
    yield from held.head
    found: dict[int, list[Ram | Blocks | Refused]] = {}

    def leader(each: int, before: str) -> str:
        if each not in found:
            found[each] = held.at(Point(each / size, EACH))
        return smallest(found[each], before)

    lower = 1
    lead = leader(lower, "")
    yield from found[lower]
    while lower < size:
        upper = following = 2 * lower
        while leader(upper, lead) != lead and upper - lower > 1:
            middle = (lower + upper) // 2
            if leader(middle, lead) == lead:
                lower = middle
            else:
                upper = middle
        lead = leader(upper, lead)
        if upper != following:
            yield from found[upper]
            lead = leader(following, lead)
        yield from found[following]
        lower = following
