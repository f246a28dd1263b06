"""Records a workload's operations on its page table, and replays them on another.

AddressSpace is Python, and its time would hide that of an encoding. So its calls of
PageTable are recorded once, with their results, and replayed on a bare PageTable in
each encoding: every result must be equal.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from extmeta.checks import CheckError, must
from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.table.encoding import Encoding

Clock = Callable[[], int]

# The recorded methods. Others read PTEs in place, at equal cost in all encodings.
CHANGING = {
    *("map", "map_huge", "unmap", "store", "update", "fork", "move"),
    *("swap_out", "swap_in"),
}
NOTED = CHANGING | {"load", "flagged", "scan", "scan_since"}

SET_UP = "set up"


class Operation(NamedTuple):
    """A recorded call: its phase, its table (0 is the first) and its result."""

    phase: str
    table: int
    name: str
    args: tuple[Any, ...]
    values: dict[str, Any]
    answer: Any


@dataclass
class Recording:
    """The operations of a workload.

    Attributes
    ----------
    operations : list of Operation
    phase : str
        The phase of the next operations.
    nr_tables : int
    ptes : Counter
        PTEs that operations covered, by phase; in a range, those in use.
    words_made : int
        Words stored where there was none; a fork's copies don't count.
    """

    operations: list[Operation] = field(default_factory=list)
    phase: str = SET_UP
    nr_tables: int = 0
    ptes: Counter[str] = field(default_factory=Counter)
    words_made: int = 0

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Record operations under a phase."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def calls(self) -> dict[str, int]:
        """Return the operations of each phase after the set-up."""
        found = Counter(op.phase for op in self.operations)
        return {phase: n for phase, n in found.items() if phase != SET_UP}


class Recorder:
    """Stands in for a PageTable, `bare`, and records the calls."""

    def __init__(self, table: PageTable, recording: Recording) -> None:
        self.bare = table
        self._recording = recording
        self._number = recording.nr_tables
        recording.nr_tables += 1

    def __len__(self) -> int:
        return len(self.bare)

    def __repr__(self) -> str:
        return repr(self.bare)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.bare, name)
        if name not in NOTED:
            return found

        def noted(*args: Any, **values: Any) -> Any:
            return self._noted(name, args, values)

        # Later lookups bypass __getattr__.
        self.__dict__[name] = noted
        return noted

    def _noted(self, name: str, args: tuple[Any, ...], values: dict[str, Any]) -> Any:
        to, table = self._recording, self.bare
        set_up = to.phase == SET_UP
        if set_up and name not in CHANGING:
            return getattr(table, name)(*args, **values)
        about = None if set_up else self._about(name, args)
        makes = about is not None and _may_make(name, args, values)
        before = self._flagged(about) if makes else 0
        noted = answer = getattr(table, name)(*args, **values)
        number = self._number
        if name == "fork":
            answer, noted = Recorder(answer, to), None
        to.operations.append(Operation(to.phase, number, name, args, values, noted))
        if about is not None:
            to.ptes[to.phase] += len(about)
        if makes:
            to.words_made += self._flagged(about) - before
        return answer

    def _about(self, name: str, args: tuple[Any, ...]) -> Any:
        """Return the vpns that an operation covers; in a range, those in use."""
        if name == "fork":
            return range(len(self.bare))
        vpns = args[0]
        if isinstance(vpns, slice):
            return self.bare.vpns(vpns)
        return np.atleast_1d(np.asarray(vpns, np.uint64))

    def _flagged(self, vpns: Any) -> int:
        return int(np.count_nonzero(self.bare.flagged(vpns)))


def _may_make(name: str, args: tuple[Any, ...], values: dict[str, Any]) -> bool:
    """Tell whether an operation may make words."""
    if name == "update":
        return bool(args[2] if len(args) > 2 else values.get("set"))
    return name == "store"


def _must_equal(op: Operation, answer: Any) -> None:
    """Raise AssertionError unless a result equals the recorded one."""
    found, noted = np.atleast_1d(answer), np.atleast_1d(op.answer)
    what = f"{op.name} in phase {op.phase!r}"
    must(len(found) == len(noted), f"{what}: {len(found)} answers, not {len(noted)}")
    if not np.array_equal(found, noted):
        at = int(np.argmax(found != noted))
        raise CheckError(f"{what}: {found[at]} at {at}, not {noted[at]}")


class Replay:
    """A recording to be replayed on bare tables of one encoding.

    Raises ValueError if the encoding refuses an operation of the set-up.
    """

    def __init__(
        self,
        recording: Recording,
        encoding: str | Encoding,
        fields: Fields,
        arch: str,
    ) -> None:
        ready = PageTable(encoding, fields, arch)
        played: list[Operation] = []
        last: dict[int, int] = {}
        for op in recording.operations:
            if op.phase == SET_UP:
                getattr(ready, op.name)(*op.args, **op.values)
                continue
            last[op.table] = len(played)
            played.append(op)
        self._ready = ready
        self._operations = played
        # A child's table is freed after its last operation.
        gone: dict[int, list[int]] = {}
        for table, at in last.items():
            gone.setdefault(at, []).append(table)
        calls = [
            (getattr(PageTable, op.name), op, gone.get(at, []))
            for at, op in enumerate(played)
        ]
        self._runs = [
            (phase, list(run)) for phase, run in groupby(calls, lambda c: c[1].phase)
        ]

    def verify(self) -> npt.NDArray[np.int64]:
        """Replay once and compare every result.

        Returns
        -------
        (n + 1,) int64 ndarray
            Bytes of all tables at the start and after each operation that changes one.

        Raises
        ------
        AssertionError
            If a result differs.
        ValueError
            If the encoding refuses an operation.
        """
        tables: list[PageTable | None] = [self._ready.copy()]
        held = [self._ready.memory().total]
        for _phase, calls in self._runs:
            for call, op, gone in calls:
                answer = call(tables[op.table], *op.args, **op.values)
                if op.name == "fork":
                    tables.append(answer)
                elif op.answer is not None:
                    _must_equal(op, answer)
                if op.name in CHANGING:
                    held.append(sum(t.memory().total for t in tables if t is not None))
                for table in gone:
                    tables[table] = None
        return np.array(held, np.int64)

    def once(self, clock: Clock = time.thread_time_ns) -> dict[str, int]:
        """Replay once; return the time of each phase in ns of the clock."""
        tables: list[PageTable | None] = [self._ready.copy()]
        took: dict[str, int] = {}
        for phase, calls in self._runs:
            start = clock()
            for call, op, gone in calls:
                answer = call(tables[op.table], *op.args, **op.values)
                if op.name == "fork":
                    tables.append(answer)
                for table in gone:
                    tables[table] = None
            took[phase] = took.get(phase, 0) + clock() - start
        return took
