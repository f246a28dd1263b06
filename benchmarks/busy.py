"""Do ratios hold on a busy machine?

    python benchmarks/busy.py [--loops 2] [-- ARGUMENT ...]

Runs `extmeta compare --quick` with nothing beside it, then with busy loops beside it, and
prints how far intervals reach and how far ratios differ from those of the first run. A
third run, again with nothing beside it, is the control. Other arguments are compare's.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from options import from_0

from extmeta.reports import comparison
from extmeta.reports.figures import reach
from extmeta.rows import CONTROL, Cpu

LOOP = [sys.executable, "-c", "while 1: pass"]

# The goals: an interval's reach, and a ratio's distance from the undisturbed one.
REACH, OFF = 0.15, 0.10


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Have busy loops run beside the block."""
    running = [subprocess.Popen(LOOP) for _ in range(loops)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def measured(arguments: list[str], loops: int) -> dict[tuple[object, ...], Cpu]:
    """Return the Cpu rows of a comparison beside which some loops run."""
    command = [sys.executable, "-m", "extmeta", "compare", "--quick", "--json", "-"]
    begun = time.monotonic()
    with busy(loops):
        done = subprocess.run(
            [*command, *arguments], check=False, stdout=subprocess.PIPE, text=True
        )
    if done.returncode:
        # compare has said why.
        sys.exit(done.returncode)
    print(f"{loops} busy loops: {time.monotonic() - begun:.0f} s", flush=True)
    rows, _provenance = comparison.from_json(done.stdout)
    return {
        (row.fraction, row.encoding, row.operation): row
        for row in rows
        if isinstance(row, Cpu)
    }


def _off(row: Cpu, quiet: Cpu) -> float:
    return max(row.ratio / quiet.ratio, quiet.ratio / row.ratio) - 1


def told(name: str, rows: list[Cpu], quiet: list[Cpu]) -> str:
    """Return a line: how far intervals reach, how far ratios are off."""
    reaches = np.array([reach(row) for row in rows])
    offs = np.array([_off(a, b) for a, b in zip(rows, quiet, strict=True)])
    cells = [f"{name:<24}"]
    for values, limit in ((reaches, REACH), (offs, OFF)):
        middle, most = np.median(values), values.max()
        over = int((values > limit).sum())
        cells.append(f"{middle:6.1%} {most:7.1%} {over:4} of {len(values)}")
    return "  ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", type=from_0, default=2)
    parser.add_argument("arguments", nargs="*", help="of compare, after --")
    given = parser.parse_args()
    runs = [measured(given.arguments, loops) for loops in (0, given.loops, 0)]
    quiet = runs[0]
    print(f"{'':24}  interval's reach       ratio off the first run's")
    print(f"{'':24}  median    most  >{REACH:.0%}      median    most  >{OFF:.0%}")
    for name, run in zip(("quiet", "busy", "quiet again"), runs, strict=True):
        both = [key for key in run if key in quiet]
        for what, keys in (
            ("all", both),
            (CONTROL, [key for key in both if key[1] == CONTROL]),
        ):
            rows, first = [run[key] for key in keys], [quiet[key] for key in keys]
            print(told(f"{name}, {what}", rows, first))
        worst = max(both, key=lambda key: _off(run[key], quiet[key]))
        print(f"{'':24}  farthest off: {', '.join(map(str, worst))}")
        waited = np.median([row.waited for row in run.values()])
        print(f"{'':24}  without a processor for {waited:.0%} of the time")


if __name__ == "__main__":
    main()
