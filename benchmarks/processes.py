"""How far do processes differ, and does the interval over eight of them say so?

    python benchmarks/processes.py [--tables N] [--quick]

Each headline is measured in eight fresh processes, three times. A row has the least and
the greatest median of the 24 processes; how far the interval of one process reaches, as
its own rounds tell; and each third's ratio with the interval over its processes. A ratio
holds if it lies in the intervals of both other thirds.
"""

import argparse
import statistics

from measures import Bench, headlines, shown
from options import from_1

from extmeta.cost import workers
from extmeta.cost.measure import Paired, of_processes

TIMES = 3


def row(what: str, thirds: list[list[Paired]]) -> tuple[str, bool]:
    """Return a row, and whether each third's ratio lies in the others' intervals."""
    alone = [part for third in thirds for part in third]
    found = [of_processes(third) for third in thirds]
    holds = all(a.low <= b.ratio <= a.high for a in found for b in found)
    ratios = [part.ratio for part in alone]
    reach = statistics.median(part.reach for part in alone)
    cells = (
        what,
        f"{min(ratios):.3f} to {max(ratios):.3f}",
        f"{reach:.1%}",
        ", ".join(map(shown, found)),
        "yes" if holds else "no",
    )
    return f"| {' | '.join(cells)} |", holds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", type=from_1, default=4096, help="default: 4096")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    arguments = parser.parse_args()
    bench = Bench(arguments.tables, arguments.quick)
    thirds = [bench.parts("headlines", workers.PROCESSES) for _ in range(TIMES)]
    print(
        "| | medians of processes | reach of one's interval | over 8 processes, three "
        "times | hold |\n|---|---|---|---|---|"
    )
    nr_held = 0
    # Asked again with what was found, the measure says what each ratio is of.
    bench.found = map(of_processes, zip(*thirds[0], strict=True))
    lines = [*headlines(bench)]
    for line, *parts in zip(
        lines, *(zip(*third, strict=True) for third in thirds), strict=True
    ):
        text, holds = row(line.what, [list(part) for part in parts])
        nr_held += holds
        print(text)
    print(f"\n{nr_held} of {len(lines)} ratios hold")


if __name__ == "__main__":
    main()
