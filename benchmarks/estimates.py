"""Compares the estimated instructions of a sweep with those counted directly.

    python benchmarks/estimates.py                    # all encodings, three captures
    python benchmarks/estimates.py --encodings linked --captures redis

For each operation it prints how far the estimate is off, in percent of what callgrind
counts: of the capture and the point where it is furthest off, and the median of all.
"""

import argparse
import statistics

import options

from extmeta.cost import estimate, placement, sweep
from extmeta.cost.forms import in_pte
from extmeta.cost.space import space_of
from extmeta.encodings import encodings
from extmeta.fields import Fields
from extmeta.rows import OPERATIONS

FIELDS = Fields(uffd_wp=1, soft_dirty=1, age=4)
# The last one has swapped PTEs.
CAPTURES = ("redis", "numpy-sparse", "swapped")
POINTS = placement.points((0.0, 0.01, 0.1, 1.0), ("random",))


def errors(text, captures):
    """Return, by operation, the errors of each capture and point."""
    loads, lies, wanted = [], [], {}
    for capture, name in captures:
        space = space_of(capture, name)
        held = sweep.Held(space, [], FIELDS)
        layout = estimate.layout_of(held.base)
        for point in POINTS:
            load = held.words(point)[0 if in_pte(text) else 1]
            # A sweep has no point where swap entries can't hold the words.
            if not estimate.holds(text, load):
                continue
            loads.append((text, load))
            lies.append((load, layout))
            wanted[str(load.fields)] = load.fields
    keys = list(wanted)
    costs = estimate.costs([(text, wanted[key]) for key in keys], "x86_64")
    found = {name: [] for name in OPERATIONS}
    for (load, layout), counted in zip(lies, estimate.counted(loads), strict=True):
        cost = costs[keys.index(str(load.fields))]
        estimated = cost.of(estimate.lie(load, layout, cost.level_bits))
        for name, count in counted.items():
            found[name].append(estimated[name] / count - 1)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encodings", nargs="+", type=options.encoding)
    parser.add_argument("--captures", nargs="+", type=options.capture)
    args = parser.parse_args()
    captures = args.captures or [options.capture(name) for name in CAPTURES]
    print(f"{'':12}" + "".join(f"{name:>16}" for name in OPERATIONS))
    for text in args.encodings or encodings():
        found = errors(text, captures)
        cells = [
            f"{max(of, key=abs):+.1%} ({statistics.median(map(abs, of)):.1%})"
            for of in found.values()
        ]
        print(f"{text:12}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
