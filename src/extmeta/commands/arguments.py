"""What is given on the command line: text becomes values.

A converter raises ValueError, KeyError or TypeError; `refusing` makes an argparse type
of it.
"""

import argparse
from collections.abc import Callable, Sequence

from extmeta.arch import ARCHES, Arch, arch_named
from extmeta.commands.output import BadInputError
from extmeta.cost import placement
from extmeta.cost.forms import form
from extmeta.fields import Fields
from extmeta.names import unknown
from extmeta.release import DEFAULT

DEFAULT_FIELDS = "uffd_wp=1,soft_dirty=1,age=8"
ALL_ARCHES = "all"

# The longest `trace --interval`: a day.
MAX_SECONDS = 86_400


def refusing(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Return an argparse type that names the value as ``parse`` does."""

    def parsed(text: str) -> object:
        try:
            return parse(text)
        except (ValueError, KeyError, TypeError) as error:
            # Not str(): a KeyError's has quotes around it.
            raise argparse.ArgumentTypeError(str(error.args[0])) from None

    return parsed


def parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def fields_of(text: str) -> Fields:
    """Return the fields of "NAME=BITS,...", of 1 bit where none is said.

    Raises
    ------
    ValueError
        If it is none of that, names the same field twice, or is too wide.
    """
    widths: dict[str, int] = {}
    for part in parts(text):
        name, bits = field_of(part)
        if name in widths:
            raise ValueError(f"field {name!r} is there twice")
        widths[name] = bits
    return Fields(**widths)


def field_of(text: str) -> tuple[str, int]:
    """Return the name and width of "NAME" or "NAME=BITS", which may be "NAME:BITS"."""
    name, equals, bits = text.replace(":", "=", 1).partition("=")
    if not name.isidentifier() or (equals and not (bits.isascii() and bits.isdigit())):
        raise ValueError(f"{text!r} is not NAME or NAME=BITS")
    return name, int(bits) if equals else 1


def fractions_of(text: str) -> list[float]:
    """Return the numbers of a list, each in [0, 1]."""
    found = []
    for part in parts(text):
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
    for part in parts(text):
        if part not in placement.PLACEMENTS:
            raise ValueError(unknown("placement", part, placement.PLACEMENTS))
    return list(dict.fromkeys(parts(text)))


def forms_of(text: str) -> list[str]:
    """Return the names of a list, each of an encoding, perhaps with an argument."""
    for part in parts(text):
        form(part)
    return list(dict.fromkeys(parts(text)))


def words_of(text: str) -> list[str]:
    """Return the names of a list, each of a kind of words."""
    for part in parts(text):
        if part not in placement.WORDS:
            raise ValueError(unknown("kind of words", part, placement.WORDS))
    return list(dict.fromkeys(parts(text)))


def arches_of(text: str) -> list[str]:
    """Return the architecture of that name, or with "all" every one."""
    return list(ARCHES) if text == ALL_ARCHES else [arch_named(text).name]


def add_release(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--release",
        metavar="6.12",
        help="of Linux, on which the free bits depend; default: "
        f"{DEFAULT}, or that of NAME@6.12",
    )


def count_of(text: str) -> int:
    """Return a number that is not negative."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no number from 0 on")
    return int(text)


def pid_of(text: str) -> int:
    """Return the id of a process."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"{text!r} is no number above 0, as process ids are")
    return int(text)


def path_of(text: str) -> str:
    """Return a file's name; "-" stands for stdin or stdout."""
    if not text:
        raise ValueError("'' is no file name")
    return text


def seconds_of(text: str) -> float:
    """Return a number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number of seconds") from None
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"{text!r} is not in [0, {MAX_SECONDS}] seconds")
    return seconds


def above_0_of(parse: Callable[[str], float]) -> Callable[[str], float]:
    """Return ``parse``, but for 0."""

    def parsed(text: str) -> float:
        if not (found := parse(text)):
            raise ValueError(f"{text!r} is not above 0")
        return found

    return parsed


def add_pid_and_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("pid", type=refusing(pid_of), metavar="PID", help="id of the process")
    add(
        "-o",
        "--output",
        type=refusing(path_of),
        required=True,
        metavar="FILE",
        help="the file, in numpy's .npz format, whatever its name; - is stdout",
    )


def in_release(names: Sequence[str], release: str | None) -> list[Arch]:
    """Return architectures by name, or raise BadInputError."""
    try:
        return [arch_named(name, release) for name in names]
    except (ValueError, KeyError) as error:
        # Not str(): a KeyError's has quotes around it.
        raise BadInputError(str(error.args[0])) from None
