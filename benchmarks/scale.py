"""Figures against size: random loads and stores, and the headlines.

    python benchmarks/scale.py                  from 64 MiB to 64 GiB
    python benchmarks/scale.py --gib 32 --rounds 21
    python benchmarks/scale.py --encodings linked,hash --json
    python benchmarks/scale.py --headlines      into benchmarks/results/
    python benchmarks/scale.py --machines       what holds on all of them

--headlines measures those of measures.py on 64 to 16,384 PTE tables, each in several
processes, and stores them for this machine, with its caches. --machines compares what
is stored, and measures nothing.

A row for each size, ns for each encoding: 2**20 vpns drawn at random, each with a word
of 64 bits (inpte: 4 bits). Encodings take turns inside a round, each round draws other
vpns, and the median of the rounds is shown. cykhash's Int64toInt64Map has the same
words, if it is installed; it keeps no PTEs. `misses` is the time of reading a line at
each of the same number of random places in as much memory as the PTE tables take, by
numpy's take(): what one miss a lookup costs if nothing but the cache limits it.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import options
from measures import Bench

import extmeta as em
from extmeta.captures import whole_file
from extmeta.checks import same
from extmeta.commands.arguments import refusing
from extmeta.cost import machine, origin, workers

NR_VPNS = 1 << 20
PTES_PER_GIB = 1 << 18
SIZES = (1 / 16, 1, 8, 32, 64)
# What an x86-64 process can map with four levels of page tables.
MAX_GIB = 1 << 17
ENCODINGS = ("inpte", "compact", "linked", "adaptive", "adjacent", "hash", "xarray")
BITS = {"inpte": 4, "compact": 4}

TABLES = (64, 256, 1024, 4096, 16384)
TABLE_BYTES = 4096
RESULTS = Path(__file__).parent / "results"

try:
    import cykhash
except ImportError:
    cykhash = None

Timed = Callable[[np.ndarray], tuple[float, float]]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def of_table(name: str, words: np.ndarray) -> Timed:
    """Return what times a load and a store of random vpns in a page table."""
    bits = BITS.get(name, 64)
    words = words & np.uint64((1 << bits) - 1) | np.uint64(1)
    table = em.PageTable(name, em.Fields(meta=bits))
    table.map(slice(0, len(words)))
    table.store(slice(0, len(words)), words)

    def run(vpns: np.ndarray) -> tuple[float, float]:
        expected = words.take(vpns)
        loads = seconds(lambda: table.load(vpns))
        same(table.load(vpns), expected, f"{name} loads other words")
        return loads, seconds(lambda: table.store(vpns, expected))

    return run


def of_cykhash(words: np.ndarray) -> Timed:
    """Return what times cykhash; it stores one by one, so only loads are timed."""
    keys = np.arange(len(words), dtype=np.int64)
    values = (words >> np.uint64(1)).astype(np.int64)
    held = cykhash.Int64toInt64Map_from_buffers(keys, values)
    out = np.empty(NR_VPNS, np.int64)

    def run(vpns: np.ndarray) -> tuple[float, float]:
        wanted = vpns.astype(np.int64)
        loads = seconds(
            lambda: cykhash.Int64toInt64Map_to(held, wanted, out, stop_at_unknown=False)
        )
        same(out, values.take(vpns), "cykhash finds other words")
        return loads, float("nan")

    return run


def of_misses(nr_ptes: int) -> Timed:
    """Return what times reads of random PTE-sized places."""
    memory, found = np.ones(nr_ptes, np.uint64), np.empty(NR_VPNS, np.uint64)

    def run(vpns: np.ndarray) -> tuple[float, float]:
        return seconds(lambda: memory.take(vpns, out=found, mode="wrap")), float("nan")

    return run


def rows(
    gib: float, encodings: Sequence[str], rounds: int, seed: int
) -> Iterator[dict[str, object]]:
    """Yield the medians of each encoding at one size."""
    nr_ptes = int(gib * PTES_PER_GIB)
    rng = np.random.default_rng(seed)
    words = rng.integers(1, 1 << 63, nr_ptes, dtype=np.uint64)
    timed = {name: of_table(name, words) for name in encodings}
    if cykhash:
        timed["cykhash"] = of_cykhash(words)
    timed["misses"] = of_misses(nr_ptes)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for turn in range(rounds + 1):
        vpns = rng.integers(0, nr_ptes, NR_VPNS, dtype=np.uint64)
        for name, run in timed.items():
            both = run(vpns)
            if turn:  # The first round warms up.
                times[name].append(both)
    for name, pairs in times.items():
        load, store = (
            statistics.median(part) / NR_VPNS for part in zip(*pairs, strict=True)
        )
        yield {"gib": gib, "what": name, "load_ns": load * 1e9, "store_ns": store * 1e9}


def show(found: list[dict[str, object]]) -> None:
    names = list(dict.fromkeys(row["what"] for row in found))
    for what in ("load", "store"):
        kept = [n for n in names if what == "load" or n not in ("cykhash", "misses")]
        print(f"\nns a random {what}\n\n| GiB mapped | " + " | ".join(kept) + " |")
        print("|---" * (len(kept) + 1) + "|")
        for gib in dict.fromkeys(row["gib"] for row in found):
            cells = {r["what"]: r[f"{what}_ns"] for r in found if r["gib"] == gib}
            print(f"| {gib:g} | " + " | ".join(f"{cells[n]:.1f}" for n in kept) + " |")


def headlines(sizes: list[int], processes: int, path: Path | None) -> None:
    """Measure the headlines at each size, store them and show them."""
    made = origin.provenance(["benchmarks/scale.py", *sys.argv[1:]], 0)
    made["caches"] = machine.caches()
    made["load"] = os.getloadavg()[0]
    document: dict[str, Any] = {"machine": made, "processes": processes, "lines": []}
    path = path or RESULTS / f"{slug(made['cpu'])}-{made['cpus']}-cpus.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        print(f"{size:,} tables", file=sys.stderr)
        for line in Bench(size, quick=False).lines("headlines", processes):
            document["lines"].append({"tables": size, **asdict(line)})
        # After each size: an interruption loses no other.
        whole_file.replace(path, (json.dumps(document, indent=1) + "\n").encode())
    show_curves(document)


def slug(text: str) -> str:
    """Return a processor's name as a file's."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", text.lower())).strip("-")


