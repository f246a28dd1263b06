"""`extmeta capture`: write a process's page tables to a file."""

import argparse

from extmeta.commands import output
from extmeta.commands.arguments import add_pid_and_output
from extmeta.commands.inputs import captured
from extmeta.commands.output import must_be_writable, saved, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `capture` takes."""
    parser.epilog = "Example: extmeta capture $(pidof redis-server) -o redis.npz"
    add = parser.add_argument
    add_pid_and_output(parser)
    add("--pfns", action="store_true", help="keep page frame numbers (needs root)")
    add(
        "--stop",
        action="store_true",
        help="stop the process by SIGSTOP while it is read, so that nothing changes",
    )
    add("--force", action="store_true", help="replace FILE if it is there")


def run(args: argparse.Namespace) -> int:
    """Write a process's page tables to a file."""
    must_be_writable(args.output, args.force)
    # A signal must not leave the process stopped.
    with output.Stop():
        found = captured(args.pid, args.stop)
    output.save(args.output, lambda path: found.save(path, pfns=args.pfns))
    saved(args, found)
    if not found.settled:
        tell(
            f"extmeta capture: process {args.pid} changed while it was read; "
            "--stop holds it"
        )
    return 0
