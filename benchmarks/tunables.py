"""Which value of a constant is the fastest?

    python benchmarks/tunables.py COPIED 0 512 32768     the present value, and these
    python benchmarks/tunables.py                        names the constants

The extension is compiled once for each value, in a copy. Each round runs the builds by
turns, a process each. What is printed is processor time over that of the present value:
the median of the rounds and the least and most. It counts misses, and other work on the
machine disturbs it little.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import extmeta as em

ROOT = Path(__file__).parents[1]
TRIES = 5
# What other targets build.
LEFT_OUT = shutil.ignore_patterns(
    "tunables", "sanitize*", "tsan*", "unlocked*", "guest", "oracle", "__pycache__"
)
# Seconds of processor time of a try, at least.
TRY = 0.01


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
    every = slice(0, 512 * 2048)
    for fraction in (0.01, 0.06, 0.12, 0.25, 0.5, 1.0):
        table = filled("linked", 2048, fraction, False)
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


def times(name):
    """Return the processor time of each call, in this process: the least of some."""
    found = {}
    for what, call in TUNABLES[name][1]():
        call()
        tries = []
        for _ in range(TRIES):
            n = 0
            begun = now = time.process_time()
            while now - begun < TRY:
                call()
                n += 1
                now = time.process_time()
            tries.append((now - begun) / n)
        found[what] = min(tries)
    return found


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=TUNABLES)
    parser.add_argument("values", nargs="*", type=int, metavar="VALUE")
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    if not a.values:
        print(json.dumps(times(a.name)))
        return
    sources = {None: ROOT / "src"} | {v: built(a.name, v) for v in a.values}
    took = {value: [] for value in sources}
    for turn in range(a.rounds):
        for value in list(sources)[:: 1 if turn % 2 else -1]:
            command = [sys.executable, __file__, a.name]
            done = subprocess.run(
                command,
                env=environment(sources[value]),
                check=True,
                capture_output=True,
            )
            took[value].append(json.loads(done.stdout))
    for what in took[None][0]:
        print(what)
        for value in a.values:
            each = [
                there[what] / here[what]
                for there, here in zip(took[value], took[None], strict=True)
            ]
            print(
                f"  {a.name} = {value:<10} {statistics.median(each):.3f} "
                f"[{min(each):.3f}, {max(each):.3f}]"
            )


if __name__ == "__main__":
    main()
