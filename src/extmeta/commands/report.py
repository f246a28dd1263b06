"""`extmeta report`: what each encoding costs, as a page of charts and tables."""

import argparse
import dataclasses
import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from extmeta.captures import whole_file
from extmeta.captures.capture import shipped
from extmeta.commands import compare, output
from extmeta.commands.arguments import (
    A_CAPTURE,
    DEFAULT_FIELDS,
    add_compared,
    fields_of,
    path_of,
    refusing,
)
from extmeta.commands.inputs import spaces_of
from extmeta.commands.output import (
    STANDARD,
    BadInputError,
    Shown,
    must_be_writable,
    progress,
    save,
    say,
    tell,
)
from extmeta.comparing import engine
from extmeta.cost import origin
from extmeta.cost.space import Space
from extmeta.reports import comparison, missing
from extmeta.reports.document import flat, letter, markdown, sections
from extmeta.reports.figures import size
from extmeta.rows import Row

# Each format, and the end of a file's name that asks for it.
FORMATS = {
    "html": (".html", ".htm"),
    "text": (".txt",),
    "markdown": (".md",),
    "csv": (".csv",),
    "json": (".json",),
    "parquet": (".parquet",),
    "png": (".png",),
    "svg": (".svg",),
}
CHARTS = ("png", "svg")

# The package that a format needs, and the extra that installs it.
NEEDS = {
    "html": ("matplotlib", "report"),
    "png": ("matplotlib", "report"),
    "svg": ("matplotlib", "report"),
    "parquet": ("pyarrow", "parquet"),
}

# A file is taken for JSON if it begins like an object.
JSON_BEGINS = b"{"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `report` takes."""
    parser.epilog = (
        "Examples: extmeta report redis -o redis.html; extmeta "
        "report rows.json --format text"
    )
    add = parser.add_argument
    add(
        "what",
        nargs="*",
        type=refusing(path_of),
        metavar="CAPTURE|PID|JSON",
        help=f"what to measure: {A_CAPTURE}, or the id of a running process; or what "
        "`compare --json` wrote, which is not measured again; - is a file on stdin; "
        f"default: {next(iter(shipped()))}",
    )
    add(
        "-o",
        "--output",
        type=refusing(path_of),
        default=STANDARD,
        metavar="FILE",
        help="file to write; - is stdout, the default. png and svg write a file "
        "for each chart: out.svg stands for out-crossover.svg, out-ram.svg and so on",
    )
    add(
        "--format",
        choices=FORMATS,
        help="html is one page that needs no network and no script; text has 72 "
        "columns; csv and parquet have a line for each figure; default: as FILE ends, "
        "else html, and text on stdout",
    )
    add_compared(parser)
    add(
        "--full",
        action="store_true",
        help="measure all points of `extmeta compare`, as often as it does; by default "
        "those of its --quick",
    )
    add(
        "--instructions",
        action="store_true",
        help="also count instructions, with valgrind: takes minutes",
    )


def run(args: argparse.Namespace) -> int:
    """Write what each encoding costs as a page of charts and tables.

    Charts need matplotlib (pip install 'extmeta[report]'), Parquet needs pyarrow
    (pip install 'extmeta[parquet]').
    """
    how = args.format or _format_of(args.output)
    if how in NEEDS and not find_spec(NEEDS[how][0]):
        package, extra = NEEDS[how]
        raise BadInputError(
            f"--format {how} needs {package}: pip install 'extmeta[{extra}]'"
        )
    if how in CHARTS and args.output == STANDARD:
        raise BadInputError(f"--format {how} writes a file for each chart: add -o FILE")
    if args.output != STANDARD or how in ("html", "parquet"):
        must_be_writable(args.output)
    with output.Stop() as stop:
        try:
            rows, provenance, lacks = _collected(args)
            files = _files(args.output, how, rows, provenance, lacks)
        except KeyboardInterrupt:
            tell("extmeta report: interrupted; nothing is written")
            return 128 + (stop.signal or signal.SIGINT)
        stop.spare()
        for path, data in files.items():
            save(path, partial(whole_file.replace, data=data))
            if path != STANDARD:
                say(f"{path}: {size(len(data))}")
    return 0


def _format_of(path: str) -> str:
    """Return the format that a file's name asks for."""
    if path == STANDARD:
        return "text"
    end = os.path.splitext(path)[1].lower()
    return next((how for how, ends in FORMATS.items() if end in ends), "html")


