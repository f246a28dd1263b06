"""Bytes after a long history, against those of a new table with the same words.

    python benchmarks/histories.py [NAME ...]

The names are those of the functions below. All but `rss` repeat to the byte. It reads
what this process holds from the kernel, and prints the largest difference.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import extmeta as em
from extmeta.captures.capture import load_capture, shipped
from extmeta.cost.space import space_of

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20
WORD = em.Fields(meta=64)
SIZE = 512
SIDE = ("linked", "adaptive", "hash", "xarray")

ROUNDS = 300
GENERATIONS = 100
# PTE tables that a process of `rss` fills, and how many before it looks.
TABLES = 2048
TOGETHER = 8
# Huge pages would be resident before they are used, and glibc would keep what is freed.
RESIDENT = {
    "EXTMETA_THP": "0",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def held(*tables: em.PageTable) -> int:
    """Return the bytes of side memory and of what finds it."""
    each = [table.memory() for table in tables]
    return sum(memory.side + memory.index for memory in each)


def made(encoding: str, vpns: np.ndarray, words: np.ndarray) -> em.PageTable:
    """Return a new table in which these vpns have PTEs, and words that are not 0."""
    table = em.PageTable(encoding, WORD)
    table.map(vpns)
    table.store(vpns[words != 0], words[words != 0])
    return table


def random_words(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(1, 1 << 64, n, np.uint64)


def back() -> Iterator[str]:
    """One table: a word is changed and changed back; wide words become narrow."""
    vpns = np.arange(SIZE, dtype=np.uint64)
    alike = np.full(SIZE, 7, np.uint64)
    table = made("adaptive", vpns, alike)
    table.store(100, 1 << 63)
    most = held(table)
    table.store(100, 7)
    new = held(made("adaptive", vpns, alike))
    yield f"one word changed: {most} bytes; changed back: {held(table)}; new: {new}"
    narrow = vpns % np.uint64(7) + np.uint64(1)
    table = made("adaptive", vpns, narrow | np.uint64(1 << 63))
    most = held(table)
    for vpn in np.random.default_rng(1).permutation(SIZE).tolist():
        table.store(vpn, narrow[vpn])
    new = held(made("adaptive", vpns, narrow))
    yield (
        f"words of 64 bits: {most} bytes; all of 3 bits, one by one: "
        f"{held(table)}; new: {new}"
    )


def churn() -> Iterator[str]:
    """Redis: each round maps 2 % of the PTEs anew, and stores and drops 2 % of words."""
    vpns = space_of(load_capture(shipped()["redis"]), "redis").vpns
    some = len(vpns) // 50
    for encoding in SIDE:
        rng = np.random.default_rng(1)
        words = np.where(rng.random(len(vpns)) < 0.3, random_words(rng, len(vpns)), 0)
        table, most = made(encoding, vpns, words), 0.0
        for _ in range(ROUNDS):
            for kind in ("map", "store", "drop"):
                at = rng.choice(len(vpns), some, replace=False)
                new = random_words(rng, some) if kind == "store" else 0
                if kind == "map":
                    table.unmap(vpns[at])
                    table.map(vpns[at])
                else:
                    table.store(vpns[at], np.broadcast_to(np.uint64(new), some))
                words[at] = new
            table.check()
            most = max(most, held(table) / held(made(encoding, vpns, words)))
        twin = made(encoding, vpns, words)
        pages = table.memory().pages / twin.memory().pages
        after = held(table) / held(twin)
        yield (
            f"{encoding:<9} {after:.2f} x a new table, at most {most:.2f} x in "
            f"{ROUNDS} rounds; pages {pages:.2f} x"
        )


def border() -> Iterator[str]:
    """One word more and one less, 100 times, at each number of words of a table."""
    rng = np.random.default_rng(1)
    order = rng.permutation(SIZE).astype(np.uint64)
    moved, worst = 0, 0
    for n in range(SIZE):
        table = made("adaptive", order[:n], random_words(rng, n))
        table.map(order[n:])
        sizes = [held(table)]
        for _ in range(100):
            for word in (1 << 50, 0):
                table.store(int(order[n]), word)
                sizes.append(held(table))
        changes = int(np.count_nonzero(np.diff(sizes)))
        moved += changes > 0
        # The first word more may need a larger container. Then it stays.
        worst = max(worst, changes) if n else worst
    yield (
        f"{SIZE} numbers of words: at {moved} the size changed; "
        f"it changed at most {worst} times in 200 stores, the empty table left out"
    )


def forks() -> Iterator[str]:
    """A child of a child, and so on: each writes 5 % of its words, and its parent exits."""
    vpns = np.arange(64 * SIZE, dtype=np.uint64)
    for encoding in SIDE:
        rng = np.random.default_rng(1)
        words = random_words(rng, len(vpns))
        table = made(encoding, vpns, words)
        first, most = table.memory().pages, 0
        for _ in range(GENERATIONS):
            table = table.fork()
            at = rng.choice(len(vpns), len(vpns) // 20, replace=False)
            words[at] = random_words(rng, len(at))
            table.store(vpns[at], words[at])
            most = max(most, table.memory().pages)
        table.check()
        if not np.array_equal(table.load(vpns), words):
            raise ValueError(f"{encoding}: words of generation {GENERATIONS} are wrong")
        yield (
            f"{encoding:<9} pages after {GENERATIONS} generations "
            f"{table.memory().pages / first:.2f} x, at most {most / first:.2f} x"
        )


def resident() -> int:
    """Return the bytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def fill(encoding: str) -> None:
    """Fill 2,048 tables, a few at a time; print memory(), and what is resident beyond it.

    Frames become resident a block at a time, before they are used. So the difference is
    smallest where a block is used up.
    """
    rng = np.random.default_rng(1)
    # What the first table of a process needs once is no part of the comparison.
    _small = made(encoding, np.arange(SIZE, dtype=np.uint64), random_words(rng, SIZE))
    before = resident()
    table = em.PageTable(encoding, WORD)
    beyond = []
    for first in range(0, TABLES * SIZE, TOGETHER * SIZE):
        part = slice(first, first + TOGETHER * SIZE)
        table.map(part)
        table.store(part, random_words(rng, TOGETHER * SIZE))
        beyond.append(resident() - before - table.memory().pages)
    print(table.memory().pages, min(beyond[len(beyond) // 4 :]), max(beyond))


def rss() -> Iterator[str]:
    """2,048 tables are filled, every PTE with a word: memory() against the resident set."""
    for encoding in SIDE:
        done = subprocess.run(
            [sys.executable, __file__, "--fill", encoding],
            env=os.environ | RESIDENT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        held_mib, least, most = (int(n) / MIB for n in done.stdout.split())
        yield (
            f"{encoding:<9} memory() {held_mib:5.1f} MiB; resident beyond it: "
            f"{least:.2f} MiB where a block is used up, {most:.2f} MiB at most"
        )


NAMES: dict[str, Callable[[], Iterator[str]]] = {
    each.__name__: each for each in (back, churn, border, forks, rss)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--fill", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in arguments.name:
        if name not in NAMES:
            parser.error(f"no history is named {name!r}; there are {', '.join(NAMES)}")
    if arguments.fill:
        fill(arguments.fill)
        return
    for name in arguments.name or NAMES:
        for line in NAMES[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
