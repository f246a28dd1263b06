"""Do two threads on halves of one page table do twice the work of one?

    python benchmarks/threads.py [--tables N] [--rounds N] [ENCODING ...]

In each round one thread does a bulk operation on both halves, and two threads do one half
each. The speed-up by the clock needs two free processors: its median and quartiles are
printed. The speed-up by processor time is twice what one thread takes for both halves,
over the sum of what two threads take. Two free processors would give it if no thread
waited for the other, so waits are counted too. Two page tables instead of one show what
the machine allows.
"""

import argparse
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from options import encoding, from_1

import extmeta as em

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=4)
# Calls of each half, so that handing work to a thread, 0.1 ms, is little beside them.
CALLS = 64
ENCODINGS = ("inpte", "linked", "adaptive", "adjacent")


def operations(vpns):
    """Return each operation as a function of a page table and a range."""
    words = np.random.default_rng(1).integers(
        0, 1 << FIELDS.bits, vpns.stop - vpns.start, dtype=np.uint64
    )
    return {
        "load": lambda table, part: table.load(part),
        "store": lambda table, part: table.store(
            part, words[part.start - vpns.start : part.stop - vpns.start]
        ),
        "update": lambda table, part: table.update(part, clear=0b10, set=0b01),
        "scan": lambda table, part: table.scan(part, 0b111, 0b101),
    }


def timed(operation, table, part):
    """Return the processor time and the waits of a thread for its calls."""
    waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    begun = time.thread_time()
    for _ in range(CALLS):
        operation(table, part)
    took = time.thread_time() - begun
    return took, resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - waits


def speedups(operation, works, pool, rounds):
    """Return the speed-ups by the clock and by processor time, and waits a call."""
    by_clock, by_processor, waits = [], [], []
    for turn in range(rounds):
        took = {}
        for threads in (1, 2) if turn % 2 else (2, 1):
            run = pool.map if threads == 2 else map
            begun = time.perf_counter()
            found = list(run(timed, [operation] * 2, *zip(*works, strict=True)))
            took[threads] = time.perf_counter() - begun, found
        by_clock.append(took[1][0] / took[2][0])
        one, two = (sum(seconds for seconds, _ in took[n][1]) for n in (1, 2))
        by_processor.append(2 * one / two)
        waits.append(sum(n for _, n in took[2][1]) / (2 * CALLS))
    return (
        statistics.quantiles(by_clock, n=4),
        statistics.median(by_processor),
        statistics.median(waits),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encodings", nargs="*", type=encoding, metavar="ENCODING")
    parser.add_argument("--tables", type=from_1, default=1024, help="of each half")
    parser.add_argument("--rounds", type=from_1, default=21)
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds {arguments.rounds}: quartiles need 2 rounds")
    n = 512 * arguments.tables
    both, halves = slice(0, 2 * n), (slice(0, n), slice(n, 2 * n))
    with ThreadPoolExecutor(2) as pool:
        for name in arguments.encodings or ENCODINGS:
            one = em.PageTable(name, FIELDS)
            one.map(both)
            one.store(both, 0b101)
            other = one.copy()
            for what, operation in operations(both).items():
                for spaces, second in (("one table", one), ("two tables", other)):
                    works = list(zip((one, second), halves, strict=True))
                    (low, middle, high), processor, waits = speedups(
                        operation, works, pool, arguments.rounds
                    )
                    print(
                        f"{name:<9} {what:<6} {spaces:<11}{middle:5.2f} x  "
                        f"[{low:.2f}, {high:.2f}] by the clock, {processor:.2f} x by "
                        f"processor time, {waits:.2f} waits a call",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
