"""A capture as a notebook shows it, as an array of VMAs, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from extmeta.captures import npz
from extmeta.edge import drawing
from extmeta.fields import Fields
from extmeta.notebook import table_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from extmeta.captures.capture import Capture

PREFIX = "vma_"


def html_of(capture: Capture) -> str:
    """Return what a notebook shows of a capture."""
    return table_html(
        f"Capture of {capture.comm!r}",
        {
            "kernel": capture.kernel,
            "VMAs": len(capture.vma_start),
            "pages present": capture.nr_present,
            "pages swapped": capture.nr_swapped,
            "markers": capture.nr_markers,
            "PTE tables": capture.tables_needed().pte,
            "huge pages of 2 MiB": len(capture.huge_vpn),
            "VmPTE, KiB": capture.vmpte_kb,
            "VmRSS, KiB": capture.vmrss_kb,
            "about": capture.about,
        },
    )


def vmas_of(capture: Capture) -> npt.NDArray[np.void]:
    """Return the VMAs as a structured array; see `Capture.vmas`."""
    columns = {
        key.removeprefix(PREFIX): getattr(capture, key)
        for key in npz.KEYS
        if key.startswith(PREFIX)
    }
    kinds = [(name, column.dtype) for name, column in columns.items()]
    found = np.empty(len(capture.vma_start), kinds)
    for name, column in columns.items():
        found[name] = column
    return found


def plot(capture: Capture, ax: Axes | None) -> Axes:
    """Draw the capture's table map; see `Capture.plot`."""
    table = capture.build("linked", Fields(uffd_wp=1, soft_dirty=1))
    title = f"{capture.comm!r}: {len(table):,} PTEs"
    return drawing.plot(table, ax, title, "uffd-wp or soft-dirty")
