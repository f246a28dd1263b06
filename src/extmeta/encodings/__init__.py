"""The encodings by name. A new one is its own module and one line here."""

from collections.abc import Callable

from extmeta.encoding import Encoding
from extmeta.encodings.adjacent import Adjacent
from extmeta.encodings.inpte import InPte
from extmeta.encodings.linked import Linked
from extmeta.encodings.wide import Wide

# In the order of the reports: the baseline first.
_factories: dict[str, Callable[[], Encoding]] = {
    "inpte": InPte,
    "adjacent": Adjacent,
    "linked": Linked,
    "wide": Wide,
}


def register(name: str, factory: Callable[[], Encoding]) -> None:
    """Let ``PageTable(encoding=name)`` and the reports find ``factory``.

    Parameters
    ----------
    name : str
    factory : callable
        Returns an :class:`Encoding`; called without arguments.

    Raises
    ------
    TypeError
        If ``name`` is no string or ``factory`` can't be called.
    ValueError
        If the name is taken.
    """
    if not isinstance(name, str):
        raise TypeError(f"an encoding's name is a string, not {name!r}")
    if not callable(factory):
        raise TypeError(
            f"the factory of encoding {name!r}, {factory!r}, is no callable"
        )
    if name in _factories:
        raise ValueError(f"an encoding named {name!r} is already registered")
    _factories[name] = factory


def encodings() -> list[str]:
    """Return the names there are, the baseline first."""
    return list(_factories)


def recipe(encoding: str | Encoding) -> Encoding:
    """Return ``encoding`` if it is one, else a new one of that name.

    Raises
    ------
    KeyError
        If no encoding has that name.
    TypeError
        If it is neither a name nor an encoding.
    """
    if isinstance(encoding, Encoding):
        return encoding
    if not isinstance(encoding, str):
        raise TypeError(f"encoding {encoding!r} is neither a name nor an Encoding")
    if encoding not in _factories:
        raise KeyError(f"no encoding named {encoding!r}; there are {encodings()}")
    made = _factories[encoding]()
    if not isinstance(made, Encoding):
        raise TypeError(f"the factory of encoding {encoding!r} made {made!r}")
    return made
