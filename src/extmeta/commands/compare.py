"""`extmeta compare`: what each encoding costs, in RAM and CPU."""

import argparse
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from extmeta.arch import arch_named
from extmeta.captures.capture import shipped
from extmeta.commands import output
from extmeta.commands.arguments import (
    DEFAULT_FIELDS,
    above_0_of,
    add_release,
    arches_of,
    count_of,
    fields_of,
    forms_of,
    fractions_of,
    in_release,
    path_of,
    placements_of,
    refusing,
    words_of,
)
from extmeta.commands.inputs import spaces_of
from extmeta.commands.output import (
    BadInputError,
    Shown,
    must_be_writable,
    progress,
    say,
    tell,
)
from extmeta.commands.results import print_measured, print_result
from extmeta.commands.workload import LIST, WORKLOAD_PAGES, play, workload_of
from extmeta.cost import (
    crossover,
    demands,
    instructions,
    locked,
    measure,
    origin,
    placement,
    sweep,
    workers,
)
from extmeta.cost.forms import default_forms, fitting
from extmeta.cost.kernel import costs
from extmeta.cost.space import DEFAULT_ARCH
from extmeta.encodings import encodings, registered
from extmeta.fields import Fields
from extmeta.reports import comparison, missing
from extmeta.reports import workloads as workload_report
from extmeta.reports.layout import plain
from extmeta.reports.missing import Stage
from extmeta.rows import DEMANDS, INDEXED, Row
from extmeta.workloads import WORKLOADS

DEFAULT_FRACTIONS = ",".join(f"{fraction:g}" for fraction in sweep.FRACTIONS)

# Stands for each capture that is shipped.
EVERY = "all"

# Default of --words with --crossover.
CROSSOVER_WORDS = ["one", "few", "different"]

