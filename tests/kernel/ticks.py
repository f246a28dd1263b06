"""Instructions (in the guest) or ticks (here) of the kernel's operations, per PTE.

    python tests/kernel/ticks.py --guest

Two sizes compared round by round, so that what does not grow with the range drops
out; the median of the rounds, and how far they are apart.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import guest
import native

OPERATIONS = (
    "fork",
    "uffd_wp_on",
    "uffd_wp_off",
    "pagemap_scan_written",
    "pagemap_scan_present",
    "pagemap",
    "clear_refs",
    "munmap",
    "mprotect",
    "mremap",
)
# Whole tables, so that both sizes end alike.
SMALL, LARGE, ROUNDS = 512, 2560, 9


@dataclass(frozen=True)
class PerPte:
    """Ticks per PTE: the median of the rounds, the least and the most."""

    operation: str
    median: float
    least: float
    most: float


def text() -> str:
    """Return the driver's input."""
    return "".join(
        f"time {operation} {pages} {ROUNDS}\n"
        for operation in OPERATIONS
        for pages in (SMALL, LARGE)
    )


def per_pte(output: str) -> list[PerPte]:
    """Return what a driver's output says; nothing of what the kernel lacks."""
    ticks: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for line in output.splitlines():
        if line.startswith("t "):
            _, operation, pages, _, took = line.split()
            ticks[operation, int(pages)].append(int(took))
    found = []
    for operation in OPERATIONS:
        small, large = ticks[operation, SMALL], ticks[operation, LARGE]
        each = [(b - a) / (LARGE - SMALL) for a, b in zip(small, large, strict=True)]
        if each:
            middle = statistics.median(each)
            found.append(PerPte(operation, middle, min(each), max(each)))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 2 if it can't."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--guest", action="store_true", help="in the qemu guest")
    args = parser.parse_args(argv)
    try:
        output = (guest if args.guest else native).run(text())
    except (native.Missing, native.DriverError) as reason:
        print(f"ticks: {reason}", file=sys.stderr)
        return 2
    unit = "instructions" if args.guest else "ticks"
    print(f"Linux {output.split()[1]}, {unit} per PTE\n")
    print(f"{'':<22}{'median':>10}{'least':>10}{'most':>10}")
    for row in per_pte(output):
        print(
            f"{row.operation:<22}{row.median:>10.2f}{row.least:>10.2f}{row.most:>10.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
