"""Which value of a constant is the fastest?

    python benchmarks/tunables.py COPIED 0 512 32768     the present value, and these
    python benchmarks/tunables.py --help                 names the constants

The extension is compiled once for each value, in a copy. One process of each build takes a
sample in a round, and the present value has one before and one after these. What is
printed is processor time over that of the present value: the median of the rounds and its
95 % interval. The first line is a second process of the present value. It shows how far
the layout of memory changes times.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from options import from_0, from_1

import extmeta as em
from extmeta.cost.measure import interval

ROOT = Path(__file__).parents[1]
# What other targets build.
LEFT_OUT = shutil.ignore_patterns(
    "tunables", "sanitize*", "tsan*", "unlocked*", "guest", "oracle", "__pycache__"
)
# Seconds of processor time that a sample has at least.
TRY = 0.002


def filled(encoding, nr_tables, fraction, same):
    """Return a table of full PTE tables with words of 64 bits, ``same`` or different."""
    rng = np.random.default_rng(1)
    table = em.PageTable(encoding, em.Fields(meta=64))
    table.map(slice(0, 512 * nr_tables))
    vpns = np.flatnonzero(rng.random(512 * nr_tables) < fraction)
    odd = rng.integers(0, 1 << 63, len(vpns), dtype=np.uint64) | np.uint64(1)
    table.store(vpns, 1 if same else odd)
    return table


def results():
    """Scans that find so many vpns."""
    table = filled("adaptive", 128, 1.0, True)
    for n in (512, 1024, 2048, 4096, 8192, 65536):
        yield f"scan finds {n}", lambda n=n: table.scan(slice(0, n), 1)


def ranges():
    """Scans and clears of 2,048 tables."""
    every = slice(0, 512 * 2048)
    for encoding in ("linked", "adaptive"):
        for fraction, same in ((0.01, False), (1.0, True)):
            table = filled(encoding, 2048, fraction, same)
            words = f"{encoding}, {fraction:.0%} flagged:"
            yield f"{words} scan", lambda table=table: table.scan(every, 1)
            yield f"{words} clear", lambda table=table: table.update(every, clear=2)


def clears():
    """Clears of a bit that leave all words, in tables that no near cache holds."""
    every = slice(0, 512 * 16384)
    for fraction in (0.01, 0.06, 0.12, 0.5):
        table = filled("linked", 16384, fraction, False)
        yield (
            f"linked, {fraction:.0%} flagged: clear",
            lambda table=table: table.update(every, clear=2),
        )


# Where each constant is, and what shows its effect.
TUNABLES = {
    "COPIED": ("edge/held.pyx", results),
    "TABLES_TOGETHER": ("table/words.pxd", ranges),
    "SPARSE": ("encodings/side.pxd", clears),
}


def serve(name):
    """Time the call whose number a line of stdin has, and print that, for ever."""
    calls = dict(TUNABLES[name][1]())
    print(json.dumps([*calls]), flush=True)
    for line in sys.stdin:
        call = [*calls.values()][int(line)]
        n = 0
        begun = now = time.process_time()
        while now - begun < TRY:
            call()
            n += 1
            now = time.process_time()
        print((now - begun) / n, flush=True)


def built(name, value):
    """Return the source of a build with that value of the constant."""
    tree = ROOT / "build" / "tunables" / f"{name}-{value}"
    shutil.rmtree(tree, ignore_errors=True)
    # With its times, so that only what differs compiles.
    for folder in ("src", "tests/table", "build"):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=LEFT_OUT)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / file, tree)
    path = tree / "src" / "extmeta" / TUNABLES[name][0]
    text, n = re.subn(
        rf"^(    {name}) = \d+$", rf"\1 = {value}", path.read_text(), flags=re.MULTILINE
    )
    if n != 1:
        sys.exit(f"{path} does not set {name} once")
    path.write_text(text)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        env=environment(tree / "src"),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return tree / "src"


def environment(source):
    return os.environ | {"PYTHONPATH": str(source)}


class Build:
    """A process of one build, which times calls when asked to."""

    def __init__(self, name, source):
        self.process = subprocess.Popen(
            [sys.executable, __file__, name, "--serve"],
            env=environment(source),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.calls = json.loads(self.process.stdout.readline())

    def sample(self, number):
        """Return the processor time of a call."""
        print(number, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=TUNABLES)
    parser.add_argument("values", nargs="*", type=from_0, metavar="VALUE")
    parser.add_argument("--rounds", type=from_1, default=60)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        serve(a.name)
        return
    present = Build(a.name, ROOT / "src")
    others = {f"{a.name} again": Build(a.name, ROOT / "src")} | {
        f"{a.name} = {value}": Build(a.name, built(a.name, value)) for value in a.values
    }
    for number, what in enumerate(present.calls):
        print(what)
        ratios = {name: [] for name in others}
        for _ in range(a.rounds):
            before = present.sample(number)
            took = {name: build.sample(number) for name, build in others.items()}
            here = (before + present.sample(number)) / 2
            for name, there in took.items():
                ratios[name].append(there / here)
        for name, each in ratios.items():
            middle, low, high = interval(np.array(each))
            print(f"  {name:<28} {middle:.3f} [{low:.3f}, {high:.3f}]", flush=True)


if __name__ == "__main__":
    main()
