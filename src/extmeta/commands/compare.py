"""`extmeta compare`: what each encoding costs, in RAM and CPU."""

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from extmeta.captures.capture import shipped
from extmeta.commands import output
from extmeta.commands.arguments import (
    A_CAPTURE,
    DEFAULT_FIELDS,
    above_0_of,
    add_compared,
    add_release,
    arches_of,
    count_of,
    fields_of,
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
from extmeta.commands.workload import (
    LIST,
    MOST_MIB,
    WORKLOAD_MIB,
    mib_of,
    play,
    refuse_format,
    workload_of,
)
from extmeta.comparing import engine
from extmeta.cost import origin, placement, sweep, workers
from extmeta.cost.space import DEFAULT_ARCH
from extmeta.fields import Fields
from extmeta.reports import brief, comparison, missing
from extmeta.reports import workloads as workload_report
from extmeta.reports.document import flat, markdown, sections
from extmeta.reports.layout import plain
from extmeta.reports.missing import Stage
from extmeta.rows import Row
from extmeta.workloads import WORKLOADS

DEFAULT_FRACTIONS = ",".join(f"{fraction:g}" for fraction in sweep.FRACTIONS)

# Stands for each capture that is shipped.
EVERY = "all"

# Points measured with --quick: none, 1 % at random, all.
QUICK_FRACTIONS = ",".join(f"{fraction:g}" for fraction in engine.QUICK_FRACTIONS)
QUICK_PLACEMENT = ",".join(engine.QUICK_PLACEMENTS)

EXIT_STATUS = (
    "Exit status: 0; 2 for bad input; 1 if a result can't be written; 130 when "
    "interrupted."
)

FORMATS = ("text", "lkml", "markdown", "csv", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `compare` takes."""
    parser.epilog = (
        "Examples: extmeta compare --quick redis; extmeta compare --fields age=2 PID; "
        "extmeta compare --quick --format lkml > mail.txt; extmeta compare --full --json "
        "rows.json. " + EXIT_STATUS
    )
    add = parser.add_argument
    add(
        "what",
        nargs="*",
        type=refusing(path_of),
        metavar="CAPTURE|PID",
        help=f"{A_CAPTURE}, {EVERY} of these, or the id of a running process; - is a "
        f"file on stdin; default: {next(iter(shipped()))}",
    )
    add_compared(parser)
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
        help=f"how the flagged PTEs lie: {', '.join(placement.PLACEMENTS)}; default: "
        f"{QUICK_PLACEMENT}, with --full all",
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
        f"{', '.join(WORKLOADS)}; on made-up memory unless a capture, a process or a "
        f"trace is named; --workload {LIST} explains them",
    )
    add(
        "--mib",
        type=refusing(mib_of),
        metavar="N",
        help=f"MiB of the made-up memory of a workload, at most {MOST_MIB:,}; default: "
        f"{WORKLOAD_MIB}",
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
        f"--words is then {','.join(engine.CROSSOVER_KINDS)} by default",
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
        "--full",
        action="store_true",
        help="measure also what the verdict does not need: other placements, clear, "
        "unmap, the kernel's loops, lives of forks; print all in 100 columns",
    )
    add(
        "--format",
        choices=FORMATS,
        default="text",
        help="text: in brief, 80 columns; lkml: 72 columns, for a mailing list; "
        "markdown, csv: everything; json: what --json - writes",
    )
    add(
        "--processes",
        type=refusing(above_0_of(count_of)),
        metavar="N",
        help="measure each ratio in N processes, one after the other; the interval "
        "then says what other processes would measure, but not if N is 1; default: "
        f"{workers.PROCESSES}, with --quick {workers.QUICK_PROCESSES}",
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
    if args.format == "json":
        args.json = "-"
    if args.json not in (None, "-"):
        must_be_writable(args.json)
    if args.workload and args.workload[0] == LIST:
        say(workload_report.catalogue(WORKLOADS))
        return 0
    if args.workload:
        return play(args)
    if args.trace:
        raise BadInputError(f"--trace {args.trace}: a --workload is needed too")
    if args.mib:
        raise BadInputError(f"--mib {args.mib}: a --workload is needed too")
    if args.stored:
        return _again(args)
    if args.release is not None:
        names = args.arch or [DEFAULT_ARCH]
        args.arch = [arch.name for arch in in_release(names, args.release)]
    args.arch = _comparable(args.arch, args.fields)
    provenance = origin.provenance(args.command, args.seed)
    provenance["calibration"] = engine.calibration(told(args.verb))
    provenance["bounds"] = args.bounds
    provenance["charge_links"] = args.charge_links
    stages: list[Stage] = []
    for given in ["--crossover"] * args.crossover + ["--arch"] * (len(args.arch) > 1):
        if args.lock:
            raise BadInputError(f"--lock and {given}, which compares RAM: one of them")

    for given, option in (
        (args.what, "CAPTURE|PID"),
        (args.fractions, "--fractions"),
        (args.placement, "--placement"),
    ):
        if args.crossover and given:
            raise BadInputError(f"--crossover and {option} {given[0]}: one of them")

    def measured(shown: Shown) -> Iterator[Row]:
        yield from engine.rows(_request(args), shown, told(args.verb), stages)

    return print_measured(args, _report(args), measured, progress, stages, provenance)


def _report(args: argparse.Namespace) -> SimpleNamespace:
    """Return what stores and prints rows in the format that was asked for."""
    more = args.full or args.instructions or args.lock or args.bounds

    def markdown_of(rows: list[Row], provenance: dict[str, Any]) -> str:
        return markdown.text(sections.document(rows, provenance))

    text = {
        "lkml": partial(brief.text, columns=brief.LETTER_COLUMNS),
        "markdown": markdown_of,
        "csv": lambda rows, _provenance: flat.to_csv(rows).removesuffix("\n"),
    }.get(args.format, brief.full if more else brief.text)
    return SimpleNamespace(to_json=comparison.to_json, text=text)


def _again(args: argparse.Namespace) -> int:
    """Print what --json wrote in an earlier run."""
    options = ["crossover", "instructions", "lock", "encodings", "arch", "release"]
    options += ["fractions", "placement", "words", "processes", "quick", "seed"]
    set_ = [f"--{option}" for option in options if getattr(args, option)]
    set_ += ["--fields"] * (args.fields != fields_of(DEFAULT_FIELDS))
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
    if of is workload_report:
        refuse_format(args)
    for option in ("bounds", "charge_links"):
        provenance[option] = getattr(args, option) or provenance.get(option, False)
    as_asked = _report(args) if of is comparison else of
    return print_result(args, as_asked, rows, provenance, lacks)


def _comparable(arches: Sequence[str], fields: Fields) -> list[str]:
    """Return the architectures on which the baseline has a bit; name the others."""
    try:
        return engine.comparable(arches, fields, told("compare"))
    except ValueError as error:
        raise BadInputError(str(error)) from None


def _request(args: argparse.Namespace) -> engine.Request:
    """Return what the arguments ask for; captures are read, processes captured."""
    named = [name for what in args.what for name in _named(what)]
    spaces = [
        space
        for what in named or [next(iter(shipped()))][args.crossover :]
        for space in spaces_of(what, args.arch)
    ]
    return engine.Request(
        spaces=spaces,
        fields=args.fields,
        forms=args.encodings or (),
        fractions=args.fractions or (),
        placements=args.placement or (),
        kinds=args.words or (),
        arches=args.arch,
        crossover=args.crossover,
        instructions=args.instructions,
        lock=args.lock,
        quick=args.quick,
        full=args.full,
        processes=args.processes or 0,
        seed=args.seed,
    )


def _named(what: str) -> list[str]:
    """Return what an argument stands for: itself, or the name of each capture."""
    return [*shipped()] if what == EVERY and not os.path.exists(what) else [what]


def told(verb: str) -> engine.Told:
    """Return what says on stderr what is left out."""
    return lambda text: tell(f"extmeta {verb}: {plain(text)}")
