"""How many instructions does each operation take a PTE, in each encoding?

    python benchmarks/instructions.py [--json]

Counted by valgrind's callgrind, which repeats to the digit whatever else the
machine does: what noise hides, this shows. It sees no cache misses; they are in
the times. The SIMD that valgrind knows is AVX2, so on a processor with AVX-512
the real counts are lower.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import extmeta as em

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=4)
TABLES = 64
PTES = 512 * TABLES
FRACTIONS = (0.0, 0.01, 1.0)

# The C function that does all of an operation's work, its callees included.
# `scan` has none: its method is counted, with a few thousand instructions of
# Python's.
FUNCTIONS = {
    "load": "operations_10Operations_read",
    "snapshot": "operations_10Operations_see_all",
    "update": "operations_10Operations_write",
    "scan": r"pagetable_9PageTable_\d+scan",
    "fork": "operations_10Operations_graft",
    "unmap": "operations_10Operations_drop",
}

ENVIRONMENT = {
    # Without these the counts drift by some percent.
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # A `rep stosb` counts once a byte: let memset and memcpy do without.
    "GLIBC_TUNABLES": "glibc.cpu.x86_rep_stosb_threshold=1073741824:"
    "glibc.cpu.x86_rep_movsb_threshold=1073741824",
}


def work(encoding: str, fraction: float) -> None:
    """Do each operation once on tables that are made before; under callgrind."""
    everything = slice(0, PTES)
    table = em.PageTable(encoding, FIELDS)
    table.map(everything)
    flagged = np.flatnonzero(np.random.default_rng(1).random(PTES) < fraction)
    for vpn in flagged.tolist():
        # One by one: not through a function that is counted.
        table.store(vpn, 0b1101)
    child = table.fork()
    assert np.count_nonzero(child.load(everything)) == len(flagged)
    assert np.count_nonzero(child.snapshot(everything)[1]) == len(flagged)
    assert len(child.scan(0, PTES, 0b0001, 0b0001)) == len(flagged)
    child.update(everything, clear=0b0100)
    assert child.load(int(flagged[0]) if len(flagged) else 0) in (0, 0b1001)
    child.unmap(0, PTES)
    assert len(child) == 0


def count(encoding: str, fraction: float) -> dict[str, int]:
    """Return the instructions of each operation, counted in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        subprocess.run(
            [
                *("valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"),
                *(sys.executable, __file__, "--work", encoding, str(fraction)),
            ],
            check=True,
            capture_output=True,
            env=os.environ | ENVIRONMENT,
        )
        listing = subprocess.run(
            ["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(out)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    counts = {}
    for operation, function in FUNCTIONS.items():
        pattern = rf"^\s*([\d,]+) .*__pyx_\w+?_7extmeta_\d+{function}\b"
        found = re.findall(pattern, listing, re.MULTILINE)
        counts[operation] = max(int(number.replace(",", "")) for number in found)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work[0], float(arguments.work[1]))
        return
    if not shutil.which("valgrind"):
        sys.exit("instructions are counted by valgrind: apt install valgrind")
    rows = []
    if not arguments.json:
        print(f"instructions a PTE, {PTES:,} PTEs in {TABLES} full tables, {FIELDS!r}")
        names = "".join(f"{operation:>17}" for operation in FUNCTIONS)
        print(f"{'flagged':>7} {'encoding':<9}{names}")
    for fraction in FRACTIONS:
        base: dict[str, int] = {}
        for encoding in em.encodings():
            counts = count(encoding, fraction)
            base = base or counts
            rows.append({"encoding": encoding, "fraction": fraction, **counts})
            if not arguments.json:
                cells = (
                    f"{n / PTES:9.3f} {n / base[o]:5.2f}x" for o, n in counts.items()
                )
                print(f"{fraction:>7.0%} {encoding:<9} " + " ".join(cells), flush=True)
    if arguments.json:
        json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
