"""How long one thing takes beside another.

Two tasks are run by turns, A B B A, in one process: what slows the machine for
a while slows both, and what the second of a pair gains by being second, each
gains once. Such a round gives one ratio; of all rounds the median is reported,
with a bootstrap interval. A sample repeats its task until the clock and the loop
don't count; what the task needs, and what it leaves, is seen to untimed. On one
machine, medians of tests that ran one after the other differed by 42 % for
identical code; paired ratios of it by 0.25 %.
"""

import contextlib
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from extmeta.checks import same

Floats = npt.NDArray[np.float64]
Clock = Callable[[], int]

# A sample lasts about this long: 5,000 times what reading the clock takes, and
# well below a scheduler's tick, so that few samples are interrupted.
SAMPLE_NS = 250_000

# The interval narrows with the root of their number: on a shared two-core guest
# identical code was told apart by 3 % with 30 rounds, by 6 % with 10.
ROUNDS = 30
QUICK_ROUNDS = 15

# What a median and its interval can be had of at all.
MIN_ROUNDS = 5

# No more rounds than MIN_ROUNDS once a ratio has taken this long.
BUDGET_NS = 2_000_000_000
QUICK_BUDGET_NS = 100_000_000

# A sample repeats its task no more often, even if that takes next to nothing.
MAX_REPEAT = 1 << 14

RESAMPLES = 2000
CONFIDENCE = 0.95

# Well above the L2 caches there are (4 MiB); a page table that is smaller may
# be read faster than this says, hence the size is a parameter.
BANDWIDTH_BYTES = 64 << 20

# Below, numpy's call (2 us) is no longer small beside the reading.
LEAST_BANDWIDTH_BYTES = 1 << 20
BANDWIDTH_ROUNDS = 9


def _nothing(_state: Any) -> None:
    pass


@dataclass(frozen=True)
class Task:
    """An operation to be timed, and what belongs around it.

    Attributes
    ----------
    ready : callable
        ``ready()``, untimed: returns the state to run on.
    run : callable
        ``run(state)``, timed: the operation, once.
    check : callable
        ``check(state, result)``, once before anything is timed: raises
        AssertionError unless the operation did all of its work.
    done : callable
        ``done(state)``, untimed: undoes or frees.
    each : bool
        Whether every run needs `ready` and `done` around it, and so its own
        two readings of the clock (0.06 us); else they go around the sample.
    """

    ready: Callable[[], Any]
    run: Callable[[Any], Any]
    check: Callable[[Any, Any], None]
    done: Callable[[Any], None] = _nothing
    each: bool = False


@dataclass(frozen=True)
class Paired:
    """The outcome of `paired`.

    Attributes
    ----------
    ratio, low, high : float
        Other to baseline: median and interval.
    baseline_ns : float
        The time of one run of the baseline: the median sample.
    pairs, repeat : int
    """

    ratio: float
    low: float
    high: float
    baseline_ns: float
    pairs: int
    repeat: int


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the garbage collector from what is timed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def verify(task: Task) -> None:
    """Run a task once and check that it did its work."""
    state = task.ready()
    task.check(state, task.run(state))
    task.done(state)


def sample(task: Task, repeat: int, clock: Clock = time.perf_counter_ns) -> int:
    """Return how long ``repeat`` runs of a task take, in ns of the clock."""
    run = task.run
    took = 0
    if task.each:
        for _ in range(repeat):
            state = task.ready()
            start = clock()
            run(state)
            took += clock() - start
            task.done(state)
    else:
        state = task.ready()
        start = clock()
        for _ in itertools.repeat(None, repeat):
            run(state)
        took = clock() - start
        task.done(state)
    # A clock may be too coarse to see anything; a ratio needs a number.
    return max(took, 1)


