"""A page table as a picture and as HTML, for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64
from extmeta.edge.state import state_of
from extmeta.notebook import table_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from extmeta.pagetable import PageTable

# What an entry of a map may be, and its colour: each is darker than those before it, so
# that they keep apart in grey. Of entries that share a cell the last one shows.
STATES = {
    "no PTE": "#ffffff",
    "swapped": "#d5d9de",
    "present": "#98a2ad",
    "with a word": "#b84a00",
    "huge page": "#1b1f24",
}
NONE, SWAPPED, PRESENT, WORD, HUGE = range(len(STATES))

# The most rows of a map, twice what a screen shows; more tables share rows.
MAX_ROWS = 2048

# The most addresses beside a map.
MAX_LABELS = 12


def html_of(table: PageTable) -> str:
    """Return what a notebook shows of a page table."""
    memory = table.memory()
    return table_html(
        f"PageTable on {table.arch.name}",
        {
            "encoding": repr(table.encoding),
            "fields": ", ".join(
                f"{name}={bits}" for name, bits in table.fields.items()
            ),
            "PTEs": len(table),
            "PTEs with a word": int(np.count_nonzero(table.flagged(table.vpns()))),
            "PTE tables": len(table.tables),
            "bytes of upper tables": memory.upper,
            "bytes of PTE tables": memory.pte,
            "bytes of side memory": memory.side,
            "bytes of index": memory.index,
        },
    )


def cells(table: PageTable) -> tuple[U64, int, npt.NDArray[np.uint8]]:
    """Return the map of a page table.

    Returns
    -------
    first_vpns : (r,) uint64 ndarray
        First vpn of each row.
    each : int
        PTE tables that a row stands for, a power of two.
    states : (r, ptrs_per_pte) uint8 ndarray
        The place in `STATES` of each entry; of several tables in a row, the highest.
    """
    size = table.arch.ptrs_per_pte
    state = state_of(table)
    words = state.words != 0
    if words.ndim == 2:
        words = words.any(axis=1)
    kinds = np.where(words, WORD, np.where(state.present, PRESENT, SWAPPED))
    leaves = (state.leaf_vpns[:, None] + np.arange(size, dtype=np.uint64)).ravel()
    vpns = np.concatenate([state.vpns, leaves])
    kinds = np.concatenate([kinds, np.full(len(leaves), HUGE)]).astype(np.uint8)
    each = 1
    while len(rows := np.unique(vpns // np.uint64(each * size))) > MAX_ROWS:
        each *= 2
    at = np.searchsorted(rows, vpns // np.uint64(each * size))
    states = np.zeros((len(rows), size), np.uint8)
    np.maximum.at(states, (at, (vpns % np.uint64(size)).astype(np.intp)), kinds)
    return rows * np.uint64(each * size), each, states


def plot(
    table: PageTable,
    ax: Axes | None = None,
    title: str = "",
    word: str = "with a word",
) -> Axes:
    """Draw the map; see `PageTable.plot`. ``word`` says what a word means."""
    try:
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch
    except ImportError:
        raise ImportError(
            "plot() needs matplotlib: pip install 'extmeta[report]'"
        ) from None
    first_vpns, each, states = cells(table)
    axes: Any = ax
    if axes is None:
        from matplotlib import pyplot

        _figure, axes = pyplot.subplots(layout="constrained")
    colours = ListedColormap([*STATES.values()])
    how = {"aspect": "auto", "interpolation": "nearest", "cmap": colours}
    shown = states if len(states) else np.zeros((1, states.shape[1]), np.uint8)
    axes.imshow(shown, vmin=NONE, vmax=HUGE, **how)
    span = np.uint64(each * states.shape[1])
    # Where the next row is not the next part of the address space.
    gaps = np.flatnonzero(np.diff(first_vpns) != span)
    axes.hlines(
        gaps + 0.5, -0.5, states.shape[1] - 0.5, colors="#5a626c", linewidth=0.6
    )
    step = max(1, -(-len(first_vpns) // MAX_LABELS))
    ticks = [*range(0, len(first_vpns), step)]
    shift = table.arch.page_shift
    axes.set_yticks(ticks, [f"{int(first_vpns[at]) << shift:#x}" for at in ticks])
    axes.set_xlabel("entry of the PTE table")
    axes.set_ylabel("a PTE table a row" if each == 1 else f"{each:,} PTE tables a row")
    axes.set_title(
        title or f"{len(table):,} PTEs, {table.encoding!r}", parse_math=False
    )
    names = [word if at == WORD else name for at, name in enumerate(STATES)]
    handles = [
        Patch(facecolor=colour, edgecolor="#5a626c", label=name)
        for at, (name, colour) in enumerate(zip(names, STATES.values(), strict=True))
        if at in states
    ]
    if handles:
        axes.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=5
        )
    return axes
