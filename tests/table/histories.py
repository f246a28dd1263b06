"""Is there an order of these operations, one at a time, that explains what they found?

The search of Wing and Gong (1993, Testing and verifying concurrent objects): of all
operations that may come next, because none that ended earlier is left, each one whose
result fits is tried. What was tried is remembered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """One call.

    Attributes
    ----------
    began, ended : int
        When; it took effect in between.
    step : callable
        From a word to what the word is afterwards, and what the call returns then.
    result : object
        What it did return.
    """

    began: int
    ended: int
    step: Callable[[int], tuple[int, object]]
    result: object


def explained(history: Sequence[Operation], word: int) -> bool:
    """Tell whether a word that was ``word`` at first can have had this history."""
    every = (1 << len(history)) - 1
    seen = set()
    left = [(0, word)]
    while left:
        done, now = left.pop()
        if done == every:
            return True
        if (done, now) in seen:
            continue
        seen.add((done, now))
        waiting = [i for i in range(len(history)) if not done >> i & 1]
        first_end = min(history[i].ended for i in waiting)
        for i in waiting:
            if history[i].began <= first_end:
                then, result = history[i].step(now)
                if result == history[i].result:
                    left.append((done | 1 << i, then))
    return False
