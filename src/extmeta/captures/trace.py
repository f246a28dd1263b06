"""A write trace: the pages that a process wrote, round after round.

The recorder write-protects a process's memory, waits, and asks which pages were written
meanwhile. The file is numpy's .npz with plain arrays, never pickles, read by
:mod:`extmeta.captures.npz`::

    file  = zip archive of members, stored or deflated, in any order
    R     = number of rounds      W = pages written, summed over rounds
    rows  = vpns      uint64  (W,)      round after round; strictly ascending within a
                                        round, each in a VMA
            rounds    int64   (R + 1,)  where each round starts in vpns, and W
            vmas      uint64  (n, 2)    [start, stop) in pages, ascending, disjoint:
                                        all that was tracked in any round
            interval  float64 ()        seconds from one round to the next
            comm      str     ()        the process's name
            release   str     ()        of the kernel, "6.18.44"
            how       str     ()        "WP_ASYNC", "soft-dirty" or "dirty bitmaps"
            version   int     ()        1

Members with other names are ignored. Pages have 4 KiB.
"""

import math
import os
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64, restore
from extmeta.captures import npz
from extmeta.captures.capture import CaptureError, array_of
from extmeta.captures.consistency import USER_VPNS
from extmeta.captures.npz import DamagedFileError, Grammar, Key

__all__ = ["Trace", "load_trace"]

I64 = npt.NDArray[np.int64]

VERSION = 1
# The last three are from files of others; see extmeta.captures.read.read_writes().
HOW = ("WP_ASYNC", "soft-dirty", "dirty bitmaps", "QEMU migration", "DAMON")

# Pages repeat from round to round, so a trace may deflate more than a capture. This
# bounds its memory: 512 MiB.
MAX_WRITTEN = 1 << 26
MAX_ROUNDS = 1 << 20

