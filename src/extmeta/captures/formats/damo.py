"""A record of DAMON: what ``damo record`` writes, compressed or as JSON.

It is a list of targets, each with snapshots, one for each aggregation interval. A
snapshot has regions of bytes, and how many samples of each found an access. DAMON says
neither which pages of a region are mapped, nor which was accessed: it samples one for
all. So all pages of an accessed region count as accessed, and regions without an access
are not read. Nor are the ages of regions, which tell for how long their accesses did not
change. The time since a page's last access follows from the snapshots.
"""

import json
import zlib
from typing import Any, NamedTuple

import numpy as np

from extmeta.arrays import U64
from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.formats import source
from extmeta.captures.formats.pages import NOT_KNOWN, captured, vmas_around
from extmeta.captures.formats.source import Source, unfolded
from extmeta.captures.trace import MAX_WRITTEN, Trace
from extmeta.linux.pagewords import PAGE_BYTES, PAGE_SHIFT, PRESENT

NAME = "a record of damo"

ZLIB = b"\x78\x9c"
# What both forms begin with.
BEGIN = b'[\n    {\n        "kdamond_idx": '

# Bytes of text, always and for each byte of the file, which bound a bomb. A compressed
# record of 2 KB has 81 KB of text.
ALWAYS_TEXT, TEXT_PER_BYTE = 1 << 20, 256
MAX_TEXT_BYTES = 1 << 28


class Region(NamedTuple):
    """Bytes [start, end) of a snapshot, and the samples that found an access."""

    start: int
    end: int
    accesses: int


class Accesses(NamedTuple):
    """What a record tells.

    Attributes
    ----------
    vpn : (N,) uint64 ndarray
        Pages of accessed regions, snapshot after snapshot.
    rounds : list of int
        Where each snapshot starts in `vpn`, and N.
    start, end : int
        Of the record, nanoseconds.
    """

    vpn: U64
    rounds: list[int]
    start: int
    end: int


def recognises(found: Source) -> bool:
    """Tell whether this begins as a record does."""
    head = found.head
    if head.startswith(ZLIB):
        try:
            head = zlib.decompressobj().decompress(head, len(BEGIN))
        except zlib.error:
            return False
    return head.startswith(BEGIN)


def read(found: Source) -> Capture:
    """Return the capture of the pages of regions that any snapshot saw accessed."""
    accesses = _accesses(found)
    vpn = np.unique(accesses.vpn)
    return captured(
        vpn,
        np.full(len(vpn), PRESENT, np.uint64),
        f"From a record of damo, of {len(accesses.rounds) - 1:,} snapshots: pages of "
        "the regions that were accessed, all present. What was not accessed is not "
        "known.",
    )


def trace(found: Source) -> Trace:
    """Return the accesses, a round for each snapshot; see `read_writes`."""
    accesses = _accesses(found)
    if len(accesses.vpn) > MAX_WRITTEN:
        raise CaptureError(
            f"{len(accesses.vpn)} pages accessed are more than {MAX_WRITTEN}"
        )
    start, end = accesses.start, accesses.end
    if not 0 <= start <= end < 1 << 64:
        raise CaptureError(f"from {str(start)[:20]} to {str(end)[:20]} ns")
    vmas = vmas_around(np.unique(accesses.vpn))
    bounds = np.stack((vmas["vma_start"], vmas["vma_end"]), axis=1)
    return Trace(
        vpns=accesses.vpn,
        rounds=np.array(accesses.rounds, np.int64),
        vmas=bounds >> np.uint64(PAGE_SHIFT),
        interval=(end - start) / (len(accesses.rounds) - 1) / 1e9,
        comm=NOT_KNOWN,
        release=NOT_KNOWN,
        how="DAMON",
    )


def _accesses(found: Source) -> Accesses:
    try:
        records = json.loads(_text(found), object_hook=_region)
        if len(records) != 1:
            raise CaptureError(f"records of {len(records)} targets; one is read")
        snapshots = records[0]["snapshots"]
        if not snapshots:
            raise CaptureError("no snapshot")
        start = _number(snapshots[0]["start_time"])
        end = _number(snapshots[-1]["end_time"])
        accessed = [
            [region for region in snapshot["regions"] if region.accesses]
            for snapshot in snapshots
        ]
    except CaptureError:
        raise
    except (
        *(KeyError, TypeError, AttributeError, ValueError),
        *(OverflowError, RecursionError),
    ) as error:
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CaptureError(f"no record as damo 3.4 writes it: {why[:120]}") from None
    regions = [region for each in accessed for region in each]
    bounds = np.array([region[:2] for region in regions], np.uint64).reshape(-1, 2)
    first, stop = (bounds >> np.uint64(PAGE_SHIFT)).T
    vpn = unfolded(first, stop, found.nbytes)
    pages = [
        sum((region.end - region.start) // PAGE_BYTES for region in each)
        for each in accessed
    ]
    return Accesses(
        vpn=vpn,
        rounds=[0, *np.cumsum(pages).tolist()],
        start=start,
        end=end,
    )


def _text(found: Source) -> bytes:
    data = source.content(found.path)
    most = min(ALWAYS_TEXT + TEXT_PER_BYTE * len(data), MAX_TEXT_BYTES)
    if data.startswith(ZLIB):
        try:
            stream = zlib.decompressobj()
            data = stream.decompress(data, most)
        except zlib.error as error:
            raise CaptureError(str(error)[:80]) from None
        if not stream.eof:
            raise CaptureError(f"cut short, or its text is more than {most} bytes")
    if len(data) > most:
        raise CaptureError(f"{len(data)} bytes of text are more than {most}")
    return data


def _region(found: dict[str, Any]) -> Any:
    """Return a `Region` of a region's object, which takes more memory, or the object."""
    if "nr_accesses" not in found:
        return found
    start, end = _number(found["start"]), _number(found["end"])
    if start % PAGE_BYTES or end % PAGE_BYTES or not 0 <= start < end < 1 << 64:
        raise CaptureError(f"region [{start:#x}, {end:#x})")
    accesses = _number(found["nr_accesses"]["samples"])
    if accesses < 0:
        raise CaptureError(f"region [{start:#x}, {end:#x}) with {accesses} samples")
    return Region(start, end, accesses)


def _number(value: Any) -> int:
    """Return a number, which damo writes with commas, or as it is."""
    return int(value.replace(",", "") if isinstance(value, str) else value)
