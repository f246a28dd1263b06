"""`extmeta trace`: record which pages a process writes."""

import argparse

from extmeta.captures import record, trackers
from extmeta.commands import output
from extmeta.commands.arguments import (
    above_0_of,
    add_pid_and_output,
    count_of,
    refusing,
    seconds_of,
)
from extmeta.commands.output import (
    bad_input,
    must_be_writable,
    progress,
    saved,
    tell,
)
from extmeta.commands.status import CANNOT_WRITE, INTERRUPTED
from extmeta.reports.layout import plain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `trace` takes."""
    parser.epilog = (
        "Example: extmeta trace $(pidof redis-server) --rounds 20 -o writes.npz"
    )
    add = parser.add_argument
    add_pid_and_output(parser)
    add(
        "--rounds",
        type=refusing(above_0_of(count_of)),
        default=10,
        metavar="N",
        help="default: %(default)s",
    )
    add(
        "--interval",
        type=refusing(above_0_of(seconds_of)),
        default=1.0,
        metavar="S",
        help="seconds from one round to the next; default: 1",
    )
    add("--force", action="store_true", help="replace FILE if it is there")


def run(args: argparse.Namespace) -> int:
    """Record which pages a running process writes, round by round.

    If it is interrupted, or the process ends, the rounds so far are kept.
    """
    must_be_writable(args.output, args.force)
    ended, interrupted = "", False
    with record.until_told(), progress() as shown:
        with bad_input(trackers.TraceError):
            recorder = record.Recorder(args.pid, args.interval)
        try:
            ended = recorder.record(args.rounds, shown)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            left = recorder.close()
    for what in filter(None, (ended, *recorder.said(), left)):
        tell(f"extmeta trace: {plain(what)}")
    found = recorder.trace()
    if found is None:
        tell("extmeta trace: no round was recorded")
        return INTERRUPTED if interrupted else CANNOT_WRITE
    output.save(args.output, found.save)
    saved(args, found)
    if interrupted:
        tell(
            f"extmeta trace: interrupted after {found.nr_rounds} of {args.rounds} "
            "rounds, which are kept"
        )
        return INTERRUPTED
    return 0
