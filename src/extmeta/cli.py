"""The command: ``extmeta compare | capture | info | plan | arch | calibrate | trace``.

Results go to stdout, progress and errors to stderr. Exit status: 0; 2 with one
line for bad input; 1 with one line where output can't be written, and without
one where `plan` finds that fields don't fit; 130 when
interrupted, after `compare` has printed what it had; 141 where the reader of
stdout has gone.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from extmeta import (
    __version__,
    compare,
    demands,
    instructions,
    measure,
    plan_report,
    report,
    ruler,
    summary,
    trace,
    whole_file,
    workload,
)
from extmeta.arch import ARCHES, Arch, arch_named
from extmeta.calibration import costs, guest, host
from extmeta.calibration import report as calibration_report
from extmeta.capture import Capture, CaptureError, capture, load_capture, shipped
from extmeta.encodings import encodings
from extmeta.fields import Fields
from extmeta.measure import Row
from extmeta.plan import plan
from extmeta.release import DEFAULT
from extmeta.trace_file import load_trace
from extmeta.workload import Space
from extmeta.workloads import (
    WORKLOADS,
    Process,
    Workload,
    comparison,
    of_capture,
    of_trace,
    synthetic,
)
from extmeta.workloads import report as workload_report

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

# What precedes the text of results that are not all.
INCOMPLETE = (
    "INCOMPLETE: the run was interrupted. What it had not come to is missing below.\n"
)

# Of `trace --interval`: a day.
MAX_SECONDS = 86_400

BAD_INPUT = 2
CANNOT_WRITE = 1
DOES_NOT_FIT = 1
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE

# Where "-" stands for a file.
STDOUT = "/dev/stdout"

Shown = Callable[[int, int, str], None]


class BadInputError(Exception):
    """What the user gave can't be used; the message is one line."""


class CannotWriteError(Exception):
    """A result has no place; the message is one line."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {report.plain(message)}\n")


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
            there = ", ".join(workload.PLACEMENTS)
            raise ValueError(f"no placement {part!r}; there are {there}")
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
            there = ", ".join(workload.WORDS)
            raise ValueError(f"no kind of words {part!r}; there are {there}")
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
            there = ", ".join(WORKLOADS)
            raise ValueError(f"no workload {name!r}; there are {there}")
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
    if given in shipped() and not os.path.exists(given):
        path = str(shipped()[given])
    try:
        return load_capture(path), os.path.basename(given)
    except CaptureError as error:
        raise BadInputError(str(error)) from None
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None


def captured(pid: int, stop: bool) -> Capture:
    """Capture a process, with progress.

    Raises
    ------
    BadInputError
        If that can't be.
    """
    with progress() as shown:

        def reading(done: int, total: int) -> None:
            shown(done, total, f"process {pid}: bytes of pagemap")

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


@contextlib.contextmanager
def progress() -> Iterator[Shown]:
    """Give a callable (done, total, what): on a terminal a bar, else lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # No thread that draws meanwhile: it would be measured.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("")

        def drawn(done: int, total: int, what: str) -> None:
            text = escape(report.plain(what))
            bar.update(task, completed=done, total=total, description=text)
            bar.refresh()

        yield drawn


def _lines() -> Shown:
    last = ""

    def shown(done: int, total: int, what: str) -> None:
        nonlocal last
        # What precedes the colon: the rest changes too often for lines.
        stage = report.plain(what.partition(":")[0])
        if stage != last:
            last = stage
            print(f"{done:,} of {total:,}: {stage}", file=sys.stderr, flush=True)

    return shown


