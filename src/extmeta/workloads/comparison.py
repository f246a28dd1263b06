"""Plays a workload on every encoding and compares RAM, refusals and time.

Each encoding plays the workload with Linux's semantics and must reach equal counts.
Then the recorded operations are replayed on bare tables, in pairs with the baseline:
that time is the encoding's own.
"""

import time
from collections.abc import Iterator, Mapping, Sequence

from extmeta.cost import measure
from extmeta.cost.forms import form, left_out
from extmeta.cost.measure import Paired
from extmeta.cost.sweep import cpu_of
from extmeta.rows import (
    ALL_PHASES,
    BASELINE,
    CONTROL,
    Load,
    Peak,
    PlayedRow,
    Point,
    Refused,
)
from extmeta.table.encoding import Encoding
from extmeta.workloads.play import MismatchError, Progress, Result, Workload, play
from extmeta.workloads.process import Process
from extmeta.workloads.recording import Replay

# Rows are about the whole workload, not about a fraction of flagged PTEs.
POINT = Point(1.0, "")


class Player:
    """Plays one workload on one process in several encodings.

    `base` is the baseline's Result; if that is not complete there is nothing more to
    play. ValueError is raised if the baseline can't play it, however few bits it has.
    """

    def __init__(
        self,
        name: str,
        workload: Workload,
        process: Process,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self.workload = workload
        self.process = process
        self.progress = progress
        narrow, self.lacks = workload, ""
        while True:
            try:
                self.base = play(narrow, process, BASELINE, progress)
                break
            except ValueError as error:
                self.lacks = self.lacks or str(error)
                if (fewer := narrow.narrower()) is None:
                    raise
                narrow = fewer
        if self.base.complete:
            self.base_replay = self._replay(self.base, BASELINE)
            self.base_bytes = self.base_replay.verify()
        # The result that all encodings but the baseline must match.
        self.first = self.base if narrow is workload else None

    def _replay(self, result: Result, encoding: str | Encoding) -> Replay:
        return Replay(result.recording, encoding, result.fields, self.process.arch)

    def load(self) -> Load:
        """Return the head of a comparison."""
        process = self.process
        return Load(
            name=self.name,
            question=self.workload.question,
            parameters=str(self.workload)
            + ("; rounds and writes as recorded" if process.trace is not None else ""),
            process=process.name,
            sha256=process.sha256,
            arch=process.arch,
            nr_pages=len(process.pages),
            nr_vmas=len(process.vmas),
            counts={name: list(of) for name, of in self.base.counts().items()},
            calls=self.base.calls,
            ptes=self.base.ptes,
            words_made=self.base.words_made,
            faults=self.base.faults,
            phase_calls=self.base.recording.calls(),
            phase_ptes=dict(self.base.recording.ptes),
            fields=dict(self.workload.fields),
            baseline_fields=dict(self.base.fields),
            baseline_lacks=self.lacks,
        )

    def played(self, encoding: str | Encoding) -> tuple[Replay, int]:
        """Play it; return the replay to be timed and the most bytes it held.

        Raises AssertionError if a result differs from other encodings', Refused or
        ValueError if the encoding can't hold the words, KeyboardInterrupt.
        """
        result = play(self.workload, self.process, encoding, self.progress)
        if not result.complete:
            raise KeyboardInterrupt
        if result.rounds != self.base.rounds:
            raise MismatchError(
                f"{encoding}: {result.counts()}, not {self.base.counts()}"
            )
        if self.first is None:
            self.first = result
        if not result.same(self.first):
            raise MismatchError(f"{encoding}: other operations than in others")
        # All encodings replay one recording: the first one's.
        replay = self._replay(self.first, encoding)
        return replay, int((replay.verify() - self.base_bytes).max())

    def control(self) -> Replay:
        """Return the baseline once more."""
        return self._replay(self.base, BASELINE)


def paired(
    baseline: Replay,
    other: Replay,
    *,
    rounds: int = measure.ROUNDS,
    budget_ns: int = measure.BUDGET_NS,
    narrow: float = measure.NARROW,
    seed: int = 0,
    clock: measure.Clock = time.thread_time_ns,
) -> dict[str, Paired]:
    """Time two replays by turns, as `measure.paired`, by phase and `ALL_PHASES`."""
    sides = (baseline, other)

    def sampled(side: int) -> dict[str, int]:
        phases = sides[side].once(clock)
        return {ALL_PHASES: sum(phases.values()), **phases}

    with measure.no_garbage_collection():
        for side in sides:
            side.once(clock)
        return measure.in_rounds(
            sampled,
            rounds=rounds,
            budget_ns=budget_ns,
            narrow=narrow,
            seed=seed,
            clock=clock,
        )


def compare(
    name: str,
    workload: Workload,
    process: Process,
    forms: Sequence[str],
    *,
    rounds: int = measure.ROUNDS,
    budget_ns: int = measure.BUDGET_NS,
    narrow: float = measure.NARROW,
    progress: Progress | None = None,
) -> Iterator[PlayedRow]:
    """Play a workload in the baseline and in each encoding, row by row.

    Parameters
    ----------
    name : str
    workload : Workload
    process : Process
    forms : sequence of str
        See `extmeta.cost.forms.form`; also the workload's own.
    rounds, budget_ns, narrow
        See `measure.in_rounds`.
    progress : callable, optional

    Yields
    ------
    PlayedRow
        Load; for each encoding Refused, or Peak and then Cpu of each phase and of
        `ALL_PHASES`, in ns for each PTE of the phase. If it is interrupted, the rows so
        far are valid.

    Raises
    ------
    ValueError
        If a form is unknown, or the baseline can't play the workload.
    AssertionError
        If an encoding of this package does not do what was asked of it.
    """
    own: Mapping[str, Encoding] = workload.forms
    made = {
        text: own[text] if text in own else form(text)
        for text in forms
        if text != BASELINE
    }
    player = Player(name, workload, process, progress)
    load = player.load()
    yield load
    if not player.base.complete:
        raise KeyboardInterrupt
    ptes = {**load.phase_ptes, ALL_PHASES: load.ptes}
    for text, encoding in {CONTROL: BASELINE, **made}.items():
        try:
            if text == CONTROL:
                other = player.control()
            else:
                other, extra = player.played(encoding)
                yield Peak(text, extra)
            found = paired(
                player.base_replay,
                other,
                rounds=rounds,
                budget_ns=budget_ns,
                narrow=narrow,
                seed=workload.seed,
            )
        except Exception as error:  # noqa: BLE001 (left_out raises ours)
            named = CONTROL if text in own else text
            row = left_out(named, error)
            yield Refused(text, row.why)
            continue
        for phase, one in found.items():
            yield cpu_of(text, phase, POINT, max(1, ptes[phase]), one)