# Points measured with --quick: none, 1 % at random, all.
QUICK_FRACTIONS = "0,0.01,1"
QUICK_PLACEMENT = "random"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `compare` takes."""
    add = parser.add_argument
    add(
        "what",
        nargs="*",
        type=refusing(path_of),
        metavar="CAPTURE|PID",
        help="a capture file, a shipped capture by its name (one of "
        f"{', '.join(shipped())}), {EVERY} of these, or the id of a running process; - "
        f"is a file on stdin; default: {next(iter(shipped()))}",
    )
    add(
        "--encodings",
        type=refusing(forms_of),
        metavar="A,B",
        help="encodings by name, or with an argument as in linked:16; default: all of "
        f"{', '.join(encodings())}, and the other forms that these offer",
    )
    add(
        "--fields",
        type=refusing(fields_of),
        default=DEFAULT_FIELDS,
        metavar="NAME=BITS,...",
        help="the fields of a word and their widths; default: %(default)s",
    )
    add(
        "--fractions",
        type=refusing(fractions_of),
        metavar="0,0.01,...",
        help="which fractions of the PTEs are flagged, each from 0 to 1; default: "
        f"{DEFAULT_FRACTIONS}",
    )
    add(
        "--placement",
        type=refusing(placements_of),
        metavar="random,...",
        help="how the flagged PTEs lie; default: all, which are "
        f"{','.join(placement.PLACEMENTS)}",
    )
    add(
        "--words",
        type=refusing(words_of),
        metavar="different,...",
        help="how the words differ from each other; a comparison for each of "
        f"{', '.join(placement.WORDS)} that is named; default: different",
    )
    add(
        "--arch",
        type=refusing(arches_of),
        default=[],
        metavar="NAME|all",
        help="build the page tables of that architecture; default: the capture's; all: "
        "compare RAM only, on each architecture that "
        f"`extmeta arch` lists, at {sweep.ONE_POINT} unless --fractions or "
        "--placement say otherwise".replace("%", "%%"),
    )
    add_release(parser)
    add(
        "--workload",
        type=refusing(workload_of),
        metavar="NAME[:PARAMETER=VALUE,...]",
        help="play what a tracker does, instead of single operations: "
        f"{', '.join(WORKLOADS)}; on {WORKLOAD_PAGES:,} made-up pages unless a capture, "
        f"a process or a trace is named; --workload {LIST} explains them",
    )
    add(
        "--trace",
        type=refusing(path_of),
        metavar="FILE",
        help="play the workload on the writes that `extmeta trace` recorded",
    )
    add(
        "--crossover",
        action="store_true",
        help="compare RAM only, in full tables: bytes for each flagged PTE, by the "
        "number of flagged PTEs in a table, and which encoding is the smallest; "
        f"--words is then {','.join(CROSSOVER_WORDS)} by default",
    )
    add(
        "--instructions",
        action="store_true",
        help="also count instructions, with valgrind, and compare with the kernel's",
    )
    add(
        "--lock",
        action="store_true",
        help="also count, with valgrind, the instructions of each operation between "
        "lock and unlock of a PTE table",
    )
    add(
        "--bounds",
        action="store_true",
        help="also print each operation's time over what memory allows, which is "
        "measured in the run",
    )
    add(
        "--charge-links",
        action="store_true",
        help="count 8 bytes for each PTE table's link and count, as if struct ptdesc had "
        "no idle words for them",
    )
    add(
        "--quick",
        action="store_true",
        help=f"measure fewer points ({QUICK_FRACTIONS}, {QUICK_PLACEMENT}), and each of "
        "them less often",
    )
    add(
        "--processes",
        type=refusing(above_0_of(count_of)),
        metavar="N",
        help="measure each ratio in N processes, one after the other; the interval is "
        f"then of what other processes would measure; default: {workers.PROCESSES}, "
        f"with --quick {workers.QUICK_PROCESSES}; 1: in one process, of which alone "
        "the interval is",
    )
    add(
        "--seed",
        type=refusing(count_of),
        default=0,
        metavar="N",
        help="seed of the random numbers; default: 0",
    )
    add(
        "--json",
        type=refusing(path_of),
        metavar="FILE|-",
        help="write the results and their provenance to FILE, before the text is "
        "printed; - writes them to stdout instead of the text",
    )
    add(
        "--from",
        dest="stored",
        type=refusing(path_of),
        metavar="FILE|-",
        help="print what --json wrote, and measure nothing; - is stdin",
    )


def run(args: argparse.Namespace) -> int:
    """Print what each encoding costs, in RAM and CPU."""
    if args.json not in (None, "-"):
        must_be_writable(args.json)
    if args.workload and args.workload[0] == LIST:
        say(workload_report.catalogue(WORKLOADS))
        return 0
    if args.workload:
        return play(args)
    if args.trace:
        raise BadInputError(f"--trace {args.trace}: a --workload is needed too")
    if args.stored:
        return _again(args)
    if args.release is not None:
        names = args.arch or [DEFAULT_ARCH]
        args.arch = [arch.name for arch in in_release(names, args.release)]
    args.arch = _comparable(args.arch, args.fields)
    provenance = origin.provenance(args.command, args.seed)
    provenance["calibration"] = calibration(args.verb)
    provenance["bounds"] = args.bounds
    provenance["charge_links"] = args.charge_links
    stages: list[Stage] = []
    for given in ["--crossover"] * args.crossover + ["--arch"] * (len(args.arch) > 1):
        if args.lock:
            raise BadInputError(f"--lock and {given}, which compares RAM: one of them")

    def measured(shown: Shown) -> Iterator[Row]:
        if args.crossover:
            yield from _crossovers(args, stages)
        else:
            yield from _sweeps(args, shown, stages)
            yield from _locked(args)
        yield from _instructions(args, shown)

    return print_measured(args, comparison, measured, progress, stages, provenance)


def _again(args: argparse.Namespace) -> int:
    """Print what --json wrote in an earlier run."""
    options = ["crossover", "instructions", "lock", "encodings", "arch", "release"]
    options += ["fractions", "placement", "words"]
    set_ = [f"--{option}" for option in options if getattr(args, option)]
    for given in [*args.what, *set_]:
        raise BadInputError(f"--from {args.stored} and {given}: one of them")
    try:
        with output.readable(args.stored) as path, open(path, encoding="utf-8") as file:
            document = file.read()
        of = (
            workload_report if f'"{workload_report.FORMAT}"' in document else comparison
        )
        rows, provenance = of.from_json(document)
        lacks = missing.stored(document)
    except OSError as error:
        raise BadInputError(f"{args.stored}: {error.strerror}") from None
    except ValueError as error:
        raise BadInputError(f"{args.stored}: {error}") from None
    if not rows:
        raise BadInputError(f"{args.stored}: there are no rows")
    for option in ("bounds", "charge_links"):
        provenance[option] = getattr(args, option) or provenance.get(option, False)
    return print_result(args, of, rows, provenance, lacks)


def _comparable(arches: Sequence[str], fields: Fields) -> list[str]:
    """Return the architectures on which the baseline has a bit; name the others."""
    found = []
    for name in arches:
        try:
            fitting(fields, arch_named(name), has_swap=False)
        except ValueError as error:
            if len(arches) == 1:
                raise BadInputError(str(error)) from None
            tell(f"extmeta compare: left out: {error}")
        else:
            found.append(name)
    return found


def _sweeps(
    args: argparse.Namespace, shown: Shown, stages: list[Stage]
) -> Iterator[Row]:
    quick = args.quick
    alone = len(args.arch) > 1
    # Where times are compared, in-PTE words are given the index that others win by.
    forms = args.encodings or [*[INDEXED] * (not alone), *default_forms()]
    fractions = args.fractions or fractions_of(
        QUICK_FRACTIONS if quick else DEFAULT_FRACTIONS
    )
    placements = args.placement or placements_of(
        QUICK_PLACEMENT if quick else ",".join(placement.PLACEMENTS)
    )
    points = placement.points(fractions, placements)
    if alone and not (args.fractions or args.placement):
        points = [sweep.ONE_POINT]
    named = [name for what in args.what for name in _named(what)]
    spaces = [
        space
        for what in named or [next(iter(shipped()))]
        for space in spaces_of(what, args.arch)
    ]
    kinds = args.words or ["different"]
    for kind in kinds:
        at = len(stages) and stages[-1].subject + 1
        for subject, space in enumerate(spaces, at):
            name = space.name
            name += f" on {space.arch}" if alone else ""
            name += f", words {kind}" if len(kinds) > 1 else ""
            stages += [Stage(subject, name, point) for point in points]
        if not alone:
            stages.append(Stage(at + len(spaces) - 1, "full tables", DEMANDS))
    _add_instructions(args, stages)
    for kind in kinds:
        for space in spaces:
            given = (space, forms, args.fields, points)
            if alone:
                yield from sweep.ram(*given, seed=args.seed, kind=kind)
                yield from demands.splits(space, forms, args.fields, kind)
                continue
            yield from sweep.sweep(
                *given,
                seed=args.seed,
                **_effort(args, forms),
                kind=kind,
                brief=quick,
                progress=shown,
            )
            yield from demands.splits(space, forms, args.fields, kind)
        if not alone:
            # Measured on full tables, not on the space.
            yield from demands.demanded(forms, args.fields, spaces[0].arch, kind)


def _named(what: str) -> list[str]:
    """Return what an argument stands for: itself, or the name of each capture."""
    return [*shipped()] if what == EVERY and not os.path.exists(what) else [what]


def _effort(args: argparse.Namespace, forms: Sequence[str]) -> dict[str, Any]:
    """Return how many processes measure, and for how long each of them does."""
    quick = args.quick
    default = workers.QUICK_PROCESSES if quick else workers.PROCESSES
    processes = args.processes or default
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


def calibration(verb: str) -> dict[str, object]:
    """Return what `calibrate` has stored; by default the guest's part as shipped."""
    parts = {"guest": costs.shipped()}
    try:
        parts |= costs.load(costs.cache() / costs.FILE)
    except costs.CalibrationError as error:
        tell(f"extmeta {verb}: {plain(str(error))}")
    return {name: dataclasses.asdict(part) for name, part in parts.items()}


