"""`extmeta calibrate`: what the kernel's own operations cost."""

import argparse
from pathlib import Path

from extmeta.commands.arguments import count_of, path_of, refusing
from extmeta.commands.output import (
    STANDARD,
    BadInputError,
    CannotWriteError,
    must_be_writable,
    progress,
    say,
    tell,
    written,
)
from extmeta.commands.status import INTERRUPTED
from extmeta.cost.kernel import costs, guest, host
from extmeta.reports import calibration as calibration_report
from extmeta.reports.layout import plain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `calibrate` takes."""
    parser.epilog = (
        "Examples: extmeta calibrate; extmeta calibrate --guest -o guest.json"
    )
    add = parser.add_argument
    add(
        "--guest",
        action="store_true",
        help="count instructions on a stock Debian kernel in a virtual machine, "
        "instead of measuring ns on this kernel",
    )
    add(
        "--rounds",
        type=refusing(count_of),
        default=host.ROUNDS,
        metavar="N",
        help="how often each operation is timed on this kernel, at least "
        f"{host.MIN_ROUNDS}; default: %(default)s",
    )
    add(
        "-o",
        "--output",
        type=refusing(path_of),
        metavar="FILE",
        help="where to store the result; - is stdout, without the text; default: "
        f"{costs.FILE} in ~/.cache/extmeta, where `extmeta compare` looks for it",
    )


def run(args: argparse.Namespace) -> int:
    """Measure what the kernel's own operations cost for each PTE, and store it.

    The file has two parts: what was measured here, and what was counted in a guest. A
    new measurement replaces its part and keeps the other.
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
            tell(f"extmeta calibrate: {plain(str(error))}; it is replaced")
    try:
        found = _calibrated(args)
    except KeyboardInterrupt:
        tell("extmeta calibrate: interrupted; nothing is stored")
        return INTERRUPTED
    document = costs.to_json({**parts, "guest" if args.guest else "host": found})
    if args.output == STANDARD:
        say(document.removesuffix("\n"))
        return 0
    status = written(args, str(path), document)
    say(calibration_report.text(found))
    if not status:
        say(f"\nstored in {plain(str(path))}")
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
