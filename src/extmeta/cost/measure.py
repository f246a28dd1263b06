"""Times two tasks against each other.

They run by turns, A B B A, in one process: a slow spell of the machine slows both, and
each runs second once. A round gives one ratio; the median of all rounds is reported,
with a bootstrap interval. `of_processes` does this for the rounds of several processes
(:mod:`extmeta.cost.workers`), which differ more than rounds do. A sample repeats its
task until the clock and the loop no longer matter; set-up and clean-up are not timed.
On one machine, medians of tests that ran one after the other differed by 42 % for
identical code; paired ratios by 0.25 %.

The clock is the thread's CPU time: it stands still while another program has the
processor. With two busy loops on two processors, half of the intervals by wall-clock
time reached beyond 140 %; those by CPU time reached 3 % (benchmarks/busy.py).
"""

import contextlib
import dataclasses
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Clock = Callable[[], int]

# A sample lasts about this long: 5,000 times what reading the clock takes, and
# well below a scheduler's tick, so that few samples are interrupted.
SAMPLE_NS = 250_000

# The most rounds. The interval narrows with the root of their number: on a shared
# two-core guest its reach for identical code was 3 % with 30 rounds, 6 % with 10.
ROUNDS = 60
QUICK_ROUNDS = 60

# The fewest rounds that give an interval.
MIN_ROUNDS = 5

# Rounds of each process if there are several (`workers.PROCESSES`), and the fewest.
PROCESS_ROUNDS = 8
QUICK_PROCESS_ROUNDS = 4
MIN_PROCESS_ROUNDS = 2

# The interval's reach is looked at after every so many rounds: a bootstrap takes about
# as long as a round. With 5, one of 105 intervals under load reached 18 %.
LOOK_ROUNDS = 10

# A ratio stops if its interval reaches less far than this. The noise floor itself is
# about 2 % off 1 from run to run (benchmarks/busy.py), so that less says nothing more.
NARROW = 0.03
QUICK_NARROW = 0.05

# A ratio that has taken this long stops, after MIN_ROUNDS at least.
BUDGET_NS = 2_000_000_000
QUICK_BUDGET_NS = 500_000_000

# The most runs in a sample, however short they are.
MAX_REPEAT = 1 << 14

RESAMPLES = 2000
CONFIDENCE = 0.95


def _nothing(_state: Any) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Task:
    """An operation to be timed, with its set-up, check and clean-up.

    Attributes
    ----------
    ready : callable
        ``ready()``, untimed: returns the state to run on.
    run : callable
        ``run(state)``, timed: the operation, once.
    check : callable
        ``check(state, result)``, once before anything is timed: raises
        AssertionError unless the operation did all its work.
    done : callable
        ``done(state)``, untimed: undoes or frees.
    each : bool
        Whether `ready` and `done` go around every run, which then has two readings of
        the clock of its own (0.2 us of it are counted), or around the sample.
    """

    ready: Callable[[], Any]
    run: Callable[[Any], Any]
    check: Callable[[Any, Any], None]
    done: Callable[[Any], None] = _nothing
    each: bool = False


@dataclasses.dataclass(frozen=True)
class Paired:
    """The outcome of `paired`.

    Attributes
    ----------
    ratio, low, high : float
        Other to baseline: median and interval.
    baseline_ns : float
        Time of one run of the baseline in the median sample.
    pairs, repeat : int
    waited : float
        Share of the wall-clock time in which this thread did not have a processor.
    ratios : tuple of float
        That of each round.
    processes : int
        How many processes the rounds are of.
    """

    ratio: float
    low: float
    high: float
    baseline_ns: float
    pairs: int
    repeat: int
    waited: float = 0.0
    ratios: tuple[float, ...] = ()
    processes: int = 1

    @property
    def reach(self) -> float:
        """How far the interval reaches from the ratio, on its longer side."""
        return max(self.high / self.ratio, self.ratio / self.low) - 1


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable the garbage collector in the block."""
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


def sample(task: Task, repeat: int, clock: Clock = time.thread_time_ns) -> int:
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
    return took


def calibrate(
    task: Task, sample_ns: int = SAMPLE_NS, clock: Clock = time.thread_time_ns
) -> int:
    """Return how many runs of a task make a sample of ``sample_ns``."""
    repeat = 1
    while True:
        # The faster of two: the first may run cold.
        took = max(1, min(sample(task, repeat, clock) for _ in range(2)))
        if took >= sample_ns / 2 or repeat == MAX_REPEAT:
            return min(MAX_REPEAT, max(1, -(-repeat * sample_ns // took)))
        # A short sample is a poor estimate: approach in steps.
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
    return _around(float(np.median(logs)), np.median(drawn, axis=1))


def interval_of_processes(
    ratios: Sequence[Floats], seed: int = 0
) -> tuple[float, float, float]:
    """Return the median of the medians of some processes, and its bootstrap interval.

    Processes are drawn first, then rounds of each that was drawn. The interval is of
    what other processes would have as their median.

    Parameters
    ----------
    ratios : sequence of (n,) float64 ndarray
        Those of each process, all above 0.
    seed : int

    Returns
    -------
    median, low, high : float
        As `interval` returns them, which it calls if there is one process.
    """
    if len(ratios) == 1:
        return interval(ratios[0], seed)
    lengths = np.array([len(part) for part in ratios])
    # Rows of one length; what fills them up is never drawn.
    logs = np.zeros((len(ratios), lengths.max()))
    for row, part in zip(logs, ratios, strict=True):
        row[: len(part)] = np.log(part)
    rng = np.random.default_rng(seed)
    process = rng.integers(len(ratios), size=(RESAMPLES, len(ratios), 1))
    # As many of each as the shortest has: the interval may be too wide, not too narrow.
    round_ = rng.integers(
        lengths[process], size=(RESAMPLES, len(ratios), lengths.min())
    )
    drawn = np.median(np.median(logs[process, round_], axis=2), axis=1)
    median = np.median([np.median(np.log(part)) for part in ratios])
    return _around(float(median), drawn)


def _around(median: float, drawn: Floats) -> tuple[float, float, float]:
    """Return a median of logarithms and the interval of those drawn, as ratios."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return float(np.exp(median)), float(np.exp(low)), float(np.exp(high))


