"""`extmeta arch`: the bits of page-table entries."""

import argparse

from extmeta.arch import ARCHES
from extmeta.commands.arguments import add_release, in_release
from extmeta.commands.output import say
from extmeta.reports import ruler


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `arch` takes."""
    parser.epilog = "Examples: extmeta arch; extmeta arch arm64 --release 6.12"
    parser.add_argument(
        "arch",
        nargs="?",
        metavar="NAME",
        help="print one architecture's entries bit by bit; default: a table of all",
    )
    add_release(parser)
    parser.add_argument("--json", action="store_true", help="print JSON: a list")


def run(args: argparse.Namespace) -> int:
    """Print which bits of page-table entries an architecture leaves to software."""
    names = [args.arch] if args.arch else list(ARCHES)
    found = in_release(names, args.release)
    if args.json:
        say(ruler.to_json(found))
    else:
        say(ruler.text(found[0]) if args.arch else ruler.overview(found))
    return 0
