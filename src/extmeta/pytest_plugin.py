"""The pytest fixture `paired`, which compares two callables in interleaved pairs.

    def test_one_array_is_faster_than_many_lines(paired):
        paired(by_line, as_array, ram=True, max_ratio=0.9)

`measure.paired` times them: A B B A in one process, by CPU time, until the interval of
their ratio is narrow. Each ratio comes with its noise floor, the baseline against itself.
A comparison fails if its interval reaches above a limit. The table at the end of the run
has all of them; so has the JSON of pytest-benchmark, if the test uses that fixture too.

`pytest_extmeta` makes all of this known to pytest, and imports this module at the first use.
"""

import contextlib
import dataclasses
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from numbers import Real
from typing import Any

import pytest

from extmeta.checks import same
from extmeta.compared import Compared
from extmeta.cost import instructions, measure, once
from extmeta.cost.measure import Task
from extmeta.integers import whole
from extmeta.reports.paired import LIMITS, exceeded

# Runs by which pytest-benchmark times the other side.
ROUNDS = 10

# How options of other plugins are undone for the run under valgrind.
UNDONE = {"xdist": "-n0", "pytest_cov": "--no-cov", "benchmark": "--benchmark-disable"}


class Pairs:
    """What the fixture `paired` is: compares, remembers and judges."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.node = request.node
        self.config = request.config
        self.request = request
        self.given: dict[str, Any] = {}
        # The closest marker comes first, and counts most.
        for marker in reversed([*self.node.iter_markers("paired")]):
            self.given.update(marker.kwargs)
        if unknown := self.given.keys() - {"group", *LIMITS}:
            raise pytest.UsageError(
                f"the marker paired takes group, {', '.join(LIMITS)}; "
                f"not {', '.join(sorted(unknown))}"
            )
        # A baseline, its set-up, and its noise floor.
        self.floors: list[tuple[object, object, measure.Paired]] = []

    def __call__(
        self,
        baseline: Callable[..., Any] | Task,
        other: Callable[..., Any] | Task,
        *,
        name: str = "",
        baseline_name: str = "",
        group: str = "",
        setup: Callable[[], Any] | None = None,
        teardown: Callable[[Any], object] | None = None,
        check: Callable[[Any], object] | None = None,
        ram: Callable[[Any], int] | tuple[int, int] | bool = False,
        floor: bool = True,
        table: bool = True,
        max_ratio: float | None = None,
        max_ram_ratio: float | None = None,
        max_instruction_ratio: float | None = None,
        **options: Any,
    ) -> Compared:
        """Compare two callables.

        Parameters
        ----------
        baseline, other : callable or Task
            Called without arguments, or with what ``setup`` returns. A
            `measure.Task` has set-up, check and clean-up of its own.
        name, baseline_name, group : str, optional
            By default the functions' names, and the test's without its parameters.
        setup, teardown : callable, optional
            ``setup()`` and ``teardown(state)`` go around every run, untimed.
        check : callable, optional
            ``check(result)`` is called once for each side before anything is timed, and
            raises if the result is wrong. By default both results have to be equal.
        ram : bool or callable, optional
            True: the most that a run has allocated, as `tracemalloc` sees it. Memory that
            a library takes without telling Python is not in it. Or a function of a
            run's result that returns the bytes it holds. Or both sides' bytes.
        floor : bool, optional
            Whether to time the baseline against itself, which takes as long again.
        table : bool, optional
            Whether the table at the end of the run has it.
        max_ratio, max_ram_ratio, max_instruction_ratio : float, optional
            The test fails if the ratio of time, RAM or instructions is above, for time:
            if the upper end of its interval is. The marker ``paired`` sets them for a
            test, class or module, ``--paired-max-ratio`` for a group.
        **options
            Passed to `measure.paired`: rounds, sample_ns, budget_ns, narrow, seed.

        Returns
        -------
        Compared

        Raises
        ------
        CheckError
            If the results differ.
        pytest.fail.Exception
            If a limit is exceeded, or instructions can't be counted.
        """
        group = group or self.given.get("group") or self._test_name()
        limits = self._limits(
            group,
            max_ratio=max_ratio,
            max_ram_ratio=max_ram_ratio,
            max_instruction_ratio=max_instruction_ratio,
        )
        names = (
            baseline_name or _name_of(baseline, "baseline"),
            name or _name_of(other, self.node.name),
        )
        sides = _tasks((baseline, other), setup, teardown, check)
        if self.config.getoption("paired_counting"):
            return _counting(sides, group, names)
        seconds = self.config.getoption("paired_seconds")
        if seconds is not None:
            options.setdefault("budget_ns", int(1e9 * seconds))
        found = measure.paired(*sides, **options)
        row = Compared(
            group=group,
            name=names[1],
            baseline=names[0],
            ratio=found.ratio,
            low=found.low,
            high=found.high,
            floor=self._floor(baseline, setup, sides[0], options) if floor else None,
            baseline_ns=found.baseline_ns,
            pairs=found.pairs,
            repeat=found.repeat,
            waited=found.waited,
            ram=_ram(sides, ram or "max_ram_ratio" in limits),
            instructions=self._instructions("max_instruction_ratio" in limits),
        )
        self._remember(row, sides[1], table)
        if said := [*exceeded(row, limits)]:
            pytest.fail("\n".join(said), pytrace=False)
        return row

    def _test_name(self) -> str:
        return str(getattr(self.node, "originalname", "") or self.node.name)

    def _limits(self, group: str, **called: float | None) -> dict[str, float]:
        """Return the limits of a comparison: the call's, the marker's, the group's."""
        limits = {"max_ratio": _group_limit(self.config, group)}
        limits.update({key: self.given.get(key, limits.get(key)) for key in LIMITS})
        limits.update({k: limit for k, limit in called.items() if limit is not None})
        for key, limit in limits.items():
            if limit is not None and not (isinstance(limit, Real) and limit > 0):
                raise ValueError(f"{key}={limit!r}: a limit is a number above 0")
        return {key: limit for key, limit in limits.items() if limit is not None}

    def _floor(
        self, baseline: object, setup: object, task: Task, options: dict[str, Any]
    ) -> tuple[float, float, float]:
        for known, its_setup, found in self.floors:
            if known is baseline and its_setup is setup:
                return found.ratio, found.low, found.high
        found = measure.paired(task, task, **options)
        self.floors.append((baseline, setup, found))
        return found.ratio, found.low, found.high

    def _instructions(self, limited: bool) -> tuple[int, int] | None:
        if not (limited or self.config.getoption("paired_instructions")):
            return None
        if why := instructions.missing():
            pytest.fail(why, pytrace=False)
        counts = next(self._counts, None), next(self._counts, None)
        if counts[0] is None or counts[1] is None:
            pytest.fail("the run under valgrind compared less", pytrace=False)
        return counts[0], counts[1]

    @cached_property
    def _counts(self) -> Iterator[int]:
        """The counts of all sides of this test, which a second run of it is for."""
        test = self.node.nodeid.partition("::")[2]
        manager = self.config.pluginmanager
        command = [
            *(sys.executable, "-m", "pytest", "-q"),
            *("-p", "pytest_extmeta", "--paired-counting"),
            *(f"--rootdir={self.config.rootpath}", f"{self.node.path}::{test}"),
            *(flag for name, flag in UNDONE.items() if manager.hasplugin(name)),
        ]
        if self.config.inipath:
            command.append(f"--config-file={self.config.inipath}")
        try:
            returns, _said = instructions.profiled(
                command, [instructions.once_symbol()], everywhere=True
            )
        except ValueError as error:
            pytest.fail(f"the run under valgrind failed: {error}", pytrace=False)
        return iter([count for _function, count in returns])

    def _remember(self, row: Compared, task: Task, table: bool) -> None:
        told = dataclasses.asdict(row)
        if table:
            self.node.user_properties.append(("paired", told))
        if "benchmark" in self.request.fixturenames:
            benchmark = self.request.getfixturevalue("benchmark")
            if not _used(benchmark):
                benchmark.group = benchmark.group or row.group
                alone(benchmark, task)
            benchmark.extra_info.setdefault("paired", []).append(told)


