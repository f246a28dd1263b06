"""`extmeta compare --workload`: plays what a tracker does on each encoding."""

import argparse
from collections.abc import Iterator, Sequence

from extmeta.captures.capture import CaptureError
from extmeta.captures.trace import load_trace
from extmeta.commands import output
from extmeta.commands.arguments import DEFAULT_FIELDS, count_of, fields_of
from extmeta.commands.inputs import found_of, loaded
from extmeta.commands.output import BadInputError, Shown, bad_input
from extmeta.commands.results import print_measured
from extmeta.cost import measure, origin
from extmeta.cost.forms import default_forms
from extmeta.names import unknown
from extmeta.reports import workloads as workload_report
from extmeta.reports.missing import Stage
from extmeta.rows import BASELINE, CONTROL, PlayedRow
from extmeta.workloads import (
    WORKLOADS,
    Process,
    Workload,
    comparison,
    of_capture,
    of_trace,
    synthetic,
)

# MiB of the made-up process if no process is named.
WORKLOAD_MIB = 64
QUICK_WORKLOAD_MIB = 8
MOST_MIB = 1 << 20
PAGES_A_MIB = 256

# `--workload list` lists the workloads.
LIST = "list"


def workload_of(text: str) -> tuple[str, str]:
    """Return the name and the parameters of "NAME" or "NAME:PARAMETER=VALUE,...".

    Raises ValueError for an unknown workload or parameter.
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


def mib_of(text: str) -> int:
    """Return the MiB of made-up memory, or raise ValueError."""
    mib = count_of(text)
    if not 0 < mib <= MOST_MIB:
        raise ValueError(f"{text!r} is not from 1 to {MOST_MIB:,}")
    return mib


def play(args: argparse.Namespace) -> int:
    """Play a workload on each encoding."""
    names = ["crossover", "arch", "release", "fractions", "placement", "words", "full"]
    names += ["instructions", "lock", "bounds", "charge_links", "processes"]
    given = {name.replace("_", "-"): getattr(args, name) for name in names}
    given["fields"] = args.fields != fields_of(DEFAULT_FIELDS)
    given["from"] = args.stored
    for option in filter(given.get, given):
        raise BadInputError(f"--workload {args.workload[0]} takes no --{option}")
    refuse_format(args)
    name, parameters = args.workload
    if args.mib and (args.what or args.trace):
        named = args.trace or args.what[0]
        raise BadInputError(f"--mib {args.mib} and {named}: one of them")
    with bad_input(ValueError):
        load = WORKLOADS[name].of_text(parameters, args.seed)
    # Read all of them first, so that a bad one is refused before anything is measured.
    processes = list(_processes(args))
    forms = args.encodings or [*default_forms(), *load.forms]
    stages = [
        Stage(subject, f"{name} on {process.name}", text)
        for subject, process in enumerate(processes)
        for text in dict.fromkeys([CONTROL, *forms])
        if text != BASELINE
    ]

    def measured(shown: Shown) -> Iterator[PlayedRow]:
        for process in processes:
            yield from _played(args, name, load, process, forms, shown)

    provenance = origin.provenance(args.command, args.seed)
    shown_by = output.progress_on_a_terminal
    return print_measured(args, workload_report, measured, shown_by, stages, provenance)


def refuse_format(args: argparse.Namespace) -> None:
    """Refuse a format in which rows of a workload can't be printed."""
    if args.format not in ("text", "json"):
        raise BadInputError(f"--format {args.format}: a workload has text and json")


def _processes(args: argparse.Namespace) -> Iterator[Process]:
    with bad_input(CaptureError):
        if args.trace:
            yield of_trace(*loaded(args.trace, load_trace))
        for given in args.what:
            yield of_capture(*found_of(given))
    if not (args.trace or args.what):
        mib = args.mib or (QUICK_WORKLOAD_MIB if args.quick else WORKLOAD_MIB)
        yield synthetic(mib * PAGES_A_MIB)


def _played(
    args: argparse.Namespace,
    name: str,
    load: Workload,
    process: Process,
    forms: Sequence[str],
    shown: Shown,
) -> Iterator[PlayedRow]:
    return comparison.compare(
        name,
        load,
        process,
        forms,
        rounds=measure.QUICK_ROUNDS if args.quick else measure.ROUNDS,
        budget_ns=measure.QUICK_BUDGET_NS if args.quick else measure.BUDGET_NS,
        narrow=measure.QUICK_NARROW if args.quick else measure.NARROW,
        progress=lambda done, total, what: shown(done, total, f"{name}: {what}"),
    )
