"""Linux releases: which ones the facts are known for, and how their names are read.

The semantics of :mod:`extmeta.space` and the rows of :mod:`extmeta.arch` depend on
the release. Linux 6.12.117 was read and 6.18.44 was observed; what differs between
them is known by the change that made it.
"""

import re
from typing import Any

Release = tuple[int, int]

# The first has PAGEMAP_SCAN, by which pages are read; nothing newer than the last
# was looked at.
FIRST: Release = (6, 7)
LAST: Release = (6, 19)

# The release that is meant if none is named.
DEFAULT = "6.18"


def release_named(name: Any, first: Release = FIRST) -> Release:
    """Return (6, 12) of "6.12", "6.12.117" or "6.12.117-1-amd64".

    Parameters
    ----------
    name : str
    first : (int, int)
        The first one that is known of what is asked about.

    Raises
    ------
    TypeError
        If it is no string.
    ValueError
        If it is no release, or one that is not known; the message says which are.
    """
    if not isinstance(name, str):
        raise TypeError(f"release: {name!r} is not text such as {DEFAULT!r}")
    known = f"{_text(first)} to {_text(LAST)} are known"
    found = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})([.+-].*)?", name, re.ASCII)
    if found is None:
        raise ValueError(f"release {name!r} is no version such as {DEFAULT!r}; {known}")
    release = int(found[1]), int(found[2])
    if not first <= release <= LAST:
        raise ValueError(f"release {name!r} is not known; {known}")
    return release


def _text(release: Release) -> str:
    return f"{release[0]}.{release[1]}"
