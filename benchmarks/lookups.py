"""Lookups of random vpns, other ones in each run, so that no cache has their lines."""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from extmeta.checks import same
from extmeta.cost.measure import Task

# Runs until the same vpns come again.
NR_RUNS = 16

Turns = Iterator[tuple[Any, np.ndarray]]


def drawn(vpns: np.ndarray, words: np.ndarray, nr_loads: int) -> Turns:
    """Yield random ones of some vpns, with their words."""
    at = np.random.default_rng(1).integers(len(vpns), size=(NR_RUNS, nr_loads))
    return cycle(zip(vpns[at], words[at], strict=True))


def reading(turns: Turns, read: Callable[[Any], Any]) -> Task:
    """Return the task of reading the words of the vpns of the next turn.

    Tasks on one table take their turns from one iterator: if each had its own, the
    second would find the lines that the first has just read.
    """

    def check(turn: tuple[Any, np.ndarray], found: Any) -> None:
        same(np.asarray(found, np.uint64), turn[1], "words differ")

    return Task(lambda: next(turns), lambda turn: read(turn[0]), check, each=True)
