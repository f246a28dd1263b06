"""Numbers as text, and which ratios are uncertain."""

import math
import statistics
from collections.abc import Iterable

from extmeta.rows import BASELINE, Cpu

# A ratio is uncertain if its interval reaches farther than this, or the baseline differs
# from itself by as much: three times the usual on a shared two-core guest.
UNSTABLE = 0.10
MARK = "?"

# A machine is busy if the thread that measures waits for a processor for this share of
# the time. With nothing beside it it was 0 %, with two loops 67 % (benchmarks/busy.py).
BUSY = 0.05


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


def ratio(row: Cpu) -> str:
    """Return a ratio with its interval."""
    value = row.ratio
    if value < 0.01:
        text = f"{value:.2g}"
    else:
        digits = 3 if value < 0.0995 else 2 if value < 9.995 else 1
        text = f"{value:,.{digits if value < 99.95 else 0}f}"
    return text + f" ±{math.ceil(100 * min(reach(row), 9.99))}%"


def unstable(row: Cpu, floor: Cpu | None) -> bool:
    """Tell whether a ratio is uncertain.

    ``floor`` is that operation of the baseline against itself, at that point.
    """
    off = floor is not None and max(floor.ratio, 1 / floor.ratio) - 1 > UNSTABLE
    return off or reach(row) > UNSTABLE


def trust_note(pairs: Iterable[tuple[Cpu, Cpu | None]]) -> list[str]:
    """Return whether the machine was busy, and how many ratios are uncertain.

    ``pairs`` are ratios, each with its ``floor``. Nothing is returned if all is well.
    """
    rows = [*pairs]
    waited = statistics.median(row.waited for row, _floor in rows) if rows else 0
    doubtful = sum(unstable(row, floor) for row, floor in rows)
    said = []
    if waited > BUSY:
        said.append(
            f"The machine is busy: other programs had the processor {waited:.0%} of the "
            "time. Times are CPU time, so it does not count."
        )
    if doubtful:
        said.append(
            f"{doubtful:,} of {len(rows):,} ratios are uncertain: the interval reaches "
            f"more than {UNSTABLE:.0%} from the ratio, or {BASELINE} differs from itself "
            "by as much."
        )
    return [" ".join(said)] if said else []
