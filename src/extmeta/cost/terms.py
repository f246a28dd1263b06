"""Which numbers of a census decide what an operation takes, and what each one costs.

A number costs no less than nothing, which keeps numbers that grow together apart: with
costs of either sign, small spaces can be explained by large costs of opposite signs, and
large spaces are then far off.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from extmeta.cost import census
from extmeta.rows import OPERATIONS

Floats = npt.NDArray[np.float64]

# An operation's count has this weight's power: 0 makes errors small in instructions, 1
# in percent. Samples are small, and captures large.
WEIGHT = 0.5

# What counts as 0, of the largest.
CLOSE = 1e-9

# Samples are left out in so many parts to choose between terms.
PARTS = 5

# Numbers that the loops of an operation count; names as in `census`, and a name without
# a level for those of all levels. A load and a store have all that no family has.
_ABOUT = ("one", "whole", "whole_worded", "part_worded", "entries")
_PLAIN: dict[str, tuple[str, ...]] = {
    "update": (
        *_ABOUT,
        *("tables", "none", "unflagged", "flagged", "swapped", "swapped_flagged"),
        *("holes", "empty", "swap_blocks", "full_blocks", "flagged_blocks"),
        "both_blocks",
    ),
    "clear": (
        *_ABOUT,
        *("tables", "none", "unflagged"),
        *("holes", "empty", "gatherw", "swap_blocks", "full_blocks"),
        *("flagged_blocks", "all_flagged", "flagged_beside", "swapped"),
        *("swapped_flagged", "flagged", "zeroed", "cut_tables", "cut_words"),
    ),
    "scan": (
        *_ABOUT,
        *("part", "swap_blocks", "gather", "gatherw", "flagged_blocks"),
        *("all_flagged", "flagged_beside", "matched_blocks", "all_matched"),
        *("matched_beside", "found"),
    ),
    "fork": (
        *("one", "tables", "worded", "after", "upper0", "upper1", "fork_steps"),
        *("flagged", "flagged_blocks", "leaves", "deposited", "leaf_steps"),
    ),
    "unmap": (
        *(*_ABOUT, "part", "part_entries", "part_words"),
        *("upper0", "upper1", "flagged", "flagged_blocks", "pruned"),
        *("leaves_within", "deposited", "drop_steps"),
    ),
}

# Entries beside words, each of which is looked up by its vpn.
_BESIDE = (
    *("worded_entries", "beside", "part_blocks", "part_worded_entries"),
    *("part_beside", "few_probed", "group_probed"),
)
# More numbers, for one kind of encoding each: `adaptive` chooses a container by a table's
# words or entries; a hash table sorts words or probes for them; a tree has nodes; and
# what belongs to pages is looked up for each PTE, if there is any.
_FAMILIES: dict[str, tuple[str, ...]] = {
    "none of these": (),
    "containers": ("short", "long", "words", "held", "bare"),
    "hash": (
        *("sorts", "sort_moves", "sorted", "sorted_vpns"),
        *("probed", "probed_words", "probed_beside", *_BESIDE),
    ),
    "tree": (
        *("leaf_blocks", "leaf_nodes", "pieces", "pieces_listed", "blocks", "nodes"),
        *("flagged_nodes", "block_beside", "block_none", *_BESIDE),
    ),
    "pages": (
        *("any", "any_runs", "any_vpns", "any_tables", "any_entries", "any_mapped"),
        *_BESIDE,
    ),
}


def numbers_of(operation: str) -> Sequence[str]:
    """Return the names of what is counted for an operation."""
    return census.ARRAY_NAMES if operation in ("load", "store") else census.WALK_NAMES


def _family_of(name: str) -> str:
    """Return what a number is called for all levels, or classes of tables."""
    if name.startswith(("gather", *_FAMILIES["containers"])):
        return name.partition("_")[0].rstrip("0123456789")
    return name.rstrip("0123456789")


def _terms(operation: str) -> list[npt.NDArray[np.int64]]:
    """Return which numbers may be terms: plain ones, with those of each family."""
    names = numbers_of(operation)
    special = {name for family in _FAMILIES.values() for name in family}
    plain = set(_PLAIN.get(operation, ())) or {*map(_family_of, names)} - special
    return [
        np.flatnonzero([{name, _family_of(name)} & wanted != set() for name in names])
        for wanted in (plain | {*family} for family in _FAMILIES.values())
    ]


TERMS = {name: _terms(name) for name in OPERATIONS}


def fitted(operation: str, numbers: Floats, counts: Floats) -> Floats:
    """Return what each number costs.

    Of several sets of terms that is taken which tells best what samples cost that were
    left out.

    Parameters
    ----------
    operation : str
    numbers : (n, k) float64 ndarray
        Of n samples, see `numbers_of`.
    counts : (n,) float64 ndarray
        Instructions.

    Returns
    -------
    (k,) float64 ndarray
    """
    part = np.arange(len(counts)) % PARTS

    def off(terms: npt.NDArray[np.int64]) -> float:
        errors = []
        for left_out in range(PARTS):
            other = part == left_out
            found = _solved(numbers[~other][:, terms], counts[~other])
            errors.append(numbers[other][:, terms] @ found - counts[other])
        return float(np.abs(np.concatenate(errors)).sum())

    terms = min(TERMS[operation], key=off)
    each = np.zeros(numbers.shape[1])
    each[terms] = _solved(numbers[:, terms], counts)
    return each


def _solved(numbers: Floats, counts: Floats) -> Floats:
    """Solve numbers @ costs = counts by least squares, with no cost below 0.

    By the active set of Lawson and Hanson (Solving Least Squares Problems, 1974).
    """
    weight = counts**-WEIGHT
    rows = numbers * weight[:, None]
    scale = np.sqrt((rows**2).sum(axis=0))
    used = np.flatnonzero(scale)
    rows, wanted = rows[:, used] / scale[used], counts * weight
    costs = np.zeros(len(used))
    above = np.zeros(len(used), np.bool_)
    least = CLOSE * np.abs(rows.T @ wanted).max()
    # Each pass makes one more cost positive; more passes than this are a circle.
    for _ in range(3 * len(used)):
        slope = rows.T @ (wanted - rows @ costs)
        slope[above] = 0
        if slope.max(initial=0) <= least:
            break
        above[slope.argmax()] = True
        while True:
            best = np.zeros(len(used))
            best[above] = np.linalg.lstsq(rows[:, above], wanted, rcond=CLOSE)[0]
            below = above & (best <= 0)
            if not below.any():
                break
            # Go towards the best until the first cost is 0, which then stays so.
            room = np.full(len(used), np.inf)
            room[below] = costs[below] / (costs[below] - best[below])
            costs += room.min() * (best - costs)
            above[room.argmin()] = False
            costs[~above] = 0
        costs = best
    found = np.zeros(numbers.shape[1])
    found[used] = costs / scale[used]
    return found