def say(text: str) -> None:
    """Print a result."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.replace("±", "+-").encode(encoding, "replace").decode(encoding)
    print(text)


def must_be_writable(path: str, force: bool = True) -> None:
    """Refuse an output file before anything is measured for it.

    Raises
    ------
    BadInputError
        If it can't be written, or is there and not to be replaced.
    """
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


def write(path: str, text: str) -> None:
    """Write a text file, all of it or nothing.

    Raises
    ------
    CannotWriteError
    """
    try:
        whole_file.replace(path, text.encode())
    except OSError as error:
        raise CannotWriteError(f"{path}: {error.strerror}") from None


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Say of a file that can't be written that it can't, and why."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWriteError(f"{path}: {error.strerror}") from None


def output_of(args: argparse.Namespace) -> str:
    """Return the path of -o, which is stdout's for "-"; refuse one not to be written.

    Raises
    ------
    BadInputError
    """
    if args.output != "-":
        must_be_writable(args.output, args.force)
        return str(args.output)
    if sys.stdout.isatty():
        raise BadInputError("-o -: stdout is a terminal; give a file, or pipe it on")
    return STDOUT


def tell_of(path: str, found: object) -> None:
    """Print what was written, unless stdout has it."""
    if path != STDOUT:
        say(f"{path}: {report.plain(repr(found)[1:-1])}")


# -- the verbs -------------------------------------------------------------------


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `compare` takes."""
    add = parser.add_argument
    add(
        "what",
        nargs="*",
        metavar="CAPTURE|PID",
        help="a capture's file or shipped name, or a process; default: "
        f"{next(iter(shipped()))}, of {', '.join(shipped())}",
    )
    add(
        "--encodings",
        type=_refusing(forms_of),
        metavar="A,B",
        help="names, or NAME:ARGUMENT as in linked:16; default: all of "
        f"{', '.join(encodings())}, and what else they offer",
    )
    add(
        "--fields",
        type=_refusing(fields_of),
        default=DEFAULT_FIELDS,
        metavar="NAME=BITS,...",
        help="the parts of a word; default: %(default)s",
    )
    add(
        "--fractions",
        type=_refusing(fractions_of),
        metavar="0,0.01",
        help=f"of PTEs flagged; default: {DEFAULT_FRACTIONS}",
    )
    add(
        "--placement",
        type=_refusing(placements_of),
        metavar="random,...",
        help=f"how they lie; default: {','.join(workload.PLACEMENTS)}",
    )
    add(
        "--words",
        type=_refusing(words_of),
        metavar="different,...",
        help="how the words differ, one after the other: "
        f"{', '.join(workload.WORDS)}; default: different",
    )
    add(
        "--arch",
        type=_refusing(arches_of),
        default=[],
        metavar="NAME|all",
        help="as that architecture would have it, by default as it is; all: RAM "
        f"alone, at one point unless said, on each of {', '.join(ARCHES)}",
    )
    _add_release(parser)
    add(
        "--workload",
        type=_refusing(workload_of),
        metavar="NAME[:PARAMETER=VALUE,...]",
        help=f"play it instead, on {WORKLOAD_PAGES:,} made-up pages unless something "
        f"is named: {', '.join(WORKLOADS)}; {LIST}: what they are",
    )
    add(
        "--trace",
        metavar="FILE",
        help="what a real process wrote: play the workload on that",
    )
    add(
        "--crossover",
        action="store_true",
        help="RAM alone, in synthetic tables: bytes for each flagged PTE by how many "
        "a table has, and which encoding is the smallest; default of --words: "
        f"{','.join(CROSSOVER_WORDS)}",
    )
    add(
        "--instructions",
        action="store_true",
        help="instructions too, counted by valgrind, beside the kernel's own",
    )
    add("--quick", action="store_true", help="fewer points, fewer pairs")
    add("--seed", type=_refusing(count_of), default=0, help="default: 0")
    add(
        "--json",
        metavar="FILE|-",
        help="write rows and provenance there; - is stdout, without the text",
    )
    add("--from", dest="stored", metavar="FILE", help="print what --json has written")


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
        if args.what:
            raise BadInputError(f"--from {args.stored} and {args.what[0]}: one of them")
        if played := _stored_workload(args.stored):
            _workload_result(*played, args.json, _was_complete(args.stored))
            return 0
        rows, provenance = _stored(args.stored)
        _result(rows, provenance, args.json, _was_complete(args.stored))
        return 0
    if args.release is not None:
        names = args.arch or [workload.DEFAULT_ARCH]
        args.arch = [arch.name for arch in _in_release(names, args.release)]
    args.arch = _comparable(args.arch, args.fields)
    rows = []
    complete = False
    calibration = _calibration()
    with contextlib.suppress(KeyboardInterrupt), progress() as shown:
        # One by one: what is there when interrupted is kept.
        for row in _crossovers(args) if args.crossover else _sweeps(args, shown):
            rows.append(row)
        for row in _instructions(args, shown):
            rows.append(row)
        complete = True
    if rows:
        provenance = measure.provenance(args.command, args.seed)
        provenance["calibration"] = calibration
        _result(rows, provenance, args.json, complete)
    if not complete:
        print("extmeta compare: interrupted; this is not all", file=sys.stderr)
        return INTERRUPTED
    return 0


