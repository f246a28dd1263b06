"""The command: ``extmeta VERB``, with a module for each verb in `extmeta.commands`.

Results go to stdout, progress and errors to stderr. Files are written before anything
is printed. Exit status: 0; 2 for bad input and 1 if output can't be written, each with
one line on stderr; 1 without a line if `plan` finds that fields don't fit; 128 + N if
signal N ended the work (`compare` first prints what it has), so 130 for Ctrl-C; 141, as
after SIGPIPE, if the reader of stdout has gone.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from extmeta import __version__
from extmeta.commands import output
from extmeta.commands.status import BAD_INPUT, CANNOT_WRITE, PIPE_CLOSED
from extmeta.reports.layout import plain


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {plain(message)}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own method ignores that stdout can't be written to.
        if message:
            (output.say if file is sys.stdout else output.tell)(
                message.removesuffix("\n")
            )


class VerbParser(Parser):
    """Parses a verb's arguments, and imports its module only then."""

    verb = ""

    def fill(self) -> None:
        """Add the verb's arguments, unless they are there."""
        if self.verb:
            module = import_module(f"extmeta.commands.{self.verb.replace('-', '_')}")
            self.description = module.run.__doc__
            module.add_arguments(self)
            self.set_defaults(run=module.run)
            self.verb = ""

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        self.fill()
        return super().parse_known_args(*args, **kwargs)


# Each verb is a module of `commands` with `add_arguments` and `run`; its line of help.
VERBS = {
    "compare": "what each encoding costs in RAM and CPU",
    "report": "a page of charts and tables of what each encoding costs",
    "sweep": "RAM and instructions over many captures, as Parquet files",
    "sweep-report": "what a sweep found, over machines and processes",
    "capture": "write a process's page tables to a file",
    "info": "what a capture holds",
    "map": "an address space as text: which parts have page-table entries",
    "plan": "the fewest PTE bits for some fields",
    "arch": "the bits of page-table entries",
    "calibrate": "what the kernel's own operations cost",
    "doctor": "what this machine can do",
    "trace": "record which pages a process writes",
}


def _parser() -> Parser:
    parser = Parser(
        prog="extmeta",
        description="Metadata words beside page-table entries.",
        epilog="Exit status: 0; 2 for bad input; 1 if a result can't be written, or if "
        "`plan` finds that the fields don't fit; 130 when interrupted (128 and the "
        "signal's number); 141 if the reader of stdout has gone.",
    )
    version = f"extmeta {__version__}"
    parser.add_argument("--version", action="version", version=version)
    verbs = parser.add_subparsers(
        dest="verb", metavar="|".join(VERBS), required=True, parser_class=VerbParser
    )
    for name, help_ in VERBS.items():
        verbs.add_parser(name, help=help_, allow_abbrev=False).verb = name
    if "_ARGCOMPLETE" in os.environ:
        # The shell asks what can follow; this call does not return.
        for each in verbs.choices.values():
            each.fill()
        import_module("argcomplete").autocomplete(parser)
    return parser


def _run(argv: Sequence[str]) -> int:
    try:
        args = _parser().parse_args(argv)
    except SystemExit as exit:
        return int(exit.code or 0)
    args.command = ["extmeta", *argv]
    try:
        return int(args.run(args))
    except output.StdoutError:
        raise
    except (output.BadInputError, output.CannotWriteError, MemoryError) as error:
        why = plain(str(error)) or "out of memory"
        bad = isinstance(error, output.BadInputError)
    except OSError as error:
        why = plain(f"{error.filename or 'error'}: {error.strerror or error}")
        bad = False
    output.tell(f"extmeta {args.verb}: {why}")
    return BAD_INPUT if bad else CANNOT_WRITE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        By default the process's own.
    """
    try:
        try:
            status = _run(sys.argv[1:] if argv is None else argv)
        except KeyboardInterrupt as told:
            status = 128 + (told.args or (signal.SIGINT,))[0]
        with output.told_of_stdout():
            if sys.stdout:
                sys.stdout.flush()
    except output.StdoutError as error:
        output.discard(sys.stdout)
        if isinstance(error.__cause__, BrokenPipeError):
            return PIPE_CLOSED
        output.tell(f"extmeta: stdout: {error.strerror}")
        return CANNOT_WRITE
    return status