def _add_instructions(args: argparse.Namespace, stages: list[Stage]) -> None:
    if args.instructions:
        stages.append(Stage(stages[-1].subject + 1, "instructions", missing.WHOLE))


def _instructions(args: argparse.Namespace, shown: Shown) -> Iterator[Row]:
    if not args.instructions:
        return
    if why := instructions.missing():
        tell(f"extmeta compare: --instructions: {why}")
        return
    forms = args.encodings or default_forms()
    yield from instructions.counted(forms, progress=shown)


def _locked(args: argparse.Namespace) -> Iterator[Row]:
    if not args.lock:
        return
    if why := instructions.missing():
        tell(f"extmeta compare: --lock: {why}")
        return
    arch = args.arch[0] if args.arch else DEFAULT_ARCH
    forms = args.encodings or [INDEXED, *default_forms()]
    kind = args.words[-1] if args.words else "different"
    yield from locked.locked(forms, args.fields, arch, kind)


def _crossovers(args: argparse.Namespace, stages: list[Stage]) -> Iterator[Row]:
    for given, option in (
        (args.what, "CAPTURE|PID"),
        (args.fractions, "--fractions"),
        (args.placement, "--placement"),
    ):
        if given:
            raise BadInputError(f"--crossover and {option} {given[0]}: one of them")
    forms = args.encodings or default_forms()
    given = [
        (arch, kind)
        for arch in args.arch or [DEFAULT_ARCH]
        for kind in args.words or CROSSOVER_WORDS
    ]
    for subject, (arch, kind) in enumerate(given):
        stages.append(Stage(subject, f"{arch}, words {kind}", missing.WHOLE))
    _add_instructions(args, stages)
    for arch, kind in given:
        yield from crossover.crossover(
            forms, args.fields, arch=arch, seed=args.seed, kind=kind
        )
