"""A workload, the stage it is played on, and its result.

A workload is a frozen dataclass of parameters with a generator that plays its rounds
and yields the counts of each.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np

from extmeta.arrays import U64
from extmeta.cost.placement import PLACEMENTS
from extmeta.fields import Fields
from extmeta.linux import AddressSpace
from extmeta.linux.pagewords import (
    EXCLUSIVE,
    PAGE_BYTES,
    PAGE_SHIFT,
    PRESENT,
    SOFT_DIRTY,
    UFFD_WP,
)
from extmeta.names import unknown
from extmeta.pagetable import PageTable
from extmeta.table.encoding import Encoding
from extmeta.workloads.process import Process
from extmeta.workloads.recording import Recorder, Recording

Counts = dict[str, int]
Progress = Callable[[int, int, str], object]

MAX_ROUNDS = 1 << 20


class MismatchError(AssertionError):
    """A tracker reported other pages than those written."""


@dataclass(frozen=True)
class Workload:
    """Parameters of a workload, and how it is played.

    Raises
    ------
    TypeError, ValueError
        If a parameter has another type, or is not in its range: numbers from 0 on,
        fractions in [0, 1].
    """

    # What it asks, in one line.
    question: ClassVar[str]
    # The values of parameters that are text.
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"placement": PLACEMENTS}
    # Additional forms of encodings to compare.
    forms: ClassVar[Mapping[str, Encoding]] = {}

    seed: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number if each.type is float else type(value) is each.type):
                kind = getattr(each.type, "__name__", each.type)
                raise TypeError(f"{each.name}: {value!r} is no {kind}")
            if isinstance(value, str):
                there = self.choices[each.name]
                if value not in there:
                    raise ValueError(
                        f"{each.name}: {value!r} is none of {', '.join(there)}"
                    )
            elif each.type is float:
                if not (math.isfinite(value) and 0 <= value <= 1):
                    raise ValueError(f"{each.name}: {value!r} is not in [0, 1]")
            elif not 0 <= value < 1 << 31:
                raise ValueError(f"{each.name}: {value!r} is not in [0, 2**31)")

    @classmethod
    def of_text(cls, text: str, seed: int = 0) -> Self:
        """Return the workload of "NAME=VALUE,...", other parameters at their defaults.

        ``seed`` applies unless the text has one. ValueError is raised for an unknown
        parameter or a bad value.
        """
        kinds: dict[str, Any] = {each.name: each.type for each in fields(cls)}
        given: dict[str, Any] = {"seed": seed}
        seen: set[str] = set()
        for part in filter(None, text.split(",")):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if name not in kinds:
                raise ValueError(unknown("parameter", name, kinds))
            if not equals:
                raise ValueError(f"{part!r} is not PARAMETER=VALUE")
            if name in seen:
                raise ValueError(f"parameter {name!r} is there twice")
            seen.add(name)
            try:
                given[name] = kinds[name](value)
            except ValueError:
                raise ValueError(
                    f"{name}: {value!r} is no {kinds[name].__name__}"
                ) from None
        return cls(**given)

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in asdict(self).items())

    @property
    def fields(self) -> Fields:
        """The fields of its words."""
        raise NotImplementedError

    def narrower(self) -> "Workload | None":
        """Return it with fewer bits but equal counts, or None if that can't be."""
        return None

    def nr_rounds(self, process: Process) -> int:
        """Return the maximum number of rounds."""
        raise NotImplementedError

    def play(self, stage: "Stage") -> Iterator[Counts]:
        """Play round after round, each held against the pages written; yield counts.

        Raises
        ------
        MismatchError
        Refused, ValueError
            If the encoding can't hold the words.
        """
        raise NotImplementedError


