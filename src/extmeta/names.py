"""The message for an unknown name."""

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return a message with the known names, and the likely one.

    Examples
    --------
    >>> unknown("encoding named", "linkd", ["linked", "hash"])
    "no encoding named 'linkd'; there are linked, hash; did you mean linked?"
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no {what} {name!r}; there are {', '.join(known)}{hint}"
