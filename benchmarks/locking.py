"""What do the locks of PTE tables cost one thread?

    python benchmarks/locking.py [--rounds N] [--tables N] [ENCODING ...]

The extension is compiled a second time, without them. Each round runs both builds, in
turn, a process each; a time is the median of some tries on tables with a word in every
PTE, and the ratio is with locks over without, with its 95 % interval over the rounds.
Instructions, by valgrind, repeat to the digit.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import options

import extmeta as em
from extmeta.cost import instructions
from extmeta.cost.measure import interval

ROOT = Path(__file__).parents[1]
UNLOCKED = ROOT / "build" / "unlocked"
TRIES = 15


def build():
    subprocess.run(
        [
            *(sys.executable, "setup.py", "-q", "build", "--build-base"),
            *("build/unlocked-objects", "--build-lib", str(UNLOCKED)),
        ],
        cwd=ROOT,
        env=os.environ | {"EXTMETA_DEBUG": "unlocked"},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def tasks(encoding, nr_tables):
    """Return what is timed: a function and, before it, what makes its subject."""
    fields = em.Fields(uffd_wp=1, soft_dirty=1, age=4)
    everything = slice(0, 512 * nr_tables)
    words = np.random.default_rng(1).integers(1, 64, 512 * nr_tables).astype(np.uint64)
    full = em.PageTable(encoding, fields)
    full.map(everything)
    full.store(everything, words)
    return {
        "store": (lambda: full, lambda t: t.store(everything, words)),
        "set a bit": (lambda: full, lambda t: t.update(everything, set=1)),
        "clear a bit": (lambda: full, lambda t: t.update(everything, clear=1)),
        "load": (lambda: full, lambda t: t.load(everything)),
        "scan": (lambda: full, lambda t: t.scan(slice(0, everything.stop), 3, 2)),
        "fork": (lambda: full, lambda t: t.fork()),
        "unmap": (full.copy, lambda t: t.unmap(slice(0, everything.stop))),
    }


def times(encoding, nr_tables):
    """Return the median time of each operation, in this process."""
    found = {}
    for name, (make, run) in tasks(encoding, nr_tables).items():
        tries = []
        for _ in range(TRIES):
            subject = make()
            begun = time.perf_counter_ns()
            kept = run(subject)
            tries.append(time.perf_counter_ns() - begun)
            del kept
        found[name] = statistics.median(tries)
    return found


def counts(encoding):
    """Return the instructions of each operation, every PTE with a word."""
    return instructions.count(encoding, [1.0])[1.0]


def asked(what, encoding, *, locked, tables):
    """Return what a process of one of the builds answers."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src" if locked else UNLOCKED)}
    command = [sys.executable, __file__, "--answer", what, "--tables", str(tables)]
    done = subprocess.run(
        [*command, encoding], env=environment, check=True, capture_output=True
    )
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "encodings", nargs="*", type=options.encoding, metavar="ENCODING"
    )
    parser.add_argument("--rounds", type=options.from_1, default=15)
    parser.add_argument("--tables", type=options.from_1, default=1024)
    parser.add_argument("--answer", choices=("times", "counts"), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.answer == "times":
        print(json.dumps(times(a.encodings[0], a.tables)))
        return
    if a.answer == "counts":
        print(json.dumps(counts(a.encodings[0])))
        return
    build()
    print(f"with locks over without, {a.tables} full tables, one thread")
    for encoding in a.encodings or ["inpte", "linked", "adaptive", "adjacent"]:
        with_, without = (
            asked("counts", encoding, locked=locked, tables=a.tables)
            for locked in (True, False)
        )
        more = ", ".join(
            f"{name} {with_[name] / without[name] - 1:+.2%}" for name in with_
        )
        print(f"{encoding}: instructions {more}")
        ratios = {}
        for turn in range(a.rounds):
            order = (True, False) if turn % 2 else (False, True)
            took = {
                locked: asked("times", encoding, locked=locked, tables=a.tables)
                for locked in order
            }
            for name, ns in took[True].items():
                ratios.setdefault(name, []).append(ns / took[False][name])
        for name, each in ratios.items():
            middle, low, high = interval(np.array(each))
            print(f"  {name:12} {middle:.3f} [{low:.3f}, {high:.3f}]", flush=True)


if __name__ == "__main__":
    main()