def _used(benchmark: Any) -> bool:
    # Nothing public tells it of a fixture that --benchmark-disable has disabled.
    return benchmark.stats is not None or bool(getattr(benchmark, "_mode", None))


def alone(benchmark: Any, task: Task) -> None:
    """Have pytest-benchmark's fixture time a task, and store the times."""
    if not task.each:
        state = task.ready()
        repeat = measure.calibrate(task) if benchmark.enabled else 1
        benchmark.pedantic(task.run, (state,), rounds=ROUNDS, iterations=repeat)
        task.done(state)
        return
    pending: list[Any] = []

    def ready() -> tuple[tuple[Any], dict[str, Any]]:
        pending.append(task.ready())
        return (pending[-1],), {}

    benchmark.pedantic(
        task.run,
        setup=ready,
        teardown=lambda _state: task.done(pending.pop()),
        rounds=ROUNDS,
    )
    # With --benchmark-disable it runs once, and nothing is torn down.
    for state in pending:
        task.done(state)


def _name_of(side: object, otherwise: str) -> str:
    return str(getattr(side, "__name__", "") or otherwise)


def _tasks(
    sides: Sequence[Callable[..., Any] | Task],
    setup: Callable[[], Any] | None,
    teardown: Callable[[Any], object] | None,
    check: Callable[[Any], object] | None,
) -> list[Task]:
    """Return the task of each side."""
    if teardown is not None and setup is None:
        raise ValueError("teardown without setup: it takes what setup returns")
    results: list[Any] = []

    def checked(_state: Any, result: Any) -> None:
        if check is not None:
            check(result)
            return
        if results:
            same(result, results[0], "the results differ; check= can say what is right")
        results[:] = results or [result]

    def task(side: Callable[..., Any] | Task) -> Task:
        if isinstance(side, Task):
            return side
        if setup is None:
            return Task(lambda: None, lambda _state: side(), checked)
        done = teardown or (lambda _state: None)
        return Task(setup, side, checked, lambda s: (done(s), None)[1], each=True)

    return [task(side) for side in sides]


