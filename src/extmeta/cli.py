"""The command: ``extmeta compare | capture | info | plan | arch | calibrate | trace``.

Results go to stdout, progress and errors to stderr. Files are written before anything
is printed. Exit status: 0; 2 with one line for bad input; 1 with one line if output
can't be written, and without one if `plan` finds that fields don't fit; 128 and its
number if a signal ended the work, after `compare` has printed what it had, so 130 for
Ctrl-C; 141, as of a process that SIGPIPE has ended, if the reader of stdout has gone.
"""

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn, TypeVar

from extmeta import __version__
from extmeta.arch import ARCHES, Arch, arch_named
from extmeta.captures import record
from extmeta.captures.capture import (
    Capture,
    CaptureError,
    capture,
    load_capture,
    shipped,
)
from extmeta.captures.trace import load_trace
from extmeta.commands import output
from extmeta.commands.output import (
    STANDARD,
    BadInputError,
    CannotWriteError,
    Shown,
    progress,
    say,
    tell,
    write,
)
from extmeta.cost import compare, demands, instructions, measure, workload
from extmeta.cost.kernel import costs, guest, host
from extmeta.cost.measure import Row
from extmeta.cost.workload import Space
from extmeta.encodings import encodings
from extmeta.encodings.plan import plan
from extmeta.fields import Fields
from extmeta.names import unknown
from extmeta.release import DEFAULT
from extmeta.reports import calibration as calibration_report
from extmeta.reports import missing, report, ruler, summary
from extmeta.reports import plan as plan_report
from extmeta.reports import workloads as workload_report
from extmeta.reports.missing import Stage
from extmeta.workloads import (
    WORKLOADS,
    Process,
    Workload,
    comparison,
    of_capture,
    of_trace,
    synthetic,
)

DEFAULT_FIELDS = "uffd_wp=1,soft_dirty=1,age=8"
DEFAULT_FRACTIONS = ",".join(f"{fraction:g}" for fraction in compare.FRACTIONS)

# What `compare --crossover` has without --words.
CROSSOVER_WORDS = ["one", "few", "different"]

# What a workload is played on where nothing is named: 64 and 8 MiB.
WORKLOAD_PAGES = 16384
QUICK_WORKLOAD_PAGES = 2048

# Of --workload: prints what there are.
LIST = "list"

ALL_ARCHES = "all"

# Of --quick: the ends of the sweep and what lies between in the worst way.
QUICK_FRACTIONS = "0,0.01,1"
QUICK_PLACEMENT = "random"

# Of `trace --interval`: a day.
MAX_SECONDS = 86_400

BAD_INPUT = 2
CANNOT_WRITE = 1
DOES_NOT_FIT = 1
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE


Loaded = TypeVar("Loaded")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {report.plain(message)}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own does not tell if stdout can't be written to.
        if message:
            (say if file is sys.stdout else tell)(message.removesuffix("\n"))


# -- what is given on the command line ----------------------------------------


