"""The crossover: which encoding is the smallest, by the flagged PTEs of a table."""

from collections.abc import Iterator, Sequence

from extmeta.arch import arch_named
from extmeta.cost.space import full_tables
from extmeta.cost.sweep import Held
from extmeta.fields import Fields
from extmeta.rows import EACH, Blocks, Point, Ram, Refused, Row, smallest

# Full tables to compare. With this many a table bears its share of a slab, or of a
# hash table.
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
    """Tell which encoding is the smallest, by the flagged PTEs of a table.

    In full tables, of which each has as many flagged at random: 1, 2, 4 and so on,
    and where between two of these another becomes the smallest, the first at which
    it is, by bisection.

    Parameters
    ----------
    forms, fields, seed, kind
        As of `sweep`.
    arch : str
    nr_tables : int

    Yields
    ------
    Row
        Subject, Refused, and Ram in the order of what is flagged, their placement
        `EACH`.

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