def _counting(sides: Sequence[Task], group: str, names: tuple[str, str]) -> Compared:
    """Run each side once where callgrind looks; nothing is timed."""
    for task in sides:
        measure.verify(task)
        state = task.ready()
        instructions.start()
        once.once(task.run, state)
        task.done(state)
    baseline, name = names
    return Compared(group, name, baseline, 1, 1, 1, None, 0, 0, 1, 0)


def _ram(
    sides: Sequence[Task], ram: Callable[[Any], int] | tuple[int, int] | bool
) -> tuple[int, int] | None:
    if isinstance(ram, tuple):
        if len(ram) != 2:
            raise ValueError(f"ram: {ram!r} is not the bytes of both sides")
        return whole("ram", ram[0]), whole("ram", ram[1])
    if not ram:
        return None
    baseline, other = (_peak(t) if ram is True else _held(t, ram) for t in sides)
    return baseline, other


def _held(task: Task, ram: Any) -> int:
    state = task.ready()
    held = whole("ram", ram(task.run(state)))
    task.done(state)
    return held


def _peak(task: Task) -> int:
    """Return the most bytes that a run has allocated at a time."""
    state = task.ready()
    with _traced():
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        task.run(state)
        _, peak = tracemalloc.get_traced_memory()
    task.done(state)
    return max(0, peak - before)


@contextlib.contextmanager
def _traced() -> Iterator[None]:
    if tracemalloc.is_tracing():
        yield
        return
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def _group_limit(config: pytest.Config, group: str) -> float | None:
    """Return what --paired-max-ratio says of a group, or of all."""
    found: dict[str, float] = {}
    for text in config.getoption("paired_max_ratio"):
        name, _, ratio = text.rpartition("=")
        try:
            found[name] = float(ratio)
        except ValueError:
            raise pytest.UsageError(
                f"--paired-max-ratio={text}: {ratio!r} is no number"
            ) from None
    return found.get(group, found.get(""))
