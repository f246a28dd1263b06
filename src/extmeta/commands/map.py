"""`extmeta map`: an address space as text."""

import argparse
import json
import shutil

from extmeta.commands.arguments import A_CAPTURE, path_of, refusing
from extmeta.commands.inputs import found_of
from extmeta.commands.output import say
from extmeta.reports import vma_map


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `map` takes."""
    parser.epilog = "Examples: extmeta map redis; extmeta map $(pidof redis-server)"
    parser.add_argument(
        "what",
        type=refusing(path_of),
        metavar="CAPTURE|PID",
        help=f"{A_CAPTURE}, or the id of a running process; - is a file on stdin",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON: the pages of each VMA"
    )


def run(args: argparse.Namespace) -> int:
    """Print which parts of an address space have page-table entries."""
    found, name = found_of(args.what)
    if args.json:
        say(json.dumps(vma_map.vmas(found), indent=1))
    else:
        say(vma_map.text(found, name, shutil.get_terminal_size((80, 24)).columns))
    return 0