def _files(
    path: str,
    how: str,
    rows: Sequence[Row],
    provenance: dict[str, Any],
    lacks: list[str] | None,
) -> dict[str, bytes]:
    """Return the files of a format, by path."""
    as_json = comparison.to_json(rows, provenance, lacks is None, lacks or ())
    if how == "json":
        return {path: f"{as_json}\n".encode()}
    if how == "csv":
        return {path: flat.to_csv(rows).encode()}
    if how == "parquet":
        return {path: flat.to_parquet(rows, provenance)}
    try:
        document = sections.document(rows, provenance, lacks)
    except ValueError as error:
        raise BadInputError(str(error)) from None
    texts = {"text": letter.text, "markdown": markdown.text}
    if how in texts:
        return {path: f"{texts[how](document)}\n".encode()}
    # matplotlib takes a third of a second to import.
    from extmeta.reports.document import charts, html

    if how == "html":
        return {path: html.page(document).encode()}
    if not document.charts:
        raise BadInputError(f"--format {how}: the rows make no chart")
    stem, end = os.path.splitext(path)
    found = {}
    for chart in document.charts:
        if how == "png":
            data = charts.png(chart, document.encodings)
        else:
            data = charts.svg(chart, document.encodings).encode()
        found[f"{stem}-{chart.name}{end or f'.{how}'}"] = data
    return found


# -- where the rows are from -------------------------------------------------------


def _collected(
    args: argparse.Namespace,
) -> tuple[list[Row], dict[str, Any], list[str] | None]:
    """Return rows, stored or measured, their provenance, and what is missing or None."""
    rows: list[Row] = []
    provenances: list[dict[str, Any]] = []
    lacks: list[str] | None = None
    spaces: list[Space] = []
    for what in args.what or [next(iter(shipped()))]:
        with output.readable(what) as path:
            document = _json(what, path)
            if document is None:
                spaces += _spaces(what, path)
                continue
        try:
            found, provenance = comparison.from_json(document)
            lacking = missing.stored(document)
        except ValueError as error:
            raise BadInputError(f"{what}: {error}") from None
        if not found:
            raise BadInputError(f"{what}: there are no rows")
        rows += found
        provenances.append(provenance)
        if lacking is not None:
            lacks = [*(lacks or []), *lacking]
    if spaces:
        provenance = origin.provenance(args.command, args.seed)
        provenance["calibration"] = engine.calibration(compare.told(args.verb))
        provenances.append(provenance)
        with progress() as shown:
            rows += _measured(args, spaces, shown)
    else:
        names = ("encodings", "full", "instructions", "seed")
        given = {name: getattr(args, name) for name in names}
        given["fields"] = args.fields != fields_of(DEFAULT_FIELDS)
        for option in filter(given.get, given):
            raise BadInputError(f"{args.what[0]} and --{option}: nothing is measured")
    return rows, _joined(provenances), lacks


def _json(what: str, path: str) -> str | None:
    """Return the text of a file that holds JSON; None if it is something else."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            if file.read(1) != JSON_BEGINS:
                return None
            return (JSON_BEGINS + file.read()).decode()
    except OSError as error:
        raise BadInputError(f"{what}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"{what}: not JSON: {error}") from None


def _spaces(what: str, path: str) -> list[Space]:
    """Return the address space of a capture or a process; ``path`` may be a copy."""
    try:
        return spaces_of(path, [])
    except BadInputError as error:
        raise BadInputError(str(error).replace(path, what)) from None


def _joined(provenances: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the first provenance, with what differs in the others under own keys."""
    first, *others = provenances
    joined = dict(first)
    for number, other in enumerate(others, 2):
        for key, value in other.items():
            if key == "calibration" and not joined.get(key):
                joined[key] = value
            elif key != "calibration" and value != first.get(key):
                joined[f"{key} of part {number}"] = value
    return joined


def _measured(
    args: argparse.Namespace, spaces: Sequence[Space], shown: Shown
) -> Iterator[Row]:
    """Yield the rows of each space, and the crossover on its architecture."""
    request = engine.Request(
        spaces=spaces,
        fields=args.fields,
        forms=args.encodings or (),
        instructions=args.instructions,
        quick=not args.full,
        full=True,
        seed=args.seed,
    )
    crossed = dataclasses.replace(
        request,
        kinds=[engine.DEFAULT_KIND],
        arches=[*dict.fromkeys(space.arch for space in spaces)],
        crossover=True,
        instructions=False,
    )
    for each in (request, crossed):
        yield from engine.rows(each, shown, compare.told(args.verb), [])
