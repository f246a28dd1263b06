"""`extmeta sweep-report`: what a sweep found, over machines and processes."""

import argparse

from extmeta.commands.arguments import above_0_of, count_of, path_of, refusing
from extmeta.commands.output import BadInputError, say
from extmeta.reports import fleet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `sweep-report` takes."""
    parser.epilog = "Example: extmeta sweep-report results --machines 10000"
    add = parser.add_argument
    add(
        "folder",
        type=refusing(path_of),
        metavar="DIR",
        help="what `extmeta sweep -o` wrote; also while it is still at work",
    )
    add(
        "--machines",
        type=refusing(above_0_of(count_of)),
        metavar="N",
        help="scale the fleet's memory to N machines; default: those of the sweep",
    )


def run(args: argparse.Namespace) -> int:
    """Print quantiles over machines, the smallest encodings, and a fleet's GiB."""
    try:
        say(fleet.text(args.folder, args.machines))
    except fleet.NoRowsError as error:
        raise BadInputError(str(error)) from None
    except ImportError:
        raise BadInputError("results are read by DuckDB: pip install duckdb") from None
    return 0
