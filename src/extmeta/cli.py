"""The command: ``extmeta compare | capture | info``.

Results go to stdout, progress and errors to stderr. Exit status: 0; 2 with one
line for bad input; 1 with one line where output can't be written; 130 when
interrupted, after `compare` has printed what it had; 141 where the reader of
stdout has gone.
"""

import argparse
import contextlib
import os
import shlex
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from extmeta import compare, measure, report, summary, workload
from extmeta.capture import Capture, CaptureError, capture, load_capture, shipped
from extmeta.fields import Fields
from extmeta.measure import Row
from extmeta.workload import Space

DEFAULT_FIELDS = "uffd_wp=1,soft_dirty=1,age=8"
DEFAULT_FRACTIONS = ",".join(f"{fraction:g}" for fraction in compare.FRACTIONS)

# Of --quick: the ends of the sweep and what lies between in the worst way.
QUICK_FRACTIONS = "0,0.01,1"
QUICK_PLACEMENT = "random"

BAD_INPUT = 2
CANNOT_WRITE = 1
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE

Report = Callable[[int, int, str], None]


class BadInputError(Exception):
    """What the user gave can't be used; the message is one line."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {report.plain(message)}\n")


# -- what is given on the command line ----------------------------------------


def _refusing(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Return an argparse type that names the value as ``parse`` does."""

    def parsed(text: str) -> object:
        try:
            return parse(text)
        except (ValueError, KeyError, TypeError) as error:
            # Not str(): a KeyError's has quotes around it.
            raise argparse.ArgumentTypeError(str(error.args[0])) from None

    return parsed


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def fields_of(text: str) -> Fields:
    """Return the fields of "NAME=BITS,...".

    Raises
    ------
    ValueError
        If it is none of that, names the same field twice, or is too wide.
    """
    widths: dict[str, int] = {}
    for part in _parts(text):
        name, _equals, bits = part.partition("=")
        if not name.isidentifier() or not (bits.isascii() and bits.isdigit()):
            raise ValueError(f"{part!r} is not NAME=BITS")
        if name in widths:
            raise ValueError(f"field {name!r} is there twice")
        widths[name] = int(bits)
    return Fields(**widths)


def fractions_of(text: str) -> list[float]:
    """Return the numbers of a list, each in [0, 1]."""
    found = []
    for part in _parts(text):
        try:
            fraction = float(part)
        except ValueError:
            raise ValueError(f"{part!r} is no fraction") from None
        if not 0 <= fraction <= 1:
            raise ValueError(f"{part!r} is not in [0, 1]")
        found.append(fraction)
    return list(dict.fromkeys(found))


def placements_of(text: str) -> list[str]:
    """Return the names of a list, each of a placement."""
    for part in _parts(text):
        if part not in workload.PLACEMENTS:
            there = ", ".join(workload.PLACEMENTS)
            raise ValueError(f"no placement {part!r}; there are {there}")
    return list(dict.fromkeys(_parts(text)))


def forms_of(text: str) -> list[str]:
    """Return the names of a list, each of an encoding, perhaps with an argument."""
    for part in _parts(text):
        compare.form(part)
    return list(dict.fromkeys(_parts(text)))


def count_of(text: str) -> int:
    """Return a number that is not negative."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no number from 0 on")
    return int(text)


def read(path: str) -> Capture:
    """Read a capture file.

    Raises
    ------
    BadInputError
        If there is none, or it is damaged.
    """
    try:
        return load_capture(path)
    except CaptureError as error:
        raise BadInputError(str(error)) from None
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None


def space_of(given: str) -> Space:
    """Return the address space of a file, a shipped capture, or a process."""
    if given in shipped() and not os.path.exists(given):
        found, name = read(str(shipped()[given])), given
    elif given.isascii() and given.isdigit() and not os.path.exists(given):
        found = _captured(int(given))
        name = f"process {given} ({found.comm})"
    else:
        found, name = read(given), os.path.basename(given)
    try:
        return workload.captured(found, name)
    except CaptureError as error:
        raise BadInputError(str(error)) from None


def _captured(pid: int, stop: bool = False) -> Capture:
    with _progress() as shown:
        try:
            return capture(
                pid,
                stop=stop,
                progress=lambda done, total: shown(
                    done, total, f"process {pid}: reading pagemap"
                ),
            )
        except (CaptureError, ValueError, OverflowError) as error:
            raise BadInputError(str(error)) from None


# -- where results go ----------------------------------------------------------


@contextlib.contextmanager
def _progress() -> Iterator[Report]:
    """Give a callable (done, total, what): on a terminal a bar, else lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        seen = ""

        def line(done: int, total: int, what: str) -> None:
            nonlocal seen
            # What precedes the colon: the rest changes too often for lines.
            if what.partition(":")[0] != seen:
                seen = what.partition(":")[0]
                print(f"extmeta: {done} of {total}, {report.plain(seen)}", end="\n",
                      file=sys.stderr, flush=True)

        yield line
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # No thread that draws meanwhile: it would be measured.
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True
    ) as bar:
        task = bar.add_task("")

        def drawn(done: int, total: int, what: str) -> None:
            text = report.plain(what).replace("[", "\\[")
            bar.update(task, completed=done, total=total, description=text)
            bar.refresh()

        yield drawn


def _writable(path: str, force: bool = True) -> None:
    """Refuse a path that can't be written, before anything is measured.

    Raises
    ------
    BadInputError
    """
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        raise BadInputError(f"{path}: is a directory")
    if not os.path.isdir(folder):
        raise BadInputError(f"{path}: there is no directory {folder}")
    if os.path.lexists(path) and stat.S_ISREG(os.lstat(path).st_mode) and not force:
        raise BadInputError(f"{path}: exists; --force replaces it")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise BadInputError(f"{path}: permission denied")


def _write(path: str, text: str) -> None:
    """Write a text file, all of it or nothing."""
    if not stat.S_ISREG(os.stat(path).st_mode) if os.path.exists(path) else False:
        with open(path, "w") as file:
            file.write(text)
        return
    draft = f"{path}.{os.getpid()}.tmp"
    try:
        with open(draft, "x") as file:
            file.write(text)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def _command(argv: Sequence[str]) -> list[str]:
    return ["extmeta", *argv]
