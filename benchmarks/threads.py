"""Do two threads on ranges apart of one page table do twice the work of one?

    python benchmarks/threads.py [--tables N] [--rounds N] [ENCODING ...]

Bulk store and scan. Each round times the work of both ranges by one thread and by two,
in turn; what is printed is the median of the ratios and their quartiles. The same of
two page tables says what the machine allows. Two free processors are needed.
"""

import argparse
import statistics
import threading
import time

import numpy as np

import extmeta as em

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=4)
# So that starting a thread, 0.1 ms, is little beside it.
STORES = 16
SCANS = 64


def store(table, first, n):
    words = np.random.default_rng(1).integers(0, 1 << FIELDS.bits, n).astype(np.uint64)
    vpns = slice(first, first + n)
    return lambda: [table.store(vpns, words) for _ in range(STORES)]


def scan(table, first, n):
    return lambda: [
        table.scan(slice(first, first + n), 0b111, 0b101) for _ in range(SCANS)
    ]


def by_one(works):
    for work in works:
        work()


def by_two(works):
    threads = [threading.Thread(target=work) for work in works[1:]]
    for thread in threads:
        thread.start()
    works[0]()
    for thread in threads:
        thread.join()


def seconds(run, works):
    begun = time.perf_counter()
    run(works)
    return time.perf_counter() - begun


def speedup(works, rounds):
    """Return quartiles of how much faster two threads are."""
    found = []
    for turn in range(rounds):
        order = (by_one, by_two) if turn % 2 else (by_two, by_one)
        took = {run: seconds(run, works) for run in order}
        found.append(took[by_one] / took[by_two])
    return statistics.quantiles(found, n=4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encodings", nargs="*", metavar="ENCODING")
    parser.add_argument("--tables", type=int, default=1024, help="of each range")
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    n = 512 * arguments.tables
    everything = slice(0, 2 * n)
    for name in arguments.encodings or ["inpte", "linked", "adaptive", "adjacent"]:
        one = em.PageTable(name, FIELDS)
        one.map(everything)
        one.store(everything, 0b101)
        other = one.copy()
        for what in (store, scan):
            for spaces, second in (("one table", one), ("two tables", other)):
                works = [what(one, 0, n), what(second, n, n)]
                low, middle, high = speedup(works, arguments.rounds)
                print(
                    f"{name:<9} {what.__name__:<6} {spaces:<11}"
                    f"{middle:5.2f} x  [{low:.2f}, {high:.2f}]",
                    flush=True,
                )


if __name__ == "__main__":
    main()
