"""The encodings that a text names, and the fields that the baseline can hold."""

from extmeta.arch import Arch
from extmeta.encodings import built_in, encodings, factory_of
from extmeta.encodings.inpte import places
from extmeta.fields import Fields
from extmeta.names import unknown
from extmeta.rows import BASELINE, CALL, CONTROL, INDEXED, Refused
from extmeta.table.encoding import Encoding


def form(text: str) -> str | Encoding:
    """Return the encoding that a name, or NAME:ARGUMENT, stands for.

    Raises
    ------
    ValueError
        If the encoding is unknown, or does not take the argument.

    Examples
    --------
    >>> form("linked:16"), form("adjacent:needed"), form("linked")
    (Linked(bits=16), Adjacent(when='needed'), 'linked')
    """
    name, colon, argument = text.partition(":")
    if name not in encodings():
        raise ValueError(unknown("encoding named", name, encodings()))
    if not colon:
        return name
    try:
        # A factory without from_text makes one form only.
        from_text = getattr(factory_of(name), "from_text", None)
        if from_text is None:
            raise ValueError(f"{name} takes no argument")
        made: Encoding = from_text(argument)
    except (TypeError, ValueError) as error:
        raise ValueError(f"encoding {text!r}: {error}") from error
    return made


def in_pte(text: str) -> bool:
    """Tell whether a form has its words in the PTE: it gets the baseline's fields."""
    return text in (BASELINE, INDEXED)


def default_forms() -> list[str]:
    """Return the forms compared by default: every name, and its `Encoding.forms`."""
    return [
        text
        for name in encodings()
        for text in (name, *(f"{name}:{argument}" for argument in _forms(name)))
    ]


def _forms(name: str) -> tuple[str, ...]:
    try:
        return getattr(factory_of(name), "forms", ())
    except ValueError:
        # Another package's encoding is broken. Its use will report that.
        return ()


def lack(fields: Fields, arch: Arch, has_swap: bool) -> str:
    """Return what the baseline lacks to hold ``fields``, or ""."""
    by_right = [name for name in fields if _owned(name, fields[name], arch)]
    needed = fields.bits - len(by_right)
    besides = f" besides those of {' and '.join(by_right)}" if by_right else ""
    present, swap = places(fields, arch)
    if None in present:
        return (
            f"{needed} free bits of a PTE are needed{besides}, {arch.name} has "
            f"{len(arch.free)}"
        )
    if has_swap and None in swap:
        return (
            f"some PTEs are swap entries: {needed} free bits are needed there"
            f"{besides}, {arch.name} has {len(arch.swap.free)}"
        )
    return ""


def _owned(name: str, width: int, arch: Arch) -> bool:
    """Tell whether Linux owns bits for a field, so that it needs no free ones."""
    return not {*places(Fields(**{name: width}), arch)[0]} <= {None, *arch.free}


def fitting(fields: Fields, arch: Arch, has_swap: bool) -> Fields:
    """Return the largest set of fields that the baseline can hold.

    That is the subset with the most bits; with ``has_swap`` it has to fit a swap entry
    too. If no field fits, it is the widest, cut to the free bits. If no bit is free, it
    is a tracker that Linux owns: see `tasks.point_words`. ValueError is raised if
    there is none either.
    """
    room = len(arch.free)
    if has_swap:
        room = min(room, len(arch.swap.free))
    shared = {}
    chosen = set()
    for name, width in fields.items():
        if _owned(name, width, arch):
            chosen.add(name)
        else:
            shared[name] = width
    # The possible sums of widths, each with its fields.
    sums: dict[int, tuple[str, ...]] = {0: ()}
    for name, width in shared.items():
        for total, names in list(sums.items()):
            if total + width <= room:
                sums.setdefault(total + width, (*names, name))
    chosen.update(sums[max(sums)])
    if chosen:
        return Fields(**{n: width for n, width in fields.items() if n in chosen})
    widest = max(fields, key=fields.__getitem__)
    if not room and arch.owned:
        return Fields(**{next(iter(arch.owned)): 1})
    if not room:
        raise ValueError(f"{arch.name} has no bit in a PTE for any of {fields!r}")
    return Fields(**{widest: room})


def left_out(text: str, error: Exception, where: str = "") -> Refused:
    """Return the row of an encoding that can't be compared there, or raise ``error``.

    An encoding of this package raises ValueError or MemoryError; any other error is a
    bug of ours. Any error of another package's encoding is reported as its reason.
    """
    if isinstance(error, ValueError):
        return Refused(text, str(error), where)
    if isinstance(error, MemoryError):
        return Refused(text, str(error) or "out of memory", where)
    if text in (CALL, CONTROL) or built_in(text.partition(":")[0]):
        raise error
    return Refused(text, f"{type(error).__name__}: {error}", where)
