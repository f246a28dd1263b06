"""How many instructions does each operation take a PTE, in each encoding?

    python benchmarks/instructions.py [--json]

Counted by valgrind's callgrind: see `extmeta.cost.instructions`.
"""

import argparse
import json
import sys

import extmeta as em
from extmeta.cost import instructions
from extmeta.cost.instructions import FIELDS, FRACTIONS, FUNCTIONS, PTES, TABLES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if why := instructions.missing():
        sys.exit(why)
    rows = []
    if not arguments.json:
        print(f"instructions a PTE, {PTES:,} PTEs in {TABLES} full tables, {FIELDS!r}")
        names = "".join(f"{operation:>17}" for operation in FUNCTIONS)
        print(f"{'flagged':>7} {'encoding':<9}{names}")
    base: dict[float, dict[str, int]] = {}
    for encoding, counts in instructions.count_each(em.encodings()).items():
        base = base or counts
        for fraction in FRACTIONS:
            found = counts[fraction]
            rows.append({"encoding": encoding, "fraction": fraction, **found})
            if not arguments.json:
                cells = (
                    f"{found[o] / PTES:9.3f} {found[o] / base[fraction][o]:5.2f}x"
                    if o in found
                    else " " * 16
                    for o in FUNCTIONS
                )
                print(f"{fraction:>7.0%} {encoding:<9} " + " ".join(cells), flush=True)
    if arguments.json:
        json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
