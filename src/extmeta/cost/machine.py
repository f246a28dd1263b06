"""What this machine's memory can do now: the bounds that operations are compared with.

Each is measured in the run, over an array as large as the page tables it is a bound
for, with the clock and the samples of `measure`; the fastest sample counts.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from extmeta.arrays import U64
from extmeta.checks import must, same
from extmeta.cost import bounds
from extmeta.cost.measure import Task, calibrate, no_garbage_collection, sample, verify
from extmeta.rows import Bound

# Well above today's L2 caches (4 MiB). A smaller page table may be read faster, so the
# size is a parameter.
FAR_BYTES = 64 << 20

# Below this, numpy's call (2 us) would count.
LEAST_BYTES = 1 << 20
ROUNDS = 9

LINE_WORDS = 8
LINE_BYTES = 8 * LINE_WORDS

# Steps of a run along all chains. At 2 ns a step they take 30 us; a call takes 1 us. It
# is no multiple of a power of 2, so that no run ends where it began.
STEPS = bounds.CHAINS * 1000


def caches(folder: str = "/sys/devices/system/cpu/cpu0/cache") -> dict[str, int]:
    """Return the bytes of the first processor's data caches, as in {"L2": 2097152}."""
    found = {}
    # Some virtual machines have caches without a size.
    for path in sorted(Path(folder).glob("index*/size")):
        level, kind, kib = (
            (path.parent / name).read_text().strip()
            for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            found[f"L{level}"] = int(kib.removesuffix("K")) << 10
    return found


def bound_of(table_bytes: int) -> Bound:
    """Return what memory does over ``table_bytes``, at least `LEAST_BYTES`."""
    nbytes = max(table_bytes, LEAST_BYTES) // LINE_BYTES * LINE_BYTES
    return Bound(
        table_bytes=table_bytes,
        near_bytes_per_s=1e9 * nbytes / fastest(reading(nbytes)),
        far_bytes_per_s=1e9 * FAR_BYTES / fastest(reading(FAR_BYTES)),
        write_bytes_per_s=1e9 * nbytes / fastest(writing(nbytes)),
        copy_bytes_per_s=1e9 * nbytes / fastest(copying(nbytes)),
        miss_ns=fastest(missing(nbytes, bounds.follow, 1)) / STEPS,
        overlapped_ns=fastest(missing(nbytes, bounds.follow_together, bounds.CHAINS))
        / STEPS,
    )


def fastest(task: Task, rounds: int = ROUNDS) -> float:
    """Return the ns of a run in the fastest of some samples."""
    with no_garbage_collection():
        verify(task)
        repeat = calibrate(task)
        return max(1, min(sample(task, repeat) for _ in range(rounds))) / repeat


def reading(nbytes: int) -> Task:
    """Return the task of reading an array of uint64 once.

    max() is the reduction of numpy that is most like a scan's loop: vectorised loads, a
    comparison, no store.
    """
    array = np.arange(nbytes // 8, dtype=np.uint64)
    return Task(
        ready=lambda: array,
        run=np.max,
        check=lambda array, result: same(int(result), len(array) - 1),
    )


def writing(nbytes: int) -> Task:
    """Return the task of writing an array once."""
    array = np.zeros(nbytes // 8, np.uint64)
    return Task(
        ready=lambda: array,
        run=lambda array: bounds.fill(array, 1),
        check=lambda array, _result: must(
            bool((array == 0x0101010101010101).all()), "not all is written"
        ),
    )


def copying(nbytes: int) -> Task:
    """Return the task of copying an array to another once."""
    source = np.arange(nbytes // 8, dtype=np.uint64)
    return Task(
        ready=lambda: np.zeros_like(source),
        run=lambda target: np.copyto(target, source),
        check=lambda target, _result: same(target, source, "the copy differs"),
    )


def missing(nbytes: int, follow: Callable[[U64, U64, int], None], chains: int) -> Task:
    """Return the task of `STEPS` steps to other lines of an array, at random.

    All lines are in one cycle. Each chain goes on where its last run ended.
    """
    nr_lines = nbytes // LINE_BYTES
    order = np.random.default_rng(1).permutation(nr_lines).astype(np.uint64)
    order *= np.uint64(LINE_WORDS)
    chain = np.zeros(nr_lines * LINE_WORDS, np.uint64)
    chain[order] = np.roll(order, -1)
    first = np.arange(chains) * (nr_lines // chains)
    at = order[first]
    steps = STEPS // chains

    def check(_at: U64, _result: None) -> None:
        same(at, order[(first + steps) % nr_lines], "the chains end elsewhere")

    return Task(lambda: at, lambda at: follow(chain, at, steps), check)
