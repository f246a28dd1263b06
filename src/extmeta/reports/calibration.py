"""A calibration as text, and which of the kernel's operations is like which of ours."""

import math

from extmeta.cost.kernel.costs import Calibration, Cost

# Ours, the kernel's, what a column calls it. `move` is in no sweep so far.
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
    "The extra is of our loop over entries and words alone: a kernel would add locks, "
    "flushes of the TLB and cache misses of its own to it."
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
        span = f"{number(cost.low)} to {number(cost.high)}"
        lines.append(f"{cost.operation:<21} {number(cost.median):>9}    {span}")
    lines += [f"{name:<21} {'-':>9}    {why}" for name, why in found.refused.items()]
    return "\n".join(lines)


def number(value: float) -> str:
    """Return a cost with about three digits."""
    size = abs(value)
    return f"{value:,.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}"


def share(extra: float, cost: Cost) -> str:
    """Return what is extra, in percent of what an operation costs, with its sign."""
    if cost.median <= 0:
        return "-"
    percent = 100 * extra / cost.median
    digits = 2 if abs(percent) < 0.995 else 1 if abs(percent) < 99.5 else 0
    rounded = f"{percent:+,.{digits}f}%"
    return rounded if any(digit in rounded for digit in "123456789") else "0%"


def wide(cost: Cost) -> bool:
    """Tell whether a cost's interval reaches more than a tenth from its median."""
    reach = max(cost.high - cost.median, cost.median - cost.low)
    return not (math.isfinite(reach) and reach <= 0.1 * abs(cost.median))


def elsewhere(found: Calibration, kernel: object, cpu: object) -> str:
    """Return on what other machine a calibration was made, or ""."""
    differs = []
    if found.kernel != kernel:
        differs.append(f"Linux {found.kernel}, not {kernel}")
    if found.cpu != cpu:
        differs.append(f"{found.cpu}, not {cpu}")
    return "; ".join(differs)
