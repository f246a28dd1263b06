"""What `extmeta compare` and `extmeta.compare` measure: a request, then its rows."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from extmeta.arch import arch_named
from extmeta.cost import (
    crossover,
    demands,
    instructions,
    locked,
    measure,
    placement,
    sweep,
    workers,
)
from extmeta.cost.forms import default_forms, fitting
from extmeta.cost.kernel import costs
from extmeta.cost.space import DEFAULT_ARCH, Space
from extmeta.encodings import registered
from extmeta.fields import Fields
from extmeta.reports import missing
from extmeta.reports.missing import Stage
from extmeta.rows import DEMANDS, INDEXED, Row

DEFAULT_KIND = "different"

# The kinds of words that crossovers are measured with by default.
CROSSOVER_KINDS = ("one", "few", "different")

# Points measured if the request is quick: none, 1 % at random, all.
QUICK_FRACTIONS = (0.0, 0.01, 1.0)
QUICK_PLACEMENTS = ("random",)

# Called with the number of ratios measured, their total, and what comes next.
Shown = Callable[[int, int, str], object]

# Called with a line about something that is left out.
Told = Callable[[str], object]


@dataclass(frozen=True)
class Request:
    """What is compared, and how thoroughly; a default stands for what is empty.

    Attributes
    ----------
    spaces : sequence of Space
        Not used for crossovers, which are of full tables.
    fields : Fields
    forms : sequence of str
        See `cost.forms.form`.
    fractions : sequence of float
    placements, kinds : sequence of str
        See `cost.placement`.
    arches : sequence of str
        If there are several, only RAM is compared.
    crossover, instructions, lock, quick, full : bool
        As the options of `extmeta compare`.
    processes : int
        How many measure each ratio; 0 is the default.
    seed : int
    """

    spaces: Sequence[Space]
    fields: Fields
    forms: Sequence[str] = ()
    fractions: Sequence[float] = ()
    placements: Sequence[str] = ()
    kinds: Sequence[str] = ()
    arches: Sequence[str] = ()
    crossover: bool = False
    instructions: bool = False
    lock: bool = False
    quick: bool = False
    full: bool = False
    processes: int = 0
    seed: int = 0

    @property
    def ram_only(self) -> bool:
        """Whether nothing is timed, because there are several architectures."""
        return len(self.arches) > 1


def rows(
    request: Request, shown: Shown, told: Told, stages: list[Stage]
) -> Iterator[Row]:
    """Yield the rows of a request; ``stages`` gets what will be measured.

    If it is interrupted, the rows so far are valid. For errors see `sweep.sweep`.
    """
    if request.crossover:
        yield from _crossovers(request, stages)
    else:
        yield from _sweeps(request, shown, stages)
        yield from _locked(request, told)
    yield from _instructions(request, shown, told)


def comparable(arches: Sequence[str], fields: Fields, told: Told) -> list[str]:
    """Return the architectures on which the baseline has a bit; tell the others.

    Raises ValueError if there is only one architecture, and it has no bit.
    """
    found = []
    for name in arches:
        try:
            fitting(fields, arch_named(name), has_swap=False)
        except ValueError as error:
            if len(arches) == 1:
                raise
            told(f"left out: {error}")
        else:
            found.append(name)
    return found


def calibration(told: Told) -> dict[str, object]:
    """Return what `calibrate` has stored; by default the guest's part as shipped."""
    parts = {"guest": costs.shipped()}
    try:
        parts |= costs.load(costs.cache() / costs.FILE)
    except costs.CalibrationError as error:
        told(str(error))
    return {name: dataclasses.asdict(part) for name, part in parts.items()}


