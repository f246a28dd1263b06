"""What tables hold after much use, beside what they hold when new; memory() beside RSS."""

import os
import subprocess
import sys

import numpy as np
import pytest

import extmeta as em

TABLES = 250
SIZE = 512
# Descriptors of frames are not counted, and malloc() rounds up too. Beyond the first
# 2 MiB of tables or words, memory is taken 2 MiB in advance, so they have to be fewer.
RSS_BYTES = 256 << 10

MEASURE = """
import sys
import numpy as np
import extmeta as em

def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096

vpns = np.arange({tables} * 512, dtype=np.uint64)
words = vpns * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
# The first time, Python and numpy take memory of their own.
for repeat in range(2):
    t = em.PageTable({encoding!r}, em.Fields(meta=64))
    before = resident()
    t.map(vpns)
    t.store(vpns, words)
print(resident() - before, t.memory().pages)
"""


# A sanitizer keeps freed memory, and shadows all of it.
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="of the product's own build")
@pytest.mark.parametrize(
    "encoding", ["adaptive", "linked", "adjacent", "xarray", "hash"]
)
def test_memory_is_what_the_process_has_more(encoding):
    out = subprocess.run(
        [sys.executable, "-c", MEASURE.format(tables=TABLES, encoding=encoding)],
        env={**os.environ, "EXTMETA_THP": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    resident, pages = map(int, out.stdout.split())
    assert abs(resident - pages) <= RSS_BYTES, (resident, pages)


def held(table):
    """Return the bytes of the pages of side memory."""
    memory = table.memory()
    return memory.side + memory.index + memory.slack


def new_table():
    table = em.PageTable("adaptive", em.Fields(meta=64))
    table.map(slice(0, TABLES * SIZE))
    return table


def test_churn_leaves_few_pages_half_empty():
    """A new table takes nearly as many pages as one after 300 rounds of changes."""
    rng = np.random.default_rng(1)
    table = new_table()
    n = TABLES * SIZE
    for _ in range(300):
        vpns = rng.choice(n, n // 50, replace=False)
        table.update(vpns[::2], clear=2**64 - 1)
        table.store(vpns[1::2], rng.integers(1, 2**63, n // 100, np.uint64))
    words = table.load(slice(0, n))
    twin = new_table()
    vpns = np.flatnonzero(words)
    twin.store(vpns, words[vpns])
    assert held(table) <= 1.25 * held(twin), (held(table), held(twin))


@pytest.mark.parametrize("n", [4, 8, 13, 31, 32, 47, 48, 63, 128, 255, 448, 480, 511])
def test_a_word_more_and_a_word_less_do_not_copy_each_time(n):
    table = em.PageTable("adaptive", em.Fields(meta=64))
    table.map(slice(0, SIZE))
    table.store(slice(0, n), np.arange(1, n + 1, dtype=np.uint64) << np.uint64(40))
    sizes = set()
    for _ in range(10):
        table.store(n, 1 << 63)
        sizes.add(table.memory().side)
        table.store(n, 0)
        sizes.add(table.memory().side)
    assert len(sizes) == 1


def test_generations_of_forks_hold_no_more():
    """Each child writes, and its parent exits."""
    rng = np.random.default_rng(1)
    table = new_table()
    n = TABLES * SIZE
    table.store(slice(0, n), rng.integers(1, 2**63, n, np.uint64))
    sizes = []
    for _ in range(100):
        child = table.fork()
        child.store(rng.choice(n, 100), rng.integers(1, 2**63, 100, np.uint64))
        table = child
        del child
        sizes.append(held(table))
    assert max(sizes[1:]) <= 1.01 * sizes[0], (sizes[0], max(sizes))
