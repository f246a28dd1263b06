"""Converters from the text of the command line to values.

A converter raises ValueError, KeyError or TypeError; `refusing` turns it into an
argparse type.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from extmeta.arch import ARCHES, Arch, arch_named
from extmeta.captures.capture import shipped
from extmeta.commands.output import bad_input
from extmeta.cost import placement
from extmeta.cost.forms import form
from extmeta.encodings import encodings
from extmeta.fields import Fields
from extmeta.names import unknown
from extmeta.release import DEFAULT

DEFAULT_FIELDS = "uffd_wp=1,soft_dirty=1,age=8"
ALL_ARCHES = "all"

# What names a capture; the first part of a sentence of help.
A_CAPTURE = (
    "a capture, or a file of another program as `capture --from` reads, or a shipped "
    f"capture by its name (one of {', '.join(shipped())})"
)

# The longest `trace --interval`: a day.
MAX_SECONDS = 86_400

Value = TypeVar("Value")


def refusing(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Return an argparse type that reports errors in the words of ``parse``."""

    def parsed(text: str) -> object:
        try:
            return parse(text)
        except (ValueError, KeyError, TypeError) as error:
            # str() of a KeyError has quotes around the message.
            raise argparse.ArgumentTypeError(str(error.args[0])) from None

    return parsed


def parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def fields_of(text: str) -> Fields:
    """Return the fields of "NAME=BITS,...", each with 1 bit by default.

    A ValueError says what is malformed, named twice, or too wide.
    """
    return Fields(**widths_of(map(field_of, parts(text))))


def widths_of(fields: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return names with their bits; refuse a name that is given twice."""
    widths: dict[str, int] = {}
    for name, bits in fields:
        if name in widths:
            raise ValueError(f"field {name!r} is there twice")
        widths[name] = bits
    return widths


def field_of(text: str) -> tuple[str, int]:
    """Return the name and width of "NAME" or "NAME=BITS", which may be "NAME:BITS"."""
    name, equals, bits = text.replace(":", "=", 1).partition("=")
    if not name.isidentifier() or (equals and not (bits.isascii() and bits.isdigit())):
        raise ValueError(f"{text!r} is not NAME or NAME=BITS")
    return name, int(bits) if equals else 1


def list_of(convert: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    """Return a converter of "A,B,..." that drops repeated values."""
    return lambda text: list(dict.fromkeys(map(convert, parts(text))))


def one_of(kind: str, names: Sequence[str]) -> Callable[[str], str]:
    """Return a converter that accepts these names only."""

    def parsed(text: str) -> str:
        if text not in names:
            raise ValueError(unknown(kind, text, names))
        return text

    return parsed


def fraction_of(text: str) -> float:
    """Return a number in [0, 1]."""
    try:
        fraction = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no fraction") from None
    if not 0 <= fraction <= 1:
        raise ValueError(f"{text!r} is not in [0, 1]")
    return fraction


def form_of(text: str) -> str:
    """Return the name of an encoding, with its argument if there is one."""
    form(text)
    return text


fractions_of = list_of(fraction_of)
forms_of = list_of(form_of)
placements_of = list_of(one_of("placement", placement.PLACEMENTS))
words_of = list_of(one_of("kind of words", placement.WORDS))


def arches_of(text: str) -> list[str]:
    """Return the name of one architecture, or all names for "all"."""
    return list(ARCHES) if text == ALL_ARCHES else [arch_named(text).name]


def add_compared(parser: argparse.ArgumentParser) -> None:
    """Add the encodings, fields and seed of a comparison."""
    add = parser.add_argument
    add(
        "--encodings",
        type=refusing(forms_of),
        metavar="A,B",
        help="encodings by name, or with an argument as in linked:16; default: all of "
        f"{', '.join(encodings())}, and the other forms that these offer",
    )
    add(
        "--fields",
        type=refusing(fields_of),
        default=DEFAULT_FIELDS,
        metavar="NAME=BITS,...",
        help="the fields of a word and their widths; default: %(default)s",
    )
    add_seed(parser)


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed",
        type=refusing(count_of),
        default=0,
        metavar="N",
        help="seed of the random numbers; default: 0",
    )


def add_release(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--release",
        metavar="6.12",
        help="release of Linux, on which the free bits depend; default: "
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
    """Return a file name that is not empty; "-" stands for stdin or stdout."""
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
    """Return ``parse``, made to refuse 0."""

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
        help="file to write, always in numpy's .npz format; - is stdout",
    )


def in_release(names: Sequence[str], release: str | None) -> list[Arch]:
    """Return architectures by name, or raise BadInputError."""
    with bad_input(ValueError, KeyError):
        return [arch_named(name, release) for name in names]