def paired(
    baseline: Task,
    other: Task,
    *,
    rounds: int = ROUNDS,
    least: int = MIN_ROUNDS,
    sample_ns: int = SAMPLE_NS,
    budget_ns: int = BUDGET_NS,
    narrow: float = NARROW,
    seed: int = 0,
    clock: Clock = time.thread_time_ns,
) -> Paired:
    """Time two tasks by turns and return the ratio of the second to the first.

    Both are verified first, which also warms them up. Samples of both have equally many
    runs, chosen so that one of the baseline lasts ``sample_ns``.

    Parameters
    ----------
    baseline, other : Task
    rounds, least, sample_ns, budget_ns, narrow, seed
        See `in_rounds`; ``sample_ns`` is how long a sample should last.
    clock : callable
        Returns ns.
    """
    tasks = (baseline, other)
    with no_garbage_collection():
        for task in tasks:
            verify(task)
        repeat = calibrate(baseline, sample_ns, clock)
        found = in_rounds(
            # By index: both may be the same task.
            lambda side: {"": sample(tasks[side], repeat, clock)},
            rounds=rounds,
            least=least,
            budget_ns=budget_ns,
            narrow=narrow,
            seed=seed,
            clock=clock,
        )[""]
    return dataclasses.replace(
        found, baseline_ns=found.baseline_ns / repeat, repeat=repeat
    )


def in_rounds(
    sampled: Callable[[int], dict[str, int]],
    *,
    rounds: int,
    budget_ns: int,
    narrow: float,
    seed: int,
    clock: Clock,
    least: int = MIN_ROUNDS,
) -> dict[str, Paired]:
    """Take samples of two sides in rounds of A B B A, and return their ratios.

    Parameters
    ----------
    sampled : callable
        ``sampled(side)`` with side 0 or 1 returns the ns of one sample, by name.
    rounds : int
        The most rounds.
    budget_ns : int
        It stops after as much time, untimed work included, and `least` rounds or more.
    narrow : float
        It stops earlier if the interval of the first name reaches less far.
    seed : int
        Seed of the bootstrap.
    clock : callable
        Returns ns.
    least : int
        The fewest rounds.
    """
    took: dict[str, list[list[int]]] = {}
    start, began = clock(), time.perf_counter_ns()
    for done in range(1, rounds + 1):
        samples = [sampled(side) for side in (0, 1, 1, 0)]
        for name in samples[0]:
            # A coarse clock may show 0, which has no ratio.
            times = [max(1, each[name]) for each in samples]
            took.setdefault(name, []).append(times)
        if done >= least and clock() - start > budget_ns:
            break
        if done % LOOK_ROUNDS == 0:
            first = next(iter(took.values()))
            if of_rounds(first, seed).reach < narrow:
                break
    passed = max(1, time.perf_counter_ns() - began)
    waited = min(1.0, max(0.0, 1 - (clock() - start) / passed))
    return {name: of_rounds(times, seed, waited) for name, times in took.items()}


def of_rounds(took: list[list[int]], seed: int, waited: float = 0.0) -> Paired:
    """Return the outcome of rounds, each the ns of the samples A B B A."""
    times = np.array(took, np.float64)
    a, b = times[:, [0, 3]], times[:, [1, 2]]
    ratios = np.sqrt((b / a).prod(axis=1))
    return Paired(
        *interval(ratios, seed),
        baseline_ns=float(np.median(a)),
        pairs=2 * len(took),
        repeat=1,
        waited=waited,
        ratios=tuple(ratios.tolist()),
    )


def of_processes(found: Sequence[Paired], seed: int = 0) -> Paired:
    """Return the outcome of the rounds that some processes took of one ratio.

    Its ``baseline_ns``, ``repeat`` and ``waited`` are medians of the processes.
    """
    ratios = [np.array(part.ratios) for part in found]
    return Paired(
        *interval_of_processes(ratios, seed),
        baseline_ns=float(np.median([part.baseline_ns for part in found])),
        pairs=sum(part.pairs for part in found),
        repeat=int(np.median([part.repeat for part in found])),
        waited=float(np.median([part.waited for part in found])),
        ratios=tuple(ratio for part in found for ratio in part.ratios),
        processes=len(found),
    )
