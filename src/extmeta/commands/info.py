"""`extmeta info`: what a capture holds."""

import argparse

from extmeta.commands.arguments import A_CAPTURE, path_of, refusing
from extmeta.commands.inputs import capture_of
from extmeta.commands.output import say
from extmeta.reports import summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `info` takes."""
    parser.epilog = "Examples: extmeta info redis; extmeta info --json mine.npz"
    parser.add_argument(
        "file",
        type=refusing(path_of),
        metavar="FILE",
        help=f"{A_CAPTURE}, or - for a file on stdin",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what a capture holds."""
    found = summary.summary(*capture_of(args.file))
    say(summary.to_json(found) if args.json else summary.text(found))
    return 0