def show_curves(document: dict[str, Any]) -> None:
    """Print a row for each headline, a column for each size."""
    made, lines = document["machine"], document["lines"]
    sizes = list(dict.fromkeys(line["tables"] for line in lines))
    caches = ", ".join(f"{k} {v >> 10:,} KiB" for k, v in made["caches"].items())
    print(
        f"\n{made['cpu']}, {made['cpus']} CPUs, {caches}; Linux {made['kernel']}, "
        f"extmeta {made['commit']}, {document['processes']} processes, "
        f"load {made.get('load', 'unknown')} at the start\n"
    )
    heads = [f"{size:,} tables, {size * TABLE_BYTES >> 10:,} KiB" for size in sizes]
    print("| | goal | " + " | ".join(heads) + " |")
    print("|---" * (len(sizes) + 2) + "|")
    fits = [fitting_cache(size * TABLE_BYTES, made["caches"]) for size in sizes]
    print("| PTE tables fit | | " + " | ".join(fits) + " |")
    for what, goal in dict.fromkeys((line["what"], line["goal"]) for line in lines):
        at = {line["tables"]: line for line in lines if line["what"] == what}
        cells = [cell(at[size]) if size in at else "" for size in sizes]
        print(f"| {what} | {goal} | " + " | ".join(cells) + " |")


def fitting_cache(nbytes: int, caches: dict[str, int]) -> str:
    """Return the smallest cache that holds so many bytes, or "memory"."""
    return next((name for name, size in caches.items() if nbytes <= size), "memory")


def cell(line: dict[str, Any]) -> str:
    return line["measured"] + {True: "", False: " missed", None: ""}[line["met"]]


def machines(paths: list[Path]) -> int:
    """Say of each claim on which machines and sizes it holds; 1 if not on all."""
    documents = {}
    for path in paths:
        try:
            documents[path.stem] = json.loads(path.read_text())
            show_curves(documents[path.stem])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            sys.exit(f"{path}: not what --headlines writes: {error!r}")
    claims: dict[tuple[str, str], list[tuple[str, int, bool]]] = {}
    for name, document in documents.items():
        for line in document["lines"]:
            if line["met"] is not None:
                at = claims.setdefault((line["what"], line["goal"]), [])
                at.append((name, line["tables"], line["met"]))
    print(f"\n| claim | goal | holds on {len(documents)} machines |\n|---|---|---|")
    for (what, goal), found in claims.items():
        fails: dict[str, list[str]] = {}
        for name, size, met in found:
            if not met:
                fails.setdefault(name, []).append(f"{size:,}")
        where = "; ".join(f"{name}: {', '.join(at)}" for name, at in fails.items())
        print(f"| {what} | {goal} | {f'not on {where} tables' if where else 'all'} |")
    return int(any(not met for found in claims.values() for *_at, met in found))


def gib_of(text: str) -> float:
    """Return GiB of mapped memory: a page or more."""
    try:
        gib = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number of GiB") from None
    if not 1 / PTES_PER_GIB <= gib <= MAX_GIB:
        raise ValueError(f"{text!r} is not in [2**-18, {MAX_GIB:,}] GiB")
    return gib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=refusing(gib_of), nargs="+", default=SIZES)
    parser.add_argument("--encodings", type=options.encodings, default=ENCODINGS)
    parser.add_argument("--rounds", type=options.from_1, default=11)
    parser.add_argument("--seed", type=options.from_0, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--headlines", action="store_true")
    parser.add_argument("--tables", type=options.from_1, nargs="+", default=TABLES)
    parser.add_argument("--processes", type=options.from_1, default=workers.PROCESSES)
    parser.add_argument("--output", type=Path, help="of --headlines")
    parser.add_argument("--machines", action="store_true")
    args = parser.parse_args()
    if args.machines:
        sys.exit(machines(sorted(RESULTS.glob("*.json"))))
    if args.headlines:
        headlines(args.tables, args.processes, args.output)
        return
    found: list[dict[str, object]] = []
    for gib in args.gib:
        print(f"{gib:g} GiB", file=sys.stderr)
        found += rows(gib, args.encodings, args.rounds, args.seed)
    if args.json:
        json.dump(found, sys.stdout, indent=1)
    else:
        show(found)


if __name__ == "__main__":
    main()
