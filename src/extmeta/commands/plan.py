"""`extmeta plan`: the fewest bits of a PTE that hold fields."""

import argparse

from extmeta.commands.arguments import (
    add_release,
    field_of,
    parts,
    refusing,
    widths_of,
)
from extmeta.commands.output import bad_input, say
from extmeta.commands.status import DOES_NOT_FIT
from extmeta.encodings.plan import plan
from extmeta.fields import Fields
from extmeta.reports import plan as plan_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `plan` takes."""
    parser.epilog = (
        "Example: extmeta plan uffd_wp soft_dirty age=6 --exclude uffd_wp,soft_dirty"
    )
    add = parser.add_argument
    add(
        "fields",
        nargs="+",
        type=refusing(field_of),
        metavar="FIELD[=BITS]",
        help="a field of a word and its width; default of BITS: 1",
    )
    add(
        "--arch",
        default="x86_64",
        metavar="NAME",
        help="an architecture that `extmeta arch` lists; default: %(default)s",
    )
    add_release(parser)
    for option, help_ in (
        ("--exclude", "at most one of these fields is non-zero in a PTE"),
        ("--imply", "B is non-zero in every PTE in which A is"),
        ("--per-vma", "in each VMA all but one of these fields are 0"),
    ):
        add(
            option,
            action="append",
            default=[],
            type=parts,
            metavar="A,B",
            help=f"{help_}; may be given again",
        )
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Find the fewest bits of a PTE that hold fields, given which occur together.

    The exit status is 1 if a present PTE has fewer free bits.
    """
    with bad_input(ValueError, KeyError):
        fields = Fields(**widths_of(args.fields))
        given = (args.exclude, args.imply, args.per_vma, args.release)
        found = plan(fields, args.arch, *given)
    say(plan_report.to_json(found) if args.json else plan_report.text(found))
    return 0 if found.fits else DOES_NOT_FIT
