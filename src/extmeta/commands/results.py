"""Collects rows while they are measured, then stores and prints them."""

import argparse
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from extmeta.commands import output
from extmeta.commands.output import STANDARD, Shown, say, tell, written
from extmeta.reports import missing
from extmeta.reports.missing import Stage


def print_measured(
    args: argparse.Namespace,
    of: Any,
    measured: Callable[[Shown], Iterator[Any]],
    shown_by: Callable[[], contextlib.AbstractContextManager[Shown]],
    stages: list[Stage],
    provenance: dict[str, Any],
) -> int:
    """Store and print rows, also those of a measurement that ended early."""
    rows: list[Any] = []
    complete = False
    status = 0
    with output.Stop() as stop:
        try:
            with shown_by() as shown:
                # Not list(): rows measured before an interruption must be kept.
                for row in measured(shown):
                    rows.append(row)  # noqa: PERF402
            complete = True
        except KeyboardInterrupt:
            pass
        finally:
            stop.spare()
            if rows:
                lacks = None if complete else missing.missing(rows, stages)
                status = print_result(args, of, rows, provenance, lacks)
    if not complete:
        tell("extmeta compare: interrupted; this is not all")
        return 128 + (stop.signal or signal.SIGINT)
    return status


def print_result(
    args: argparse.Namespace,
    of: Any,
    rows: list[Any],
    provenance: dict[str, Any],
    lacks: list[str] | None,
) -> int:
    """Write JSON, then print the text, also if the JSON can't be written.

    ``of`` has `to_json` and `text` for these rows, as a report module does. ``lacks``
    lists what is missing; it is None if the rows are complete.
    """
    document = of.to_json(rows, provenance, lacks is None, missing=lacks or ())
    if args.json == STANDARD:
        say(document)
        return 0
    status = written(args, args.json, document + "\n") if args.json else 0
    text = of.text(rows, provenance)
    say(text if lacks is None else f"{missing.told(lacks)}\n\n{text}")
    return status
