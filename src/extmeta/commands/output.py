"""Output of the command: results go to files first, then to stdout.

A closed pipe or a full disk does not lose what was measured. Progress and errors go to
stderr; a failure to write them never ends the work.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self, TextIO

from extmeta.captures import whole_file
from extmeta.commands.status import CANNOT_WRITE
from extmeta.reports.layout import plain

# A path that stands for stdout, or for stdin.
STANDARD = "-"

Shown = Callable[[int, int, str], None]


class BadInputError(Exception):
    """What the user gave can't be used; the message is one line."""


class CannotWriteError(Exception):
    """A result can't be written; the message is one line."""


class StdoutError(OSError):
    """Stdout can't be written to."""


@contextlib.contextmanager
def bad_input(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds, raised in the block, into BadInputError."""
    try:
        yield
    except kinds as error:
        # str() of a KeyError has quotes around the message.
        raise BadInputError(str(error.args[0])) from None


# -- stderr --------------------------------------------------------------------


def tell(text: str) -> None:
    """Print a line on stderr, if anybody reads it."""
    if sys.stderr:
        try:
            print(text, file=sys.stderr, flush=True)
        except OSError:
            discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Send a stream to /dev/null, with what it has buffered."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


@contextlib.contextmanager
def progress() -> Iterator[Shown]:
    """Give a callable (done, total, what) that draws a bar, or lines if no terminal."""
    # `extmeta --help` needs none of this.
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    # rich takes FORCE_COLOR for a terminal.
    if not _on_a_terminal() or console.is_dumb_terminal:
        yield _lines()
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    # Without auto_refresh no thread runs that would disturb the measurement.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("")

        def drawn(done: int, total: int, what: str) -> None:
            text = escape(plain(what))
            # The terminal may have gone.
            with contextlib.suppress(OSError):
                bar.update(task, completed=done, total=total, description=text)
                bar.refresh()

        yield drawn


def _on_a_terminal() -> bool:
    return bool(sys.stderr and sys.stderr.isatty())


def _lines() -> Shown:
    last = ""

    def shown(done: int, total: int, what: str) -> None:
        nonlocal last
        # Only up to the colon: the rest changes too often for lines.
        stage = plain(what.partition(":")[0])
        if stage != last:
            last = stage
            tell(f"{done:,} of {total:,}: {stage}")

    return shown


@contextlib.contextmanager
def progress_on_a_terminal() -> Iterator[Shown]:
    """Give `progress` on a terminal, elsewhere a callable that does nothing."""
    if not _on_a_terminal():
        yield lambda _done, _total, _what: None
        return
    with progress() as shown:
        yield shown


# -- stdout and files ------------------------------------------------------------


def say(text: str) -> None:
    """Print a result, or raise StdoutError."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.replace("±", "+-").encode(encoding, "replace").decode(encoding)
    with told_of_stdout():
        print(text)


@contextlib.contextmanager
def told_of_stdout() -> Iterator[None]:
    """Raise StdoutError for an OSError in the block."""
    try:
        yield
    except OSError as error:
        raise StdoutError(error.errno, error.strerror) from error


def write(path: str, text: str) -> None:
    """Write a text file, all of it or nothing, or raise CannotWriteError."""
    try:
        whole_file.replace(path, text.encode())
    except OSError as error:
        raise CannotWriteError(f"{path}: {error.strerror}") from None


def save(path: str, to: Callable[[str], object]) -> None:
    """Call ``to`` with a path to write to; "-" is stdout.

    Raises CannotWriteError or StdoutError.
    """
    try:
        if path != STANDARD:
            to(path)
            return
        with tempfile.TemporaryDirectory(prefix="extmeta-") as folder:
            draft = Path(folder, "stdout.npz")
            to(str(draft))
            data = draft.read_bytes()
    except OSError as error:
        raise CannotWriteError(f"{path}: {error.strerror}") from None
    with told_of_stdout():
        sys.stdout.buffer.write(data)


@contextlib.contextmanager
def readable(path: str) -> Iterator[str]:
    """Give the path of a file to read; for "-", of a copy of stdin."""
    if path != STANDARD:
        yield path
        return
    if not sys.stdin or sys.stdin.isatty():
        raise BadInputError("-: nothing is piped into stdin")
    with tempfile.TemporaryDirectory(prefix="extmeta-") as folder:
        copy = Path(folder, "stdin.npz")
        copy.write_bytes(sys.stdin.buffer.read())
        yield str(copy)


def must_be_writable(path: str, force: bool = True) -> None:
    """Raise BadInputError, before anything is measured, if a file can't be written.

    An existing file is refused unless ``force``; stdout ("-") if it is a terminal.
    """
    if path == STANDARD:
        if not sys.stdout:
            raise BadInputError("-: stdout is closed")
        if sys.stdout.isatty():
            raise BadInputError(
                "-: stdout is a terminal; redirect it to a file or a pipe"
            )
        return
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        raise BadInputError(f"{path}: is a directory")
    if not os.path.isdir(folder):
        raise BadInputError(f"{path}: there is no directory {folder}")
    if os.path.isfile(path) and not force:
        raise BadInputError(f"{path}: exists; --force replaces it")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise BadInputError(f"{path}: permission denied")
    # A regular file is replaced by a new one in its folder; a device is written to.
    regular = os.path.isfile(path) or not os.path.exists(path)
    if regular and not os.access(folder, os.W_OK):
        raise BadInputError(f"{path}: permission denied to make files in {folder}")


def written(args: argparse.Namespace, path: str, document: str) -> int:
    """Write a file and return the exit status; on failure say why."""
    try:
        write(path, document)
    except CannotWriteError as error:
        tell(f"extmeta {args.verb}: {plain(str(error))}")
        return CANNOT_WRITE
    return 0


def saved(args: argparse.Namespace, found: object, path: str | None = None) -> None:
    """Say what was saved, by default to --output; on stderr if it was to stdout."""
    path = path or args.output
    text = plain(repr(found)[1:-1])
    if path == STANDARD:
        tell(f"extmeta {args.verb}: {text}")
    else:
        say(f"{path}: {text}")


# -- signals -----------------------------------------------------------------------


class Stop:
    """Handles SIGINT, SIGTERM and SIGHUP in a block, so that results are kept.

    The first signal raises KeyboardInterrupt. The second is ignored, because results
    are being written then; the third raises again. After `spare`, which the block calls
    before it writes, the first is ignored and the second raises. `signal` is the number
    of the first, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.spared = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # ValueError: not the main thread. SIG_IGN: left ignored, as under nohup.
            with contextlib.suppress(ValueError):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._told)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def spare(self) -> None:
        """Ignore the next signal."""
        self.spared = True

    def _told(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number
        spared, self.spared = self.spared, not self.spared
        if not spared:
            raise KeyboardInterrupt(number)