def _refusing(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Return an argparse type that names the value as ``parse`` does."""

    def parsed(text: str) -> object:
        try:
            return parse(text)
        except (ValueError, KeyError, TypeError) as error:
            # Not str(): a KeyError's has quotes around it.
            raise argparse.ArgumentTypeError(str(error.args[0])) from None

    return parsed


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def fields_of(text: str) -> Fields:
    """Return the fields of "NAME=BITS,...", of 1 bit where none is said.

    Raises
    ------
    ValueError
        If it is none of that, names the same field twice, or is too wide.
    """
    widths: dict[str, int] = {}
    for part in _parts(text):
        name, bits = field_of(part)
        if name in widths:
            raise ValueError(f"field {name!r} is there twice")
        widths[name] = bits
    return Fields(**widths)


def field_of(text: str) -> tuple[str, int]:
    """Return the name and width of "NAME" or "NAME=BITS", which may be "NAME:BITS"."""
    name, equals, bits = text.replace(":", "=", 1).partition("=")
    if not name.isidentifier() or (equals and not (bits.isascii() and bits.isdigit())):
        raise ValueError(f"{text!r} is not NAME or NAME=BITS")
    return name, int(bits) if equals else 1


def fractions_of(text: str) -> list[float]:
    """Return the numbers of a list, each in [0, 1]."""
    found = []
    for part in _parts(text):
        try:
            fraction = float(part)
        except ValueError:
            raise ValueError(f"{part!r} is no fraction") from None
        if not 0 <= fraction <= 1:
            raise ValueError(f"{part!r} is not in [0, 1]")
        found.append(fraction)
    return list(dict.fromkeys(found))


def placements_of(text: str) -> list[str]:
    """Return the names of a list, each of a placement."""
    for part in _parts(text):
        if part not in workload.PLACEMENTS:
            raise ValueError(unknown("placement", part, workload.PLACEMENTS))
    return list(dict.fromkeys(_parts(text)))


def forms_of(text: str) -> list[str]:
    """Return the names of a list, each of an encoding, perhaps with an argument."""
    for part in _parts(text):
        compare.form(part)
    return list(dict.fromkeys(_parts(text)))


def words_of(text: str) -> list[str]:
    """Return the names of a list, each of a kind of words."""
    for part in _parts(text):
        if part not in workload.WORDS:
            raise ValueError(unknown("kind of words", part, workload.WORDS))
    return list(dict.fromkeys(_parts(text)))


def workload_of(text: str) -> tuple[str, str]:
    """Return the name and the parameters of "NAME" or "NAME:PARAMETER=VALUE,...".

    Raises
    ------
    ValueError
        If there is no such workload, or it takes no such parameter.
    """
    name, _colon, parameters = text.partition(":")
    if name != LIST:
        if name not in WORKLOADS:
            raise ValueError(unknown("workload", name, WORKLOADS))
        try:
            WORKLOADS[name].of_text(parameters)
        except ValueError as error:
            raise ValueError(f"workload {name}: {error}") from None
    return name, parameters


def arches_of(text: str) -> list[str]:
    """Return the architecture of that name, or with "all" every one."""
    return list(ARCHES) if text == ALL_ARCHES else [arch_named(text).name]


def _add_release(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--release",
        metavar="6.12",
        help="of Linux, on which the free bits depend; default: "
        f"{DEFAULT}, or that of NAME@6.12",
    )


def count_of(text: str) -> int:
    """Return a number that is not negative."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no number from 0 on")
    return int(text)


def pid_of(text: str) -> int:
    """Return the id of a process."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"{text!r} is no number above 0, as process ids are")
    return int(text)


def path_of(text: str) -> str:
    """Return a file's name; "-" stands for stdin or stdout."""
    if not text:
        raise ValueError("'' is no file name")
    return text


