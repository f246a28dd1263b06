"""Linux releases that facts are known for, and how their names are read.

The semantics of :mod:`extmeta.linux` and the rows of :mod:`extmeta.arch` depend on
the release. Linux 6.12.117 and 7.3.4 were read, 6.18.44 was observed. Each difference
between them is dated by the commit that made it.
"""

import re
from typing import Any

Release = tuple[int, int]

# From the first with PAGEMAP_SCAN to the last that was read.
RELEASES: tuple[Release, ...] = (
    *((6, minor) for minor in range(7, 20)),
    *((7, minor) for minor in range(4)),
)

DEFAULT = "6.18"


def release_named(
    name: Any, first: Release = RELEASES[0], last: Release = RELEASES[-1]
) -> Release:
    """Return (6, 12) of "6.12", "6.12.117" or "6.12.117-1-amd64".

    Parameters
    ----------
    name : str
    first, last : (int, int)
        The releases that the caller has facts for.

    Raises
    ------
    TypeError
        If it is no string.
    ValueError
        If it is no release, or one without facts; the message has those with facts.
    """
    if not isinstance(name, str):
        raise TypeError(f"release: {name!r} is not text such as {DEFAULT!r}")
    known = f"{release_text(first)} to {release_text(last)} are known"
    found = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})([.+-].*)?", name, re.ASCII)
    if found is None:
        raise ValueError(f"release {name!r} is no version such as {DEFAULT!r}; {known}")
    release = int(found[1]), int(found[2])
    if release not in RELEASES or not first <= release <= last:
        raise ValueError(f"release {name!r} is not known; {known}")
    return release


def release_text(release: Release) -> str:
    """Return "6.12" of (6, 12)."""
    return f"{release[0]}.{release[1]}"
