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

# Terms that tell how many words, or entries, a table has: what `adaptive` goes by.
_BY_WORDS = ("short", "long", "words")
_BY_ENTRIES = ("held", "bare")

# What `hash` goes by: whether it sorts its words before it visits PTEs.
_BY_HASH = ("sorts", "sort_moves", "sorted", "probed", "probed_words")

# Numbers that the loops of an operation count; names as in `census`, and a name without
# a level for those of all levels.
_ABOUT = ("one", "whole", "whole_worded", "part_worded", "entries", *_BY_HASH)
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
        *("one", "whole", "whole_worded", "part", "part_worded", "part_entries"),
        "part_words",
        *("upper0", "upper1", "flagged", "flagged_blocks", "pruned"),
        *("leaves_within", "deposited", "drop_steps"),
    ),
}


def numbers_of(operation: str) -> Sequence[str]:
    """Return the names of what is counted for an operation."""
    return census.ARRAY_NAMES if operation in ("load", "store") else census.WALK_NAMES


def _level_of(name: str) -> str:
    """Return what a number of one level, or of gather(), is called for all levels."""
    if name.startswith("gather"):
        return name.partition("_")[0]
    return name.rstrip("0123456789")


def _terms(operation: str) -> list[npt.NDArray[np.int64]]:
    """Return which numbers may be terms: plain ones, and those with tables by words."""
    names = numbers_of(operation)
    more = _BY_WORDS + _BY_ENTRIES if operation == "update" else _BY_WORDS
    if operation in ("load", "store"):
        plain = [not name.startswith(_BY_WORDS) for name in names]
    else:
        wanted = _PLAIN[operation]
        plain = [name in wanted or _level_of(name) in wanted for name in names]
    wide = [
        one or name.startswith(more) for one, name in zip(plain, names, strict=True)
    ]
    return [np.flatnonzero(plain), np.flatnonzero(wide)]


TERMS = {name: _terms(name) for name in OPERATIONS}


def fitted(operation: str, numbers: Floats, counts: Floats) -> Floats:
    """Return what each number costs.

    Of two sets of terms that is taken which tells better what samples cost that were
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
            errors.append(numbers[other][:, terms] @ found / counts[other] - 1)
        return float(np.abs(np.concatenate(errors)).mean())

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
