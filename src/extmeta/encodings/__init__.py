"""The encodings by name; those of this package are in `classes`.

Other packages add theirs as entry points of the group `extmeta.encodings`. These are
listed without an import. An encoding is imported when it is first used.
"""

import functools
import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from extmeta.encodings import classes
from extmeta.names import unknown
from extmeta.table.encoding import Encoding

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_factories: dict[str, Callable[[], Encoding]] = {
    made.__module__.split(".")[2]: made
    for made in vars(classes).values()
    if isinstance(made, type)
}

_BUILT_IN = tuple(_factories)

GROUP = "extmeta.encodings"


@cache
def _plugins() -> "dict[str, EntryPoint]":
    """Return the entry points by name, sorted.

    An entry point with a name already taken is left out, with a warning.
    """
    # Imported here because it takes longer to import than this package.
    from importlib import metadata

    # A set, because a package may be found twice on sys.path.
    found = sorted(set(metadata.entry_points(group=GROUP)), key=_whole_name)
    plugins: dict[str, EntryPoint] = {}
    for point in found:
        if point.name in _factories or point.name in plugins:
            warnings.warn(
                f"the encoding {_whole_name(point)} is left out: there is one of "
                "that name",
                RuntimeWarning,
                stacklevel=3,
            )
        else:
            plugins[point.name] = point
    return plugins


def _whole_name(point: "EntryPoint") -> str:
    dist = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"{point.name!r}{dist} ({point.value})"


def register(name: str, factory: Callable[[], Encoding]) -> None:
    """Let ``PageTable(encoding=name)`` and the reports find ``factory``.

    This is for this process. An entry point of the group ``extmeta.encodings`` is for
    every process that has the package installed.

    Parameters
    ----------
    name : str
    factory : callable
        Returns an :class:`Encoding`; called without arguments.

    Raises
    ------
    TypeError
        If ``name`` is not a string or ``factory`` can't be called.
    ValueError
        If the name is taken.
    """
    if not isinstance(name, str):
        raise TypeError(f"an encoding's name is a string, not {name!r}")
    if not callable(factory):
        raise TypeError(f"encoding {name!r}: factory {factory!r} is not callable")
    if name in encodings():
        raise ValueError(f"an encoding named {name!r} is already registered")
    _factories[name] = factory


def encodings() -> list[str]:
    """Return all names.

    The baseline comes first, then the others of this package, those of installed
    packages in alphabetical order, and registered ones.
    """
    registered = [name for name in _factories if name not in _BUILT_IN]
    return [*_BUILT_IN, *_plugins(), *registered]


def built_in(name: str) -> bool:
    """Return whether this package has the encoding of that name."""
    return name in _BUILT_IN


def registered(name: str) -> bool:
    """Return whether `register` added the encoding of that name, for this process."""
    return name in _factories and not built_in(name)


def factory_of(name: str) -> Callable[[], Encoding]:
    """Return the factory of the encoding of that name.

    Raises
    ------
    KeyError
        If there is none.
    ValueError
        If another package has it and it can't be imported.
    """
    if name in _factories:
        return _factories[name]
    if name not in _plugins():
        raise KeyError(unknown("encoding named", name, encodings()))
    point = _plugins()[name]
    try:
        factory = point.load()
        if not callable(factory):
            raise TypeError(f"{factory!r} is not callable")
    except Exception as error:
        raise ValueError(
            f"the encoding {_whole_name(point)} can't be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    return factory  # type: ignore[no-any-return]


def recipe(encoding: str | Encoding) -> Encoding:
    """Return ``encoding`` if it is an Encoding, else a new one of that name.

    A colon separates the name from an argument, as in "linked:16".

    Raises
    ------
    KeyError
        If no encoding has that name.
    TypeError
        If it is neither a name nor an encoding.
    ValueError
        If it takes no argument, or another package has it and it can't be imported.
    """
    if isinstance(encoding, Encoding):
        return encoding
    if not isinstance(encoding, str):
        raise TypeError(f"encoding {encoding!r} is neither a name nor an Encoding")
    name, colon, argument = encoding.partition(":")
    make = factory_of(name)
    if colon:
        from_text = getattr(make, "from_text", None)
        if from_text is None:
            raise ValueError(f"{name} takes no argument, so not {argument!r}")
        make = functools.partial(from_text, argument)
    made = make()
    if not isinstance(made, Encoding):
        raise TypeError(f"the factory of encoding {encoding!r} made {made!r}")
    return made
