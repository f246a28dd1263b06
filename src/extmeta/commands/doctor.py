"""`extmeta doctor`: what this machine can do."""

import argparse
import dataclasses
import json

from extmeta.commands.output import say
from extmeta.cost.abilities import abilities
from extmeta.reports.layout import plain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `doctor` takes."""
    parser.epilog = "Example: extmeta doctor. It exits with 0, whatever is missing."
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Try what parts of extmeta need, and print what this machine can do."""
    found = [*abilities()]
    if args.json:
        say(json.dumps([dataclasses.asdict(each) for each in found], indent=1))
        return 0
    for each in found:
        state = "yes" if not each.lacks else f"no: {plain(each.lacks)}"
        say(f"{each.name:<16} {state}\n{'':<16}   needed for: {each.needed_for}")
    return 0