GRAMMAR = Grammar(
    "write trace",
    {
        "vpns": Key("u", MAX_WRITTEN),
        "rounds": Key("i", MAX_ROUNDS + 1),
        "vmas": Key("u", npz.MAX_VMAS, columns=2),
        "interval": Key("f"),
        "comm": Key("U"),
        "release": Key("U"),
        "how": Key("U"),
        "version": Key("i"),
    },
)


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """The pages that a process wrote, round after round. Read-only.

    Parameters
    ----------
    vpns : (W,) uint64 ndarray
        The pages written, round after round; strictly ascending within a round, each
        in one of `vmas`.
    rounds : (R + 1,) int64 ndarray
        Where each round starts in `vpns`; the last element is W.
    vmas : (n, 2) uint64 ndarray
        Ranges [start, stop) of pages that were tracked in any round; ascending.
    interval : float
        Seconds from one round to the next.
    comm : str
        The process's name.
    release : str
        The kernel's release.
    how : {"WP_ASYNC", "soft-dirty", "dirty bitmaps", "QEMU migration", "DAMON"}
        The tracker. With "DAMON" pages were accessed, perhaps not written.

    Raises
    ------
    CaptureError
        If a part contradicts another, by value.
    """

    vpns: U64
    rounds: I64
    vmas: U64
    interval: float
    comm: str
    release: str
    how: str

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    def __post_init__(self) -> None:
        put = object.__setattr__
        for key in ("vpns", "rounds", "vmas"):
            put(self, key, array_of(key, getattr(self, key), GRAMMAR.keys[key]))
        try:
            put(self, "interval", float(self.interval))
        except (TypeError, ValueError):
            raise CaptureError(
                f"interval: {self.interval!r} is no number of seconds"
            ) from None
        for key in ("comm", "release", "how"):
            put(self, key, str(getattr(self, key)))
        if why := _bad_vmas(self.vmas) or _bad_rounds(self) or _bad_words(self):
            raise CaptureError(why)

    @property
    def nr_rounds(self) -> int:
        """Number of rounds."""
        return len(self.rounds) - 1

    @property
    def nr_pages(self) -> int:
        """Number of pages tracked, present or not."""
        return int((self.vmas[:, 1] - self.vmas[:, 0]).sum())

    def round(self, number: int) -> U64:
        """Return the vpns written in a round; the first is 0.

        Raises
        ------
        IndexError
        """
        if not 0 <= number < self.nr_rounds:
            raise IndexError(f"round {number} is not in [0, {self.nr_rounds})")
        return self.vpns[self.rounds[number] : self.rounds[number + 1]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a file, all of it or nothing.

        Parameters
        ----------
        path : path-like
            ".npz" is not added. An existing file is replaced when the new one is on
            disk.

        Raises
        ------
        OSError
            For example no space, no permission.
        """
        arrays: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        npz.write(os.fsdecode(path), {**arrays, "version": VERSION})

    def __repr__(self) -> str:
        return (
            f"<Trace of {self.comm!r}: {self.nr_rounds:,} rounds of "
            f"{self.interval:g} s, {len(self.vpns):,} pages written of "
            f"{self.nr_pages:,} in {len(self.vmas):,} VMAs, by {self.how}>"
        )


def _bad_vmas(vmas: U64) -> str:
    if vmas.shape[1] != 2:
        return f"vmas: shape {vmas.shape} has not 2 columns"
    start, stop = vmas.T
    for i in np.flatnonzero(start >= stop)[:1]:
        return f"vmas: [{start[i]:#x}, {stop[i]:#x}) is no range"
    for i in np.flatnonzero(start[1:] < stop[:-1])[:1]:
        return f"vmas: {start[i + 1]:#x} follows [{start[i]:#x}, {stop[i]:#x})"
    if len(vmas) and stop[-1] > USER_VPNS:
        return f"vmas: {stop[-1]:#x} is past the last page, {USER_VPNS:#x}"
    return ""


def _bad_rounds(trace: Trace) -> str:
    vpns, rounds, vmas = trace.vpns, trace.rounds, trace.vmas
    if len(rounds) < 2:
        return f"rounds: {len(rounds)} offsets are of no round"
    if rounds[0] != 0 or rounds[-1] != len(vpns):
        return f"rounds: from {rounds[0]} to {rounds[-1]}, not from 0 to {len(vpns)}"
    for i in np.flatnonzero(rounds[1:] < rounds[:-1])[:1]:
        return f"rounds: {rounds[i + 1]} follows {rounds[i]}"
    falls = np.flatnonzero(vpns[1:] <= vpns[:-1]) + 1
    for i in falls[~np.isin(falls, rounds)][:1]:
        return f"vpns: {vpns[i]:#x} follows {vpns[i - 1]:#x} in a round"
    # Odd: past a start but not past its end.
    outside = np.searchsorted(vmas.ravel(), vpns, "right") % 2 == 0
    for i in np.flatnonzero(outside)[:1]:
        return f"vpns: {vpns[i]:#x} is in no VMA"
    return ""


def _bad_words(trace: Trace) -> str:
    if not (math.isfinite(trace.interval) and trace.interval >= 0):
        return f"interval: {trace.interval} is no number of seconds"
    if trace.how not in HOW:
        return f"how: {trace.how[:40]!r} is none of {', '.join(HOW)}"
    for key in ("comm", "release"):
        text = getattr(trace, key)
        if len(text) > npz.MAX_CHARS:
            return f"{key}: {len(text)} characters are too many"
    return ""


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """Read a write trace from a file, which need not be trusted.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Trace

    Raises
    ------
    CaptureError
        If the file is damaged, hostile, too large or inconsistent: one line with the
        file and the wrong value.
    OSError
        If it can't be read; FileNotFoundError if it does not exist.
    """
    path = os.fsdecode(path)
    try:
        values = npz.values(path, GRAMMAR)
        if (version := values.pop("version")) != VERSION:
            raise CaptureError(f"version: {version} is not {VERSION}")
        return Trace(**values)
    except (DamagedFileError, CaptureError) as error:
        raise CaptureError(f"{path}: {error}") from None
