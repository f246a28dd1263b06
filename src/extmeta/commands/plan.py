"""`extmeta plan`: the fewest bits of a PTE that hold fields."""

import argparse

from extmeta.commands.arguments import add_release, field_of, parts, refusing
from extmeta.commands.output import BadInputError, say
from extmeta.commands.status import DOES_NOT_FIT
from extmeta.encodings.plan import plan
from extmeta.fields import Fields
from extmeta.reports import plan as plan_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `plan` takes."""
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
    for option, dest, help_ in (
        ("--exclude", "excludes", "at most one of these fields is non-zero in a PTE"),
        ("--imply", "implies", "B is non-zero in every PTE in which A is"),
        ("--per-vma", "per_vma", "in each VMA all but one of these fields are 0"),
    ):
        add(
            option,
            dest=dest,
            action="append",
            default=[],
            type=parts,
            metavar="A,B",
            help=f"{help_}; may be given again",
        )
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Find the fewest bits of a PTE that hold fields, given which go together.

    The exit status is 1 if a present PTE has fewer free bits.
    """
    widths: dict[str, int] = {}
    for name, bits in args.fields:
        if name in widths:
            raise BadInputError(f"field {name!r} is there twice")
        widths[name] = bits
    try:
        found = plan(
            *(Fields(**widths), args.arch, args.excludes, args.implies, args.per_vma),
            args.release,
        )
    except (ValueError, KeyError) as error:
        # Not str(): a KeyError's has quotes around it.
        raise BadInputError(str(error.args[0])) from None
    say(plan_report.to_json(found) if args.json else plan_report.text(found))
    return 0 if found.fits else DOES_NOT_FIT
