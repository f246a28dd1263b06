"""Numbers as text, and which ratios are unreliable."""

import math
from collections.abc import Iterable

from extmeta.rows import BASELINE, Cpu

# A ratio is marked if its interval reaches farther than this, or the baseline differs
# from itself by as much: three times the usual on a shared two-core guest.
UNSTABLE = 0.10
MARK = "?"


def size(nbytes: float) -> str:
    """Return bytes in binary units, as in "704 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(nbytes) < 1024 or unit == "TiB":
            break
        nbytes /= 1024
    digits = 1 if unit != "B" and abs(nbytes) < 9.95 else 0
    return f"{nbytes:,.{digits}f} {unit}"


def count(number: int) -> str:
    """Return a number, in millions from 10 million on."""
    return f"{number:,}" if number < 10**7 else f"{number / 1e6:,.1f} M"


def share(part: float, whole: float) -> str:
    """Return a part of a whole in percent."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    if percent and abs(percent) < 0.005:
        return "<0.01%"
    digits = 0 if percent == 0 or abs(percent) >= 99.5 else 1
    if 0 < abs(percent) < 9.95:
        digits = 2 if abs(percent) < 0.995 else 1
    return f"{percent:,.{digits}f}%"


def nanoseconds(ns: float) -> str:
    """Return nanoseconds, or another cost, with about three digits and no unit."""
    size = abs(ns)
    return f"{ns:,.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}"


def for_each(nbytes: float, flagged: int) -> str:
    """Return bytes for each flagged PTE."""
    return f"{nbytes / flagged:,.1f}" if flagged else "-"


def reach(row: Cpu) -> float:
    """Return how far the interval reaches from the ratio, on its longer side."""
    return max(row.high / row.ratio, row.ratio / row.low) - 1


def ratio(row: Cpu, floor: Cpu | None) -> str:
    """Return a ratio with its interval, marked if it is unstable.

    ``floor`` is that operation of the baseline against itself, at that point.
    """
    value = row.ratio
    if value < 0.01:
        text = f"{value:.2g}"
    else:
        digits = 3 if value < 0.0995 else 2 if value < 9.995 else 1
        text = f"{value:,.{digits if value < 99.95 else 0}f}"
    text += f" ±{math.ceil(100 * min(reach(row), 9.99))}%"
    return text + (MARK if unstable(row, floor) else "")


def unstable(row: Cpu, floor: Cpu | None) -> bool:
    """Tell whether a ratio is unreliable."""
    off = floor is not None and max(floor.ratio, 1 / floor.ratio) - 1 > UNSTABLE
    return off or reach(row) > UNSTABLE


def unstable_note(marked: Iterable[bool], advice: str = "") -> list[str]:
    """Return what the mark means, if any ratio is marked."""
    note = (
        f"{MARK} unstable: the interval reaches more than {100 * UNSTABLE:.0f}% from the "
        f"ratio, or {BASELINE} differs from itself by as much.{advice}"
    )
    return [note] if any(marked) else []