def calibrate(
    task: Task, sample_ns: int = SAMPLE_NS, clock: Clock = time.perf_counter_ns
) -> int:
    """Return how many runs of a task make a sample of ``sample_ns``."""
    repeat = 1
    while True:
        # The faster of two: a first run may find everything cold.
        took = min(sample(task, repeat, clock) for _ in range(2))
        if took >= sample_ns / 2 or repeat == MAX_REPEAT:
            return min(MAX_REPEAT, max(1, -(-repeat * sample_ns // took)))
        # Short ones tell little: come nearer in steps.
        repeat = min(MAX_REPEAT, repeat * min(10, max(2, sample_ns // took)))


def interval(ratios: Floats, seed: int = 0) -> tuple[float, float, float]:
    """Return the median of some ratios and its bootstrap interval.

    Parameters
    ----------
    ratios : (n,) float64 ndarray
        All above 0.
    seed : int

    Returns
    -------
    median, low, high : float
        Geometric: a ratio and its inverse have inverse results.
    """
    logs = np.log(ratios)
    rng = np.random.default_rng(seed)
    drawn = logs[rng.integers(len(logs), size=(RESAMPLES, len(logs)))]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.median(drawn, axis=1), (tail, 100 - tail))
    return float(np.exp(np.median(logs))), float(np.exp(low)), float(np.exp(high))


def paired(
    baseline: Task,
    other: Task,
    *,
    rounds: int = ROUNDS,
    sample_ns: int = SAMPLE_NS,
    budget_ns: int = BUDGET_NS,
    seed: int = 0,
    clock: Clock = time.perf_counter_ns,
) -> Paired:
    """Time two tasks by turns and return the ratio of the second to the first.

    Both are verified first, which also warms them up. A sample has as many
    runs on both sides: so many that one of the baseline lasts ``sample_ns``.

    Parameters
    ----------
    baseline, other : Task
    rounds : int
        Each has four samples, A B B A.
    sample_ns, budget_ns : int
        How long a sample is to last, and how long all of them together, before
        it stops at fewer rounds: at `MIN_ROUNDS` or later.
    seed : int
        Seed of the bootstrap.
    clock : callable
        Returns ns.
    """
    tasks = (baseline, other)
    took: list[list[int]] = []
    with no_garbage_collection():
        for task in tasks:
            verify(task)
        repeat = calibrate(baseline, sample_ns, clock)
        start = clock()
        while len(took) < rounds:
            # By index: both may be the same task.
            took.append([sample(tasks[side], repeat, clock) for side in (0, 1, 1, 0)])
            if len(took) >= MIN_ROUNDS and clock() - start > budget_ns:
                break
    times = np.array(took, np.float64)
    a, b = times[:, [0, 3]], times[:, [1, 2]]
    ratio, low, high = interval(np.sqrt((b / a).prod(axis=1)), seed)
    return Paired(
        ratio=ratio,
        low=low,
        high=high,
        baseline_ns=float(np.median(a)) / repeat,
        pairs=2 * len(took),
        repeat=repeat,
    )


def bandwidth(
    nbytes: int = BANDWIDTH_BYTES,
    *,
    rounds: int = BANDWIDTH_ROUNDS,
    clock: Clock = time.perf_counter_ns,
) -> float:
    """Return how fast one thread reads an array of uint64, in bytes/s.

    The fastest of several rounds of ``max()``, of all of numpy's reductions the
    nearest to a scan's loop: vectorised loads, a comparison, nothing written.

    Parameters
    ----------
    nbytes : int
        Size of the array, raised to `LEAST_BANDWIDTH_BYTES`; its pages are
        touched before.
    rounds : int
    clock : callable
    """
    nbytes = max(nbytes, LEAST_BANDWIDTH_BYTES) // 8 * 8
    task = reading(nbytes)
    with no_garbage_collection():
        verify(task)
        repeat = calibrate(task, clock=clock)
        best = min(sample(task, repeat, clock) for _ in range(rounds))
    return nbytes * repeat / best * 1e9


def reading(nbytes: int) -> Task:
    """Return the task of reading an array of uint64 once."""
    array = np.arange(nbytes // 8, dtype=np.uint64)
    return Task(
        ready=lambda: array,
        run=np.max,
        check=lambda a, result: _assert_last(a, int(result)),
    )


def _assert_last(array: npt.NDArray[np.uint64], result: int) -> None:
    same(result, len(array) - 1)