def _comparable(arches: Sequence[str], fields: Fields) -> list[str]:
    """Return those that have a bit in a PTE for the baseline; say which have none."""
    found = []
    for name in arches:
        try:
            compare.fitting(fields, arch_named(name), has_swap=False)
        except ValueError as error:
            if len(arches) == 1:
                raise BadInputError(str(error)) from None
            print(f"extmeta compare: left out: {error}", file=sys.stderr)
        else:
            found.append(name)
    return found


def _sweeps(args: argparse.Namespace, shown: Shown) -> Iterator[Row]:
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
    for kind in args.words or ["different"]:
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
            able = compare.able(forms, args.fields, spaces[0].arch)
            yield from demands.demanded(able, args.fields, spaces[0].arch, kind)


def _calibration() -> dict[str, object]:
    """Return what `calibrate` has stored; the guest's part, if not, as shipped."""
    parts = {"guest": costs.shipped()}
    try:
        parts |= costs.load(costs.cache() / costs.FILE)
    except costs.CalibrationError as error:
        print(f"extmeta compare: {report.plain(str(error))}", file=sys.stderr)
    return {name: dataclasses.asdict(part) for name, part in parts.items()}


def _instructions(args: argparse.Namespace, shown: Shown) -> Iterator[Row]:
    if not args.instructions:
        return
    if why := instructions.missing():
        print(f"extmeta compare: --instructions: {why}", file=sys.stderr)
        return
    forms = args.encodings or compare.default_forms()
    yield from instructions.counted(forms, progress=shown)


def _crossovers(args: argparse.Namespace) -> Iterator[Row]:
    for given, option in (
        (args.what, "CAPTURE|PID"),
        (args.fractions, "--fractions"),
        (args.placement, "--placement"),
    ):
        if given:
            raise BadInputError(f"--crossover and {option} {given[0]}: one of them")
    forms = args.encodings or compare.default_forms()
    for arch in args.arch or [workload.DEFAULT_ARCH]:
        for kind in args.words or CROSSOVER_WORDS:
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
    rows: list[comparison.Row] = []
    complete = False
    with contextlib.suppress(KeyboardInterrupt), _seen() as shown:
        for process in _processes(args):
            # One by one: what is there when interrupted is kept.
            for row in _played(args, name, load, process, shown):
                rows.append(row)  # noqa: PERF402
        complete = True
    if rows:
        provenance = measure.provenance(args.command, args.seed)
        _workload_result(rows, provenance, args.json, complete)
    if not complete:
        print("extmeta compare: interrupted; this is not all", file=sys.stderr)
        return INTERRUPTED
    return 0


@contextlib.contextmanager
def _seen() -> Iterator[Shown]:
    """Give `progress` on a terminal, and elsewhere one that says nothing."""
    if not sys.stderr.isatty():
        yield lambda _done, _total, _what: None
        return
    with progress() as shown:
        yield shown