class Stage:
    """A process in one encoding, on which a workload is played, and its counts.

    `faults` are writes to a page that was not there, protected, clean since clear_refs,
    or shared.
    """

    def __init__(
        self, process: Process, encoding: str | Encoding, fields: Fields
    ) -> None:
        self.process = process
        self.encoding = encoding
        self.fields = fields
        self.recording = Recording()
        self.faults = 0
        self.during = self.recording.during

    def space(self) -> AddressSpace:
        """Return the process's address space, its pages written once."""
        space = AddressSpace(self.fields, self.encoding, self.process.arch)
        # Operations on the table go through the recorder.
        recorder: Any = Recorder(space.table, self.recording)
        space._mm.table = recorder
        for first, stop in self.process.vmas:
            space.mmap(first << PAGE_SHIFT, stop - first << PAGE_SHIFT)
        space.write(self.process.pages << np.uint64(PAGE_SHIFT))
        return space

    def table(self) -> PageTable:
        """Return a page table with the process's pages, without Linux's semantics."""
        made = PageTable(self.encoding, self.fields, self.process.arch)
        recorder: Any = Recorder(made, self.recording)
        recorder.map(self.process.pages)
        table: PageTable = recorder
        return table

    def write(self, space: AddressSpace, vpns: U64, phase: str = "write") -> None:
        """Write to pages in the given order, and count the faults."""
        addresses = vpns << np.uint64(PAGE_SHIFT)
        words = space.pagemap(addresses, PAGE_BYTES)
        quiet = PRESENT | EXCLUSIVE
        quiet |= SOFT_DIRTY if "soft_dirty" in self.fields else 0
        faults = words & np.uint64(quiet | UFFD_WP) != quiet
        self.faults += int(np.count_nonzero(faults))
        with self.during(phase):
            space.write(addresses)


def must_be(what: str, found: U64, expected: U64) -> None:
    """Raise MismatchError unless a tracker reported exactly some distinct pages."""
    if np.array_equal(found, expected):
        return
    told, wanted = np.sort(found), np.sort(expected)
    twice = int(np.count_nonzero(told[1:] == told[:-1]))
    if twice:
        raise MismatchError(f"{what}: {twice} pages are reported twice")
    if not np.array_equal(told, wanted):
        parts = [
            f"{len(pages)} {which}, first vpn {int(pages[0]):#x}"
            for which, pages in (
                ("too many", np.setdiff1d(told, wanted)),
                ("missing", np.setdiff1d(wanted, told)),
            )
            if len(pages)
        ]
        raise MismatchError(f"{what}: {'; '.join(parts)}")


def ascending(pages: Collection[int]) -> U64:
    """Return the pages of a set as an array."""
    return np.array(sorted(pages), np.uint64)


@dataclass(frozen=True, eq=False)
class Result:
    """What a workload came to in one encoding.

    Attributes
    ----------
    rounds : tuple of dict of str to int
        Each round's counts.
    complete : bool
        False if it was interrupted; `rounds` then has the finished ones.
    calls, ptes, words_made, faults : int
        Operations on the page table after the set-up; PTEs that they covered; words
        stored where there was none; see `Stage.faults`. Equal in all encodings.
    fields : Fields
    recording : Recording
    """

    rounds: tuple[Counts, ...]
    complete: bool
    calls: int
    ptes: int
    words_made: int
    faults: int
    fields: Fields
    recording: Recording

    def counts(self) -> dict[str, tuple[int, ...]]:
        """Return the values of each count, over the rounds that have it."""
        names = dict.fromkeys(name for each in self.rounds for name in each)
        return {
            name: tuple(each[name] for each in self.rounds if name in each)
            for name in names
        }

    def same(self, other: "Result") -> bool:
        """Tell whether all that does not depend on the encoding is equal."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("rounds", "calls", "ptes", "words_made", "faults")
        )


def play(
    workload: Workload,
    process: Process,
    encoding: str | Encoding = "linked",
    progress: Progress | None = None,
) -> Result:
    """Play a workload on a process in an encoding.

    Interrupted, it returns the rounds that were finished.

    Parameters
    ----------
    workload : Workload
    process : Process
    encoding : str or Encoding
    progress : callable, optional
        Called with the rounds finished, the most there are, and the encoding.

    Raises
    ------
    MismatchError
        If a tracker reported other pages than were written.
    Refused, ValueError
        If the encoding can't hold the words.
    """
    stage = Stage(process, encoding, workload.fields)
    most = workload.nr_rounds(process)
    rounds: list[Counts] = []
    complete = True
    try:
        if progress:
            progress(0, most, str(encoding))
        for counts in workload.play(stage):
            rounds.append(counts)
            if progress:
                progress(len(rounds), most, str(encoding))
    except KeyboardInterrupt:
        complete = False
    recording = stage.recording
    return Result(
        rounds=tuple(rounds),
        complete=complete,
        calls=sum(recording.calls().values()),
        ptes=recording.ptes.total(),
        words_made=recording.words_made,
        faults=stage.faults,
        fields=stage.fields,
        recording=recording,
    )