def seconds_of(text: str) -> float:
    """Return a number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number of seconds") from None
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"{text!r} is not in [0, {MAX_SECONDS}] seconds")
    return seconds


def above_0_of(parse: Callable[[str], float]) -> Callable[[str], float]:
    """Return ``parse``, but for 0."""

    def parsed(text: str) -> float:
        if not (found := parse(text)):
            raise ValueError(f"{text!r} is not above 0")
        return found

    return parsed


def capture_of(given: str) -> tuple[Capture, str]:
    """Return the capture in a file, or a shipped one, and its name.

    Raises
    ------
    BadInputError
        If there is none, or it is damaged.
    """
    path = given
    if given not in (STANDARD, "") and not os.path.exists(given):
        if given in shipped():
            path = str(shipped()[given])
        elif os.path.basename(given) == given:
            raise BadInputError(
                f"{given}: No such file or directory, and "
                f"{unknown('shipped capture', given, shipped())}"
            )
    found, name = _loaded(path, load_capture)
    return found, name if path == given else given


def _loaded(given: str, load: Callable[[str], Loaded]) -> tuple[Loaded, str]:
    """Return what is in a file, "-" being stdin, and the file's name.

    Raises
    ------
    BadInputError
    """
    with output.readable(given) as path:
        try:
            return load(path), "stdin" if given == STANDARD else os.path.basename(given)
        except CaptureError as error:
            raise BadInputError(str(error).replace(path, given)) from None
        except OSError as error:
            raise BadInputError(f"{given}: {error.strerror}") from None


def captured(pid: int, stop: bool) -> Capture:
    """Capture a process, with progress.

    Raises
    ------
    BadInputError
        If that can't be.
    """
    with progress() as shown:

        def reading(done: int, total: int) -> None:
            shown(done, total, f"bytes of the pagemap of process {pid}")

        try:
            return capture(pid, stop=stop, progress=reading)
        except ValueError as error:
            raise BadInputError(str(error)) from None


def found_of(given: str) -> tuple[Capture, str]:
    """Return the capture of a file, a shipped one, or a process, and its name.

    Raises
    ------
    BadInputError
    """
    if given.isascii() and given.isdigit() and not os.path.exists(given):
        found = captured(int(given), stop=False)
        return found, f"process {given}, {found.comm}"
    return capture_of(given)


def spaces_of(given: str, arches: Sequence[str]) -> list[Space]:
    """Return the address space of a file, a shipped capture, or a process.

    Parameters
    ----------
    given : str
    arches : sequence of str
        One on each of these; if there is none, on the capture's own.

    Raises
    ------
    BadInputError
    """
    found, name = found_of(given)
    try:
        own: list[str | None] = [None]
        return [workload.captured(found, name, arch) for arch in arches or own]
    except CaptureError as error:
        raise BadInputError(str(error)) from None


# -- where results go ----------------------------------------------------------


def must_be_writable(path: str, force: bool = True) -> None:
    """Refuse an output file before anything is measured for it.

    Raises
    ------
    BadInputError
        If it can't be written, or is there and not to be replaced. If it is "-":
        stdout is a terminal.
    """
    if path == STANDARD:
        output.must_be_binary_stdout()
        return
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        raise BadInputError(f"{path}: is a directory")
    if not os.path.isdir(folder):
        raise BadInputError(f"{path}: there is no directory {folder}")
    if os.path.isfile(path) and not force:
        raise BadInputError(f"{path}: exists; --force replaces it")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise BadInputError(f"{path}: permission denied")
    # A file is made beside the one that it replaces. A device or a pipe is written to.
    regular = os.path.isfile(path) or not os.path.exists(path)
    if regular and not os.access(folder, os.W_OK):
        raise BadInputError(f"{path}: permission denied to make files in {folder}")


# -- the verbs -------------------------------------------------------------------


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `compare` takes."""
    add = parser.add_argument
    add(
        "what",
        nargs="*",
        type=_refusing(path_of),
        metavar="CAPTURE|PID",
        help="a capture file, a shipped capture by its name (one of "
        f"{', '.join(shipped())}), or the id of a running process; - is a file on "
        f"stdin; default: {next(iter(shipped()))}",
    )
    add(
        "--encodings",
        type=_refusing(forms_of),
        metavar="A,B",
        help="encodings by name, or with an argument as in linked:16; default: all of "
        f"{', '.join(encodings())}, and the other forms that these offer",
    )
    add(
        "--fields",
        type=_refusing(fields_of),
        default=DEFAULT_FIELDS,
        metavar="NAME=BITS,...",
        help="the fields of a word and their widths; default: %(default)s",
    )
    add(
        "--fractions",
        type=_refusing(fractions_of),
        metavar="0,0.01,...",
        help="which fractions of the PTEs are flagged, each from 0 to 1; default: "
        f"{DEFAULT_FRACTIONS}",
    )
    add(
        "--placement",
        type=_refusing(placements_of),
        metavar="random,...",
        help="how the flagged PTEs lie; default: all, which are "
        f"{','.join(workload.PLACEMENTS)}",
    )
    add(
        "--words",
        type=_refusing(words_of),
        metavar="different,...",
        help="how the words differ from each other; a comparison for each of "
        f"{', '.join(workload.WORDS)} that is named; default: different",
    )
    add(
        "--arch",
        type=_refusing(arches_of),
        default=[],
        metavar="NAME|all",
        help="build the page tables as that architecture has them; default: the "
        "capture's own; all: compare RAM only, on each of the architectures that "
        f"`extmeta arch` lists, at {compare.ONE_POINT} unless --fractions or "
        "--placement say otherwise".replace("%", "%%"),
    )
    _add_release(parser)
    add(
        "--workload",
        type=_refusing(workload_of),
        metavar="NAME[:PARAMETER=VALUE,...]",
        help="play what a tracker does, instead of the operations one by one: "
        f"{', '.join(WORKLOADS)}; on {WORKLOAD_PAGES:,} made-up pages unless a capture, "
        f"a process or a trace is named; --workload {LIST} tells what they are",
    )
    add(
        "--trace",
        type=_refusing(path_of),
        metavar="FILE",
        help="play the workload on the writes that `extmeta trace` has recorded",
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
        help="count instructions too, by valgrind, and compare with the kernel's own",
    )
    add(
        "--quick",
        action="store_true",
        help=f"measure fewer points ({QUICK_FRACTIONS}, {QUICK_PLACEMENT}), and each of "
        "them less often",
    )
    add(
        "--seed",
        type=_refusing(count_of),
        default=0,
        metavar="N",
        help="of what is drawn at random; default: 0",
    )
    add(
        "--json",
        type=_refusing(path_of),
        metavar="FILE|-",
        help="write the results and where they come from to FILE, before the text is "
        "printed; - is stdout, instead of the text",
    )
    add(
        "--from",
        dest="stored",
        type=_refusing(path_of),
        metavar="FILE|-",
        help="print what --json has written, and measure nothing; - is stdin",
    )