def _processes(args: argparse.Namespace) -> Iterator[Process]:
    try:
        if args.trace:
            yield of_trace(load_trace(args.trace), os.path.basename(args.trace))
        for given in args.what:
            yield of_capture(*found_of(given))
    except CaptureError as error:
        raise BadInputError(str(error)) from None
    except OSError as error:
        raise BadInputError(f"{args.trace}: {error.strerror}") from None
    if not (args.trace or args.what):
        yield synthetic(QUICK_WORKLOAD_PAGES if args.quick else WORKLOAD_PAGES)


def _played(
    args: argparse.Namespace,
    name: str,
    load: Workload,
    process: Process,
    shown: Shown,
) -> Iterator[comparison.Row]:
    return comparison.compare(
        name,
        load,
        process,
        args.encodings or [*compare.default_forms(), *load.forms],
        rounds=measure.QUICK_ROUNDS if args.quick else measure.ROUNDS,
        budget_ns=measure.QUICK_BUDGET_NS if args.quick else measure.BUDGET_NS,
        progress=lambda done, total, what: shown(done, total, f"{name}: {what}"),
    )


def _was_complete(path: str) -> bool:
    """Tell whether the run that wrote a file of results came to its end."""
    with open(path, encoding="utf-8") as file:
        return json.load(file).get("complete") is not False


def _stored_workload(
    path: str,
) -> tuple[list[comparison.Row], dict[str, object]] | None:
    """Return what a workload's --json has written; None if it is none of that."""
    try:
        with open(path, encoding="utf-8") as file:
            return workload_report.from_json(file.read())
    except (OSError, ValueError):
        return None


def _workload_result(
    rows: list[comparison.Row],
    provenance: dict[str, object],
    path: str | None,
    complete: bool,
) -> None:
    document = workload_report.to_json(rows, provenance, complete)
    _told(workload_report.text(rows, provenance), document, path, complete)


def _told(text: str, document: str, path: str | None, complete: bool) -> None:
    """Write the JSON first: whoever reads the text may stop reading at any time."""
    if path == "-":
        say(document)
        return
    failed = None
    if path:
        try:
            write(path, document + "\n")
        except CannotWriteError as error:
            failed = error
    if not complete:
        say(INCOMPLETE)
    say(text)
    if failed:
        raise failed


def _stored(path: str) -> tuple[list[Row], dict[str, object]]:
    try:
        with open(path, encoding="utf-8") as file:
            return report.from_json(file.read())
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise BadInputError(f"{path}: {error}") from None


def _result(
    rows: list[Row], provenance: dict[str, object], path: str | None, complete: bool
) -> None:
    document = report.to_json(rows, provenance, complete)
    _told(report.text(rows, provenance), document, path, complete)


def capture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `capture` takes."""
    add = parser.add_argument
    add("pid", type=_refusing(count_of), metavar="PID")
    add("-o", "--output", required=True, metavar="FILE", help="an .npz, named in full")
    add("--pfns", action="store_true", help="keep page frame numbers (needs root)")
    add("--stop", action="store_true", help="hold the process by SIGSTOP meanwhile")
    add("--force", action="store_true", help="replace FILE if it is there")


def run_capture(args: argparse.Namespace) -> int:
    """Write a process's page tables to a file."""
    path = output_of(args)
    found = captured(args.pid, args.stop)
    with writing(path):
        found.save(path, pfns=args.pfns)
    tell_of(path, found)
    if not found.settled:
        print(
            f"extmeta capture: process {args.pid} changed while it was read; "
            "--stop holds it",
            file=sys.stderr,
        )
    return 0


