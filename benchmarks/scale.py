"""Random loads and stores against the size of what is mapped.

    python benchmarks/scale.py                  from 64 MiB to 64 GiB
    python benchmarks/scale.py --gib 32 --rounds 21
    python benchmarks/scale.py --encodings linked,hash --json

A row for each size, ns for each encoding: 2**20 vpns drawn at random, each with a word
of 64 bits (inpte: 4 bits). Encodings take turns inside a round, each round draws other
vpns, and the median of the rounds is shown. cykhash's Int64toInt64Map has the same
words, if it is installed; it keeps no PTEs. `misses` is the time of reading a line at
each of the same number of random places in as much memory as the PTE tables take, by
numpy's take(): what one miss a lookup costs if nothing but the cache limits it.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

import extmeta as em
from extmeta.checks import must

NR_VPNS = 1 << 20
PTES_PER_GIB = 1 << 18
SIZES = (1 / 16, 1, 8, 32, 64)
ENCODINGS = ("inpte", "compact", "linked", "adaptive", "adjacent", "hash", "xarray")
BITS = {"inpte": 4, "compact": 4}

try:
    import cykhash
except ImportError:
    cykhash = None

Timed = Callable[[np.ndarray, np.ndarray], tuple[float, float]]


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

    def run(vpns: np.ndarray, _found: np.ndarray) -> tuple[float, float]:
        expected = words.take(vpns)
        loads = seconds(lambda: table.load(vpns))
        must(np.array_equal(table.load(vpns), expected), f"{name} loads other words")
        return loads, seconds(lambda: table.store(vpns, expected))

    return run


def of_cykhash(words: np.ndarray) -> Timed:
    """Return what times cykhash; it stores one by one, so only loads are timed."""
    keys = np.arange(len(words), dtype=np.int64)
    values = (words >> np.uint64(1)).astype(np.int64)
    held = cykhash.Int64toInt64Map_from_buffers(keys, values)
    out = np.empty(NR_VPNS, np.int64)

    def run(vpns: np.ndarray, _found: np.ndarray) -> tuple[float, float]:
        wanted = vpns.astype(np.int64)
        loads = seconds(
            lambda: cykhash.Int64toInt64Map_to(held, wanted, out, stop_at_unknown=False)
        )
        must(np.array_equal(out, values.take(vpns)), "cykhash finds other words")
        return loads, float("nan")

    return run


def of_misses(nr_ptes: int) -> Timed:
    """Return what times reads of random PTE-sized places."""
    memory = np.ones(nr_ptes, np.uint64)

    def run(vpns: np.ndarray, found: np.ndarray) -> tuple[float, float]:
        return seconds(lambda: memory.take(vpns, out=found, mode="wrap")), float("nan")

    return run


def rows(
    gib: float, encodings: list[str], rounds: int, seed: int
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
    found = np.empty(NR_VPNS, np.uint64)
    for turn in range(rounds + 1):
        vpns = rng.integers(0, nr_ptes, NR_VPNS, dtype=np.uint64)
        for name, run in timed.items():
            both = run(vpns, found)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, nargs="+", default=SIZES)
    parser.add_argument("--encodings", default=",".join(ENCODINGS))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found: list[dict[str, object]] = []
    for gib in args.gib:
        print(f"{gib:g} GiB", file=sys.stderr)
        found += rows(gib, args.encodings.split(","), args.rounds, args.seed)
    if args.json:
        json.dump(found, sys.stdout, indent=1)
    else:
        show(found)


if __name__ == "__main__":
    main()