def run_compare(args: argparse.Namespace) -> int:
    """Print what each encoding costs, in RAM and CPU."""
    if args.json not in (None, "-"):
        must_be_writable(args.json)
    if args.workload and args.workload[0] == LIST:
        say(workload_report.catalogue(WORKLOADS))
        return 0
    if args.workload:
        return _play(args)
    if args.trace:
        raise BadInputError(f"--trace {args.trace}: a --workload is needed too")
    if args.stored:
        return _again(args)
    if args.release is not None:
        names = args.arch or [workload.DEFAULT_ARCH]
        args.arch = [arch.name for arch in _in_release(names, args.release)]
    args.arch = _comparable(args.arch, args.fields)
    provenance = measure.provenance(args.command, args.seed)
    provenance["calibration"] = _calibration()
    stages: list[Stage] = []

    def measured(shown: Shown) -> Iterator[Row]:
        if args.crossover:
            yield from _crossovers(args, stages)
        else:
            yield from _sweeps(args, shown, stages)
        yield from _instructions(args, shown)

    return _measured(args, report, measured, progress, stages, provenance)


def _measured(
    args: argparse.Namespace,
    of: ModuleType,
    measured: Callable[[Shown], Iterator[Any]],
    shown_by: Callable[[], contextlib.AbstractContextManager[Shown]],
    stages: list[Stage],
    provenance: dict[str, Any],
) -> int:
    """Store and print rows, also if a signal or an error ends the measuring early."""
    rows: list[Any] = []
    complete = False
    status = 0
    with output.Stop() as stop:
        try:
            with shown_by() as shown:
                # One by one: what is there at an early end is kept.
                for row in measured(shown):
                    rows.append(row)  # noqa: PERF402
            complete = True
        except KeyboardInterrupt:
            pass
        finally:
            stop.spare()
            if rows:
                lacks = None if complete else missing.missing(rows, stages)
                status = _result(args, of, rows, provenance, lacks)
    if not complete:
        tell("extmeta compare: interrupted; this is not all")
        return 128 + (stop.signal or signal.SIGINT)
    return status


def _written(args: argparse.Namespace, path: str, document: str) -> int:
    """Write a file; return the exit status, having said why it can't be written."""
    try:
        write(path, document)
    except CannotWriteError as error:
        tell(f"extmeta {args.verb}: {report.plain(str(error))}")
        return CANNOT_WRITE
    return 0


def _result(
    args: argparse.Namespace,
    of: ModuleType,
    rows: list[Any],
    provenance: dict[str, Any],
    lacks: list[str] | None,
) -> int:
    """Write JSON, then print the text, also if the JSON can't be written.

    Parameters
    ----------
    args
    of : module
        Makes text and JSON of these rows.
    rows, provenance
    lacks : list of str or None
        What is missing; None if the rows are complete.
    """
    document = of.to_json(rows, provenance, lacks is None, missing=lacks or ())
    if args.json == STANDARD:
        say(document)
        return 0
    status = _written(args, args.json, document + "\n") if args.json else 0
    text = of.text(rows, provenance)
    say(text if lacks is None else f"{missing.told(lacks)}\n\n{text}")
    return status


def _again(args: argparse.Namespace) -> int:
    """Print what --json has written."""
    for given, option in (
        (args.what and args.what[0], ""),
        (args.crossover, "--crossover"),
        (args.instructions, "--instructions"),
        (args.encodings, "--encodings"),
        (args.arch, "--arch"),
        (args.release, "--release"),
        (args.fractions, "--fractions"),
        (args.placement, "--placement"),
        (args.words, "--words"),
    ):
        if given:
            raise BadInputError(
                f"--from {args.stored} and {option or given}: one of them"
            )
    try:
        with output.readable(args.stored) as path, open(path, encoding="utf-8") as file:
            document = file.read()
        of = workload_report if f'"{workload_report.FORMAT}"' in document else report
        rows, provenance = of.from_json(document)
        lacks = missing.stored(document)
    except OSError as error:
        raise BadInputError(f"{args.stored}: {error.strerror}") from None
    except ValueError as error:
        raise BadInputError(f"{args.stored}: {error}") from None
    if not rows:
        raise BadInputError(f"{args.stored}: there are no rows")
    return _result(args, of, rows, provenance, lacks)


