"""The map of an address space as text: a line for each VMA, how full its parts are."""

from typing import Any

import numpy as np
import numpy.typing as npt

from extmeta.captures.capture import Capture
from extmeta.linux.pagewords import populated
from extmeta.reports.figures import size
from extmeta.reports.layout import plain

# From empty to full; ASCII, so that every terminal and mail has them.
SHADES = " .:+#@"

# Width of the strip, at most.
CELLS = 40

# Columns before the strip: address, size, permissions.
BEFORE = 32

# Columns after the strip if the name is as long as [vsyscall].
NAMED = 14


def text(found: Capture, name: str, columns: int = 80) -> str:
    """Return a line for each VMA: address, size, permissions, strip and name.

    Parameters
    ----------
    found : Capture
    name : str
        What the capture is called.
    columns : int
        The lines of VMAs are cut to that length.
    """
    width = max(8, min(CELLS, columns - BEFORE - NAMED))
    vpns = found.vpn[populated(found.entry)]
    starts = found.vma_start >> np.uint64(12)
    ends = found.vma_end >> np.uint64(12)
    first, stop = np.searchsorted(vpns, starts), np.searchsorted(vpns, ends)
    lines = [
        f"{plain(name)}: {len(vpns):,} pages in {len(starts):,} VMAs",
        f"A strip is a VMA: blank, no page has an entry; {SHADES[1]} few; {SHADES[-1]} all have one.",
    ]
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        pages = int(end - start)
        inside = vpns[first[i] : stop[i]]
        strip = _strip(inside - start, pages, min(width, pages))
        line = (
            f"{int(found.vma_start[i]):#016x} {size(pages << 12):>10} "
            f"{found.vma_perms[i]:<4}|{strip}| {plain(str(found.vma_name[i]))}"
        )
        lines.append(line[:columns].rstrip())
    return "\n".join(lines)


def vmas(found: Capture) -> list[dict[str, Any]]:
    """Return first byte, end, permissions, name and pages with an entry of each VMA."""
    vpns = found.vpn[populated(found.entry)]
    edges = (found.vma_start >> np.uint64(12), found.vma_end >> np.uint64(12))
    first, stop = (np.searchsorted(vpns, edge).tolist() for edge in edges)
    return [
        {"start": start, "end": end, "perms": perms, "name": name, "pages": b - a}
        for start, end, perms, name, a, b in zip(
            found.vma_start.tolist(),
            found.vma_end.tolist(),
            found.vma_perms.tolist(),
            found.vma_name.tolist(),
            first,
            stop,
            strict=True,
        )
    ]


def _strip(offsets: npt.NDArray[np.uint64], pages: int, width: int) -> str:
    """Return a character for each equal part of a VMA, by the share of its pages."""
    edges = np.arange(width + 1) * pages // width
    held = np.diff(np.searchsorted(offsets, edges))
    full = len(SHADES) - 1
    # Any page shows; only all of them are the last shade.
    at = np.where(held, np.clip(held * full // np.diff(edges), 1, full), 0)
    return "".join(SHADES[n] for n in at)
