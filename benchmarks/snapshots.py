"""Snapshots against two writers, as many as asked for: is a pair ever torn?

    python benchmarks/snapshots.py [--snapshots N] [ENCODING ...]

The N snapshots are shared out among the encodings. What was done is in a file, so a
campaign goes on where it was stopped; a new one begins with another file, or with
--again. Ends with 1 if a pair was torn.
"""

import argparse
import json
import sys
from pathlib import Path

from options import encoding, from_1
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

import extmeta as em
from extmeta.captures.whole_file import replace
from extmeta.cost.forms import form

sys.path.append(str(Path(__file__).parents[1] / "tests" / "table"))
from stress import Stress

# Between two tables: a new one has other seeds and other memory.
AT_A_TIME = 5_000_000
ENCODINGS = [*em.encodings(), "adjacent:needed"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encodings", nargs="*", type=encoding, metavar="ENCODING")
    parser.add_argument("--snapshots", type=from_1, default=10**9, metavar="N")
    parser.add_argument("--file", type=Path, default=Path("build/snapshots.json"))
    parser.add_argument("--again", action="store_true", help="forget what was done")
    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="readers that don't look whether anything changed: some pairs are torn",
    )
    arguments = parser.parse_args()
    names = arguments.encodings or ENCODINGS
    enough = -(-arguments.snapshots // len(names))
    done = {}
    if arguments.file.exists() and not arguments.again:
        done = json.loads(arguments.file.read_text())
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[torn]} torn"),
    )
    with Progress(*columns) as progress:
        for name in names:
            one = done.setdefault(name, {"seen": 0, "words": 0, "torn": 0, "steps": 0})
            task = progress.add_task(
                name, total=enough, completed=one["seen"], torn=one["torn"]
            )
            while one["seen"] < enough:
                stress = Stress(
                    form(name), seed=one["seen"], checked=not arguments.unchecked
                )
                before = one["seen"]
                n = min(AT_A_TIME, enough - before)
                for seen in stress.rounds(n):
                    progress.update(
                        task, completed=before + seen, torn=one["torn"] + stress.torn
                    )
                (watch,) = stress.watches
                one["seen"] += watch.seen
                one["words"] += watch.words
                one["torn"] += watch.torn
                one["steps"] += stress.steps
                if watch.torn:
                    one.setdefault("examples", []).append(watch.example)
                arguments.file.parent.mkdir(parents=True, exist_ok=True)
                replace(arguments.file, json.dumps(done, indent=1).encode())
    for name in names:
        one = done[name]
        print(
            f"{name:<16} {one['seen']:>13,} snapshots, {one['words']:>13,} of a word, "
            f"{one['torn']} torn; {one['steps']:,} steps of the writers"
        )
    torn = sum(done[name]["torn"] for name in names)
    print(f"{sum(done[name]['seen'] for name in names):,} snapshots, {torn} torn")
    return torn > 0


if __name__ == "__main__":
    sys.exit(main())