def _sweeps(request: Request, shown: Shown, stages: list[Stage]) -> Iterator[Row]:
    r, alone = request, request.ram_only
    # Where times are compared, in-PTE words are given the index that others win by.
    forms = r.forms or [*[INDEXED] * (not alone), *default_forms()]
    points = placement.points(
        r.fractions or (QUICK_FRACTIONS if r.quick else sweep.FRACTIONS),
        r.placements
        or (placement.PLACEMENTS if r.full and not r.quick else QUICK_PLACEMENTS),
    )
    if alone and not (r.fractions or r.placements):
        points = [sweep.ONE_POINT]
    kinds = r.kinds or [DEFAULT_KIND]
    for kind in kinds:
        at = len(stages) and stages[-1].subject + 1
        for subject, space in enumerate(r.spaces, at):
            name = space.name
            name += f" on {space.arch}" if alone else ""
            name += f", words {kind}" if len(kinds) > 1 else ""
            stages += [Stage(subject, name, point) for point in points]
        if not alone:
            stages.append(Stage(at + len(r.spaces) - 1, "full tables", DEMANDS))
    _add_instructions(r, stages)
    for kind in kinds:
        for space in r.spaces:
            given = (space, forms, r.fields, points)
            if alone:
                yield from sweep.ram(*given, seed=r.seed, kind=kind)
                yield from demands.splits(space, forms, r.fields, kind)
                continue
            yield from sweep.sweep(
                *given,
                seed=r.seed,
                **_effort(r, forms),
                kind=kind,
                brief=not r.full,
                progress=shown,
            )
            yield from demands.splits(space, forms, r.fields, kind)
        if not alone:
            # Measured on full tables, not on the space.
            yield from demands.demanded(forms, r.fields, r.spaces[0].arch, kind)


def _effort(request: Request, forms: Sequence[str]) -> dict[str, Any]:
    """Return how many processes measure, and for how long each of them does."""
    quick = request.quick
    default = workers.QUICK_PROCESSES if quick else workers.PROCESSES
    processes = request.processes or default
    if any(registered(text.partition(":")[0]) for text in forms):
        # Other processes don't have it.
        processes = 1
    rounds = measure.QUICK_ROUNDS if quick else measure.ROUNDS
    if processes > 1:
        rounds = measure.QUICK_PROCESS_ROUNDS if quick else measure.PROCESS_ROUNDS
    budget_ns = measure.QUICK_BUDGET_NS if quick else measure.BUDGET_NS
    return {
        "processes": processes,
        "rounds": rounds,
        "budget_ns": budget_ns // processes,
        "narrow": measure.QUICK_NARROW if quick else measure.NARROW,
    }


def _add_instructions(request: Request, stages: list[Stage]) -> None:
    if request.instructions:
        stages.append(Stage(stages[-1].subject + 1, "instructions", missing.WHOLE))


def _instructions(request: Request, shown: Shown, told: Told) -> Iterator[Row]:
    if not request.instructions:
        return
    if why := instructions.missing():
        told(f"--instructions: {why}")
        return
    yield from instructions.counted(request.forms or default_forms(), progress=shown)


def _locked(request: Request, told: Told) -> Iterator[Row]:
    if not request.lock:
        return
    if why := instructions.missing():
        told(f"--lock: {why}")
        return
    arch = request.arches[0] if request.arches else DEFAULT_ARCH
    forms = request.forms or [INDEXED, *default_forms()]
    kind = request.kinds[-1] if request.kinds else DEFAULT_KIND
    yield from locked.locked(forms, request.fields, arch, kind)


def _crossovers(request: Request, stages: list[Stage]) -> Iterator[Row]:
    forms = request.forms or default_forms()
    given = [
        (arch, kind)
        for arch in request.arches or [DEFAULT_ARCH]
        for kind in request.kinds or CROSSOVER_KINDS
    ]
    for subject, (arch, kind) in enumerate(given):
        stages.append(Stage(subject, f"{arch}, words {kind}", missing.WHOLE))
    _add_instructions(request, stages)
    for arch, kind in given:
        yield from crossover.crossover(
            forms, request.fields, arch=arch, seed=request.seed, kind=kind
        )
