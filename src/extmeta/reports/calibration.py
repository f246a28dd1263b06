"""A calibration as text, and which kernel operation corresponds to which of ours."""

import math

from extmeta.cost.kernel.costs import Calibration, Cost
from extmeta.reports.figures import nanoseconds

# Our operation, the kernel's, the column's head. No sweep has `move` so far.
ALIKE = (
    ("load", "pagemap", "pagemap"),
    ("update", "uffd_wp_on", "wp on"),
    ("clear", "uffd_wp_off", "wp off"),
    ("clear", "clear_refs", "clear_refs"),
    ("scan", "pagemap_scan_written", "written"),
    ("fork", "fork", "fork"),
    ("unmap", "munmap", "munmap"),
    ("move", "mremap", "mremap"),
)

LEGEND = (
    "pagemap: reading /proc/PID/pagemap; wp on, wp off: UFFDIO_WRITEPROTECT; written: "
    "PAGEMAP_SCAN."
)

LEFT_OUT = (
    "The extra is of our loop over entries and words alone: a kernel would add its locks, "
    "TLB flushes and cache misses."
)


def text(found: Calibration) -> str:
    """Return a calibration for people."""
    lines = [
        f"Linux {found.kernel}, {found.cpu or found.machine}",
        f"{found.unit} per PTE: {found.large:,} pages compared with {found.small:,}",
        "",
        f"{'':<21} {'median':>9}    95% interval of {found.rounds} rounds",
    ]
    for cost in found.costs:
        span = f"{nanoseconds(cost.low)} to {nanoseconds(cost.high)}"
        lines.append(f"{cost.operation:<21} {nanoseconds(cost.median):>9}    {span}")
    lines += [f"{name:<21} {'-':>9}    {why}" for name, why in found.refused.items()]
    return "\n".join(lines)


def share(extra: float, cost: Cost) -> str:
    """Return an extra cost in percent of the operation's cost, with its sign."""
    if cost.median <= 0:
        return "-"
    percent = 100 * extra / cost.median
    digits = 2 if abs(percent) < 0.995 else 1 if abs(percent) < 99.5 else 0
    rounded = f"{percent:+,.{digits}f}%"
    return rounded if any(digit in rounded for digit in "123456789") else "0%"


def wide(cost: Cost) -> bool:
    """Tell whether an interval reaches more than 10 % from its median."""
    reach = max(cost.high - cost.median, cost.median - cost.low)
    return not (math.isfinite(reach) and reach <= 0.1 * abs(cost.median))


def elsewhere(found: Calibration, kernel: object, cpu: object) -> str:
    """Return how a calibration's machine differs from this one, or ""."""
    differs = []
    if found.kernel != kernel:
        differs.append(f"Linux {found.kernel}, not {kernel}")
    if found.cpu != cpu:
        differs.append(f"{found.cpu}, not {cpu}")
    return "; ".join(differs)
