"""Reads captures, traces and running processes; raises BadInputError if it can't."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from extmeta.captures.capture import Capture, CaptureError, shipped
from extmeta.captures.process import capture
from extmeta.captures.read import read
from extmeta.commands import output
from extmeta.commands.output import STANDARD, BadInputError, bad_input, progress
from extmeta.cost.space import Space, space_of
from extmeta.names import unknown

Loaded = TypeVar("Loaded")


def capture_of(given: str) -> tuple[Capture, str]:
    """Return the capture in a file of any known format, or a shipped one; its name."""
    plain = given not in (STANDARD, "") and os.path.basename(given) == given
    if plain and given not in shipped() and not os.path.exists(given):
        raise BadInputError(
            f"{given}: No such file or directory, and "
            f"{unknown('shipped capture', given, shipped())}"
        )
    return loaded(given, read)


def loaded(given: str, load: Callable[[str], Loaded]) -> tuple[Loaded, str]:
    """Return what ``load`` reads from a file or stdin ("-"), and the file's name."""
    with output.readable(given) as path:
        try:
            return load(path), "stdin" if given == STANDARD else os.path.basename(given)
        except CaptureError as error:
            raise BadInputError(str(error).replace(path, given)) from None
        except OSError as error:
            raise BadInputError(f"{given}: {error.strerror}") from None


def captured(pid: int, stop: bool) -> Capture:
    """Capture a process and show progress."""
    with progress() as shown, bad_input(ValueError):

        def reading(done: int, total: int) -> None:
            shown(done, total, f"bytes of the pagemap of process {pid}")

        return capture(pid, stop=stop, progress=reading)


def found_of(given: str) -> tuple[Capture, str]:
    """Return the capture of a file, a shipped one, or a process, and its name."""
    if given.isascii() and given.isdigit() and not os.path.exists(given):
        found = captured(int(given), stop=False)
        return found, f"process {given}, {found.comm}"
    return capture_of(given)


def spaces_of(given: str, arches: Sequence[str]) -> list[Space]:
    """Return an address space for each of ``arches``, by default the capture's own."""
    found, name = found_of(given)
    own: list[str | None] = [None]
    with bad_input(CaptureError):
        return [space_of(found, name, arch) for arch in arches or own]