def trace_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `trace` takes."""
    add = parser.add_argument
    add("pid", type=_refusing(count_of), metavar="PID")
    add("-o", "--output", required=True, metavar="FILE", help="an .npz, named in full")
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

    Interrupted, or if the process ends, it keeps the rounds there are.
    """
    path = output_of(args)
    ended, interrupted = "", False
    with trace.until_told(), progress() as shown:
        try:
            recorder = trace.Recorder(args.pid, args.interval)
        except trace.TraceError as error:
            raise BadInputError(str(error)) from None
        try:
            ended = recorder.record(args.rounds, shown)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            left = recorder.close()
    for what in filter(None, (ended, *recorder.said(), left)):
        print(f"extmeta trace: {report.plain(what)}", file=sys.stderr)
    found = recorder.trace()
    if found is None:
        print("extmeta trace: no round was recorded", file=sys.stderr)
        return INTERRUPTED if interrupted else CANNOT_WRITE
    with writing(path):
        found.save(path)
    tell_of(path, found)
    if interrupted:
        print(
            f"extmeta trace: interrupted after {found.nr_rounds} of {args.rounds} "
            "rounds, which are kept",
            file=sys.stderr,
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
        "instead of ns on this one",
    )
    add(
        "--rounds",
        type=_refusing(count_of),
        default=host.ROUNDS,
        metavar="N",
        help=f"on this kernel, {host.MIN_ROUNDS} at least; default: %(default)s",
    )
    add(
        "-o",
        "--output",
        metavar="FILE",
        help=f"where it is stored; default: {costs.FILE} in ~/.cache/extmeta, where "
        "`compare` looks",
    )


def run_calibrate(args: argparse.Namespace) -> int:
    """Measure what the kernel's own operations cost a PTE, and store it.

    The file keeps what was measured here and what was counted in a guest, each
    until it is made again.
    """
    if args.rounds < host.MIN_ROUNDS:
        raise BadInputError(
            f"--rounds {args.rounds}: {host.MIN_ROUNDS} are needed for an interval"
        )
    path = costs.cache() / costs.FILE
    if args.output:
        path = Path(args.output)
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotWriteError(f"{error.filename}: {error.strerror}") from None
    must_be_writable(str(path))
    try:
        parts = costs.load(path)
    except costs.CalibrationError as error:
        if args.output:
            raise BadInputError(f"{error}; it is not replaced") from None
        print(f"extmeta calibrate: {error}; it is replaced", file=sys.stderr)
        parts = {}
    try:
        found = _calibrated(args)
    except KeyboardInterrupt:
        print("extmeta calibrate: interrupted; nothing is stored", file=sys.stderr)
        return INTERRUPTED
    write(str(path), costs.to_json({**parts, "guest" if args.guest else "host": found}))
    say(calibration_report.text(found))
    say(f"\nstored in {report.plain(str(path))}")
    return 0


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
    parser.add_argument("file", metavar="FILE", help="a capture, or a shipped name")
    parser.add_argument("--json", action="store_true", help="as JSON")


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
        help="a part of a word, of 1 bit unless said",
    )
    add("--arch", default="x86_64", metavar="NAME", help=f"of {', '.join(ARCHES)}")
    _add_release(parser)
    for option, dest, help_ in (
        ("--exclude", "excludes", "at most one of these is non-zero in a PTE"),
        ("--imply", "implies", "where A is non-zero, B is"),
        ("--per-vma", "per_vma", "a VMA uses one of these, the others are 0 there"),
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
    add("--json", action="store_true", help="as JSON")


def run_plan(args: argparse.Namespace) -> int:
    """Find the fewest PTE bits for fields that don't all go together.

    The exit status is 1 where a present PTE has fewer.
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
        help="one of them, bit by bit; default: a table of all",
    )
    _add_release(parser)


def run_arch(args: argparse.Namespace) -> int:
    """Print what architectures' page-table entries leave to software."""
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
        prog="extmeta", description="Metadata words beside page-table entries."
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
    except (BadInputError, CannotWriteError, MemoryError) as error:
        why = report.plain(str(error)) or "out of memory"
        print(f"extmeta {args.verb}: {why}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, BadInputError) else CANNOT_WRITE
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        By default the process's own.
    """
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        if sys.stdout:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # Of stdout: nobody reads it any more, or its disk is full.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return PIPE_CLOSED
        print(f"extmeta: stdout: {error.strerror}", file=sys.stderr)
        return CANNOT_WRITE
    return status
