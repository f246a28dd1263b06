"""What a verb reads: captures, traces and running processes, by what is given."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from extmeta.captures.capture import Capture, CaptureError, load_capture, shipped
from extmeta.captures.process import capture
from extmeta.commands import output
from extmeta.commands.output import STANDARD, BadInputError, progress
from extmeta.cost.space import Space, space_of
from extmeta.names import unknown

Loaded = TypeVar("Loaded")


def capture_of(given: str) -> tuple[Capture, str]:
    """Return the capture in a file, or a shipped one, and its name.

    Raises
    ------
    BadInputError
        If there is none, or it is damaged.
    """
    plain = given not in (STANDARD, "") and os.path.basename(given) == given
    if plain and given not in shipped() and not os.path.exists(given):
        raise BadInputError(
            f"{given}: No such file or directory, and "
            f"{unknown('shipped capture', given, shipped())}"
        )
    return loaded(given, load_capture)


def loaded(given: str, load: Callable[[str], Loaded]) -> tuple[Loaded, str]:
    """Return what is in a file, "-" being stdin, and the file's name.

    Raises
    ------
    BadInputError
    """
    with output.readable(given) as path:
        try:
            return load(path), "stdin" if given == STANDARD else os.path.basename(given)
        except CaptureError as error:
            raise BadInputError(str(error).replace(path, given)) from None
        except OSError as error:
            raise BadInputError(f"{given}: {error.strerror}") from None


def captured(pid: int, stop: bool) -> Capture:
    """Capture a process, with progress.

    Raises
    ------
    BadInputError
        If that can't be.
    """
    with progress() as shown:

        def reading(done: int, total: int) -> None:
            shown(done, total, f"bytes of the pagemap of process {pid}")

        try:
            return capture(pid, stop=stop, progress=reading)
        except ValueError as error:
            raise BadInputError(str(error)) from None


def found_of(given: str) -> tuple[Capture, str]:
    """Return the capture of a file, a shipped one, or a process, and its name.

    Raises
    ------
    BadInputError
    """
    if given.isascii() and given.isdigit() and not os.path.exists(given):
        found = captured(int(given), stop=False)
        return found, f"process {given}, {found.comm}"
    return capture_of(given)


def spaces_of(given: str, arches: Sequence[str]) -> list[Space]:
    """Return the address space of a file, a shipped capture, or a process.

    Parameters
    ----------
    given : str
    arches : sequence of str
        One on each of these; if there is none, on the capture's own.

    Raises
    ------
    BadInputError
    """
    found, name = found_of(given)
    try:
        own: list[str | None] = [None]
        return [space_of(found, name, arch) for arch in arches or own]
    except CaptureError as error:
        raise BadInputError(str(error)) from None