def _comparable(arches: Sequence[str], fields: Fields) -> list[str]:
    """Return those that have a bit in a PTE for the baseline; say which have none."""
    found = []
    for name in arches:
        try:
            compare.fitting(fields, arch_named(name), has_swap=False)
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
    forms = args.encodings or compare.default_forms()
    quick = args.quick
    alone = len(args.arch) > 1
    fractions = args.fractions or fractions_of(
        QUICK_FRACTIONS if quick else DEFAULT_FRACTIONS
    )
    placements = args.placement or placements_of(
        QUICK_PLACEMENT if quick else ",".join(workload.PLACEMENTS)
    )
    points = workload.points(fractions, placements)
    if alone and not (args.fractions or args.placement):
        points = [compare.ONE_POINT]
    spaces = [
        space
        for what in args.what or [next(iter(shipped()))]
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
            stages.append(Stage(at + len(spaces) - 1, "full tables", demands.ABOUT))
    _add_instructions(args, stages)
    for kind in kinds:
        for space in spaces:
            given = (space, forms, args.fields, points)
            if alone:
                yield from compare.ram(*given, seed=args.seed, kind=kind)
                yield from demands.splits(space, forms, args.fields, kind)
                continue
            yield from compare.sweep(
                *given,
                seed=args.seed,
                rounds=measure.QUICK_ROUNDS if quick else measure.ROUNDS,
                budget_ns=measure.QUICK_BUDGET_NS if quick else measure.BUDGET_NS,
                kind=kind,
                progress=shown,
            )
            yield from demands.splits(space, forms, args.fields, kind)
        if not alone:
            # Not of the space: of full tables.
            yield from demands.demanded(forms, args.fields, spaces[0].arch, kind)


def _calibration() -> dict[str, object]:
    """Return what `calibrate` has stored; the guest's part, if not, as shipped."""
    parts = {"guest": costs.shipped()}
    try:
        parts |= costs.load(costs.cache() / costs.FILE)
    except costs.CalibrationError as error:
        tell(f"extmeta compare: {report.plain(str(error))}")
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
    forms = args.encodings or compare.default_forms()
    yield from instructions.counted(forms, progress=shown)


def _crossovers(args: argparse.Namespace, stages: list[Stage]) -> Iterator[Row]:
    for given, option in (
        (args.what, "CAPTURE|PID"),
        (args.fractions, "--fractions"),
        (args.placement, "--placement"),
    ):
        if given:
            raise BadInputError(f"--crossover and {option} {given[0]}: one of them")
    forms = args.encodings or compare.default_forms()
    given = [
        (arch, kind)
        for arch in args.arch or [workload.DEFAULT_ARCH]
        for kind in args.words or CROSSOVER_WORDS
    ]
    for subject, (arch, kind) in enumerate(given):
        stages.append(Stage(subject, f"{arch}, words {kind}", missing.WHOLE))
    _add_instructions(args, stages)
    for arch, kind in given:
        yield from compare.crossover(
            forms, args.fields, arch=arch, seed=args.seed, kind=kind
        )


def _play(args: argparse.Namespace) -> int:
    """Play a workload on each encoding."""
    for given, option in (
        (args.crossover, "--crossover"),
        (args.arch, "--arch"),
        (args.release, "--release"),
        (args.fractions, "--fractions"),
        (args.placement, "--placement"),
        (args.words, "--words"),
        (args.fields != fields_of(DEFAULT_FIELDS), "--fields"),
        (args.stored, "--from"),
    ):
        if given:
            raise BadInputError(f"--workload {args.workload[0]} takes no {option}")
    name, parameters = args.workload
    try:
        load = WORKLOADS[name].of_text(parameters, args.seed)
    except ValueError as error:
        raise BadInputError(str(error)) from None
    # All before the first is played: a bad one is refused before anything is measured.
    processes = list(_processes(args))
    forms = args.encodings or [*compare.default_forms(), *load.forms]
    stages = [
        Stage(subject, f"{name} on {process.name}", text)
        for subject, process in enumerate(processes)
        for text in dict.fromkeys([compare.CONTROL, *forms])
        if text != compare.BASELINE
    ]

    def measured(shown: Shown) -> Iterator[comparison.Row]:
        for process in processes:
            yield from _played(args, name, load, process, forms, shown)

    provenance = measure.provenance(args.command, args.seed)
    shown_by = output.progress_on_a_terminal
    return _measured(args, workload_report, measured, shown_by, stages, provenance)


def _processes(args: argparse.Namespace) -> Iterator[Process]:
    try:
        if args.trace:
            found, name = _loaded(args.trace, load_trace)
            yield of_trace(found, name)
        for given in args.what:
            yield of_capture(*found_of(given))
    except CaptureError as error:
        raise BadInputError(str(error)) from None
    if not (args.trace or args.what):
        yield synthetic(QUICK_WORKLOAD_PAGES if args.quick else WORKLOAD_PAGES)


def _played(
    args: argparse.Namespace,
    name: str,
    load: Workload,
    process: Process,
    forms: Sequence[str],
    shown: Shown,
) -> Iterator[comparison.Row]:
    return comparison.compare(
        name,
        load,
        process,
        forms,
        rounds=measure.QUICK_ROUNDS if args.quick else measure.ROUNDS,
        budget_ns=measure.QUICK_BUDGET_NS if args.quick else measure.BUDGET_NS,
        progress=lambda done, total, what: shown(done, total, f"{name}: {what}"),
    )


def _add_pid_and_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("pid", type=_refusing(pid_of), metavar="PID", help="id of the process")
    add(
        "-o",
        "--output",
        type=_refusing(path_of),
        required=True,
        metavar="FILE",
        help="the file, in numpy's .npz format, whatever its name; - is stdout",
    )


def capture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `capture` takes."""
    add = parser.add_argument
    _add_pid_and_output(parser)
    add("--pfns", action="store_true", help="keep page frame numbers (needs root)")
    add(
        "--stop",
        action="store_true",
        help="stop the process by SIGSTOP while it is read, so that nothing changes",
    )
    add("--force", action="store_true", help="replace FILE if it is there")


def run_capture(args: argparse.Namespace) -> int:
    """Write a process's page tables to a file."""
    must_be_writable(args.output, args.force)
    # A signal must not leave the process stopped.
    with output.Stop():
        found = captured(args.pid, args.stop)
    output.save(args.output, lambda path: found.save(path, pfns=args.pfns))
    _saved(args, found)
    if not found.settled:
        tell(
            f"extmeta capture: process {args.pid} changed while it was read; "
            "--stop holds it"
        )
    return 0


def _saved(args: argparse.Namespace, found: object) -> None:
    """Say what was saved; on stderr if stdout has it."""
    text = report.plain(repr(found)[1:-1])
    if args.output == STANDARD:
        tell(f"extmeta {args.verb}: {text}")
    else:
        say(f"{args.output}: {text}")


def trace_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `trace` takes."""
    add = parser.add_argument
    _add_pid_and_output(parser)
    add(
        "--rounds",
        type=_refusing(above_0_of(count_of)),
        default=10,
        metavar="N",
        help="default: %(default)s",
    )
    add(
        "--interval",
        type=_refusing(above_0_of(seconds_of)),
        default=1.0,
        metavar="S",
        help="seconds from one round to the next; default: 1",
    )
    add("--force", action="store_true", help="replace FILE if it is there")


def run_trace(args: argparse.Namespace) -> int:
    """Record which pages a running process writes, round by round.

    If it is interrupted, or the process ends, the rounds so far are kept.
    """
    must_be_writable(args.output, args.force)
    ended, interrupted = "", False
    with record.until_told(), progress() as shown:
        try:
            recorder = record.Recorder(args.pid, args.interval)
        except record.TraceError as error:
            raise BadInputError(str(error)) from None
        try:
            ended = recorder.record(args.rounds, shown)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            left = recorder.close()
    for what in filter(None, (ended, *recorder.said(), left)):
        tell(f"extmeta trace: {report.plain(what)}")
    found = recorder.trace()
    if found is None:
        tell("extmeta trace: no round was recorded")
        return INTERRUPTED if interrupted else CANNOT_WRITE
    output.save(args.output, found.save)
    _saved(args, found)
    if interrupted:
        tell(
            f"extmeta trace: interrupted after {found.nr_rounds} of {args.rounds} "
            "rounds, which are kept"
        )
        return INTERRUPTED
    return 0


def calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `calibrate` takes."""
    add = parser.add_argument
    add(
        "--guest",
        action="store_true",
        help="count instructions on a stock Debian kernel in a virtual machine, "
        "instead of measuring ns on this kernel",
    )
    add(
        "--rounds",
        type=_refusing(count_of),
        default=host.ROUNDS,
        metavar="N",
        help="how often each operation is timed on this kernel, "
        f"{host.MIN_ROUNDS} times at least; default: %(default)s",
    )
    add(
        "-o",
        "--output",
        type=_refusing(path_of),
        metavar="FILE",
        help="where the result is stored; - is stdout, without the text; default: "
        f"{costs.FILE} in ~/.cache/extmeta, where `extmeta compare` looks for it",
    )


def run_calibrate(args: argparse.Namespace) -> int:
    """Measure what the kernel's own operations cost for each PTE, and store it.

    A file has up to two parts: what was measured here, and what was counted in a
    guest. A new measurement replaces its part and keeps the other one.
    """
    if args.rounds < host.MIN_ROUNDS:
        raise BadInputError(
            f"--rounds {args.rounds}: {host.MIN_ROUNDS} are needed for an interval"
        )
    parts = {}
    path = Path(args.output) if args.output else costs.cache() / costs.FILE
    if args.output != STANDARD:
        if not args.output:
            path.parent.mkdir(parents=True, exist_ok=True)
        must_be_writable(str(path))
        try:
            parts = costs.load(path)
        except costs.CalibrationError as error:
            if args.output:
                raise BadInputError(f"{error}; it is not replaced") from None
            tell(f"extmeta calibrate: {report.plain(str(error))}; it is replaced")
    try:
        found = _calibrated(args)
    except KeyboardInterrupt:
        tell("extmeta calibrate: interrupted; nothing is stored")
        return INTERRUPTED
    document = costs.to_json({**parts, "guest" if args.guest else "host": found})
    if args.output == STANDARD:
        say(document.removesuffix("\n"))
        return 0
    status = _written(args, str(path), document)
    say(calibration_report.text(found))
    if not status:
        say(f"\nstored in {report.plain(str(path))}")
    return status


def _calibrated(args: argparse.Namespace) -> costs.Calibration:
    with progress() as shown:
        if not args.guest:
            found = host.measure(args.command, rounds=args.rounds, progress=shown)
            if not found.costs:
                raise CannotWriteError(next(iter(found.refused.values())))
            return found
        shown(0, 1, "a virtual machine counts instructions")
        try:
            return guest.measure(args.command)
        except guest.Missing as why:
            raise BadInputError(f"--guest: {why}") from None
        except guest.GuestError as error:
            raise CannotWriteError(f"the guest failed: {error}") from None


def info_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `info` takes."""
    parser.add_argument(
        "file",
        type=_refusing(path_of),
        metavar="FILE",
        help="a capture file, or a shipped capture by its name (one of "
        f"{', '.join(shipped())}); - is a file on stdin",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_info(args: argparse.Namespace) -> int:
    """Print what a capture holds."""
    found = summary.summary(*capture_of(args.file))
    say(summary.to_json(found) if args.json else summary.text(found))
    return 0


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `plan` takes."""
    add = parser.add_argument
    add(
        "fields",
        nargs="+",
        type=_refusing(field_of),
        metavar="FIELD[=BITS]",
        help="a field of a word and its width; default of BITS: 1",
    )
    add(
        "--arch",
        default="x86_64",
        metavar="NAME",
        help="an architecture that `extmeta arch` lists; default: %(default)s",
    )
    _add_release(parser)
    for option, dest, help_ in (
        ("--exclude", "excludes", "at most one of these fields is non-zero in a PTE"),
        ("--imply", "implies", "B is non-zero in every PTE in which A is"),
        ("--per-vma", "per_vma", "in each VMA all but one of these fields are 0"),
    ):
        add(
            option,
            dest=dest,
            action="append",
            default=[],
            type=_parts,
            metavar="A,B",
            help=f"{help_}; may be given again",
        )
    add("--json", action="store_true", help="print JSON")


def run_plan(args: argparse.Namespace) -> int:
    """Find the fewest bits of a PTE that hold fields, given which go together.

    The exit status is 1 if a present PTE has fewer free bits.
    """
    widths: dict[str, int] = {}
    for name, bits in args.fields:
        if name in widths:
            raise BadInputError(f"field {name!r} is there twice")
        widths[name] = bits
    try:
        found = plan(
            *(Fields(**widths), args.arch, args.excludes, args.implies, args.per_vma),
            args.release,
        )
    except (ValueError, KeyError) as error:
        # Not str(): a KeyError's has quotes around it.
        raise BadInputError(str(error.args[0])) from None
    say(plan_report.to_json(found) if args.json else plan_report.text(found))
    return 0 if found.fits else DOES_NOT_FIT


def arch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `arch` takes."""
    parser.add_argument(
        "arch",
        nargs="?",
        metavar="NAME",
        help="print one architecture's entries bit by bit; default: a table of all",
    )
    _add_release(parser)


def run_arch(args: argparse.Namespace) -> int:
    """Print which bits of page-table entries an architecture leaves to software."""
    names = [args.arch] if args.arch else list(ARCHES)
    found = _in_release(names, args.release)
    say(ruler.text(found[0]) if args.arch else ruler.overview(found))
    return 0


def _in_release(names: Sequence[str], release: str | None) -> list[Arch]:
    """Return architectures by name, or raise BadInputError."""
    try:
        return [arch_named(name, release) for name in names]
    except (ValueError, KeyError) as error:
        # Not str(): a KeyError's has quotes around it.
        raise BadInputError(str(error.args[0])) from None


class Verb(NamedTuple):
    """One command: a line of help, its arguments, what it does."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


VERBS = {
    "compare": Verb(
        "what each encoding costs in RAM and CPU", compare_arguments, run_compare
    ),
    "capture": Verb(
        "write a process's page tables to a file", capture_arguments, run_capture
    ),
    "info": Verb("what a capture holds", info_arguments, run_info),
    "plan": Verb("the fewest PTE bits for some fields", plan_arguments, run_plan),
    "arch": Verb("the bits of page-table entries", arch_arguments, run_arch),
    "calibrate": Verb(
        "what the kernel's own operations cost", calibrate_arguments, run_calibrate
    ),
    "trace": Verb("record which pages a process writes", trace_arguments, run_trace),
}


def _parser() -> Parser:
    parser = Parser(
        prog="extmeta",
        description="Metadata words beside page-table entries.",
        epilog="Exit status: 0; 2 for bad input; 1 if a result can't be written, or if "
        "`plan` finds that the fields don't fit; 130 when interrupted (128 and the "
        "signal's number); 141 if the reader of stdout has gone.",
    )
    version = f"extmeta {__version__}"
    parser.add_argument("--version", action="version", version=version)
    verbs = parser.add_subparsers(dest="verb", metavar="|".join(VERBS), required=True)
    for name, verb in VERBS.items():
        added = verbs.add_parser(
            name, help=verb.help, description=verb.run.__doc__, allow_abbrev=False
        )
        verb.add_arguments(added)
        added.set_defaults(run=verb.run)
    return parser


def _run(argv: Sequence[str]) -> int:
    try:
        args = _parser().parse_args(argv)
    except SystemExit as exit:
        return int(exit.code or 0)
    args.command = ["extmeta", *argv]
    try:
        status: int = args.run(args)
        return status
    except output.StdoutError:
        raise
    except (BadInputError, CannotWriteError, MemoryError) as error:
        why = report.plain(str(error)) or "out of memory"
        bad = isinstance(error, BadInputError)
    except OSError as error:
        why = report.plain(f"{error.filename or 'error'}: {error.strerror or error}")
        bad = False
    tell(f"extmeta {args.verb}: {why}")
    return BAD_INPUT if bad else CANNOT_WRITE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        By default the process's own.
    """
    try:
        try:
            status = _run(sys.argv[1:] if argv is None else argv)
        except KeyboardInterrupt as told:
            status = 128 + (told.args or (signal.SIGINT,))[0]
        with output.told_of_stdout():
            if sys.stdout:
                sys.stdout.flush()
    except output.StdoutError as error:
        output.discard(sys.stdout)
        if isinstance(error.__cause__, BrokenPipeError):
            return PIPE_CLOSED
        tell(f"extmeta: stdout: {error.strerror}")
        return CANNOT_WRITE
    return status
