"""Memory runs out while threads are at work: each still knows what its PTEs have."""

import random
import sys
import threading

import numpy as np
import pytest

import extmeta as em
from extmeta.memory.allowance import fail_after

SMALL = em.Fields(uffd_wp=1, soft_dirty=1, age=2)
FORMS = {
    "inpte": SMALL,
    "compact": SMALL,
    "wide": SMALL,
    "linked": SMALL,
    "adjacent": em.Fields(meta=64),
    "adaptive": em.Fields(meta=64),
    em.Adjacent(when="needed"): em.Fields(meta=64),
    "hash": em.Fields(meta=64),
    "xarray": em.Fields(meta=64),
}
SIZE = 1300
TURNS = 300


@pytest.fixture(autouse=True)
def lift_the_limit():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
    fail_after()


class Writer:
    """Changes its own vpns, and knows what they have."""

    def __init__(self, table, first, seed):
        self.table = table
        self.first = first
        self.words = np.zeros(SIZE, np.uint64)
        self.mapped = np.zeros(SIZE, np.bool_)
        self.random = np.random.default_rng(seed)
        self.refused = 0
        self.done = 0

    def part(self):
        low, high = sorted(self.random.integers(0, SIZE + 1, 2).tolist())
        return slice(low, high), slice(self.first + low, self.first + high)

    def step(self):
        """Do one operation, to be done or refused as a whole."""
        here, vpns = self.part()
        words, mapped = self.words.copy(), self.mapped.copy()
        match self.random.integers(5):
            case 0:
                there = np.flatnonzero(~mapped[here]) + here.start
                self.table.map((there + self.first).astype(np.uint64))
                mapped[there] = True
            case 1:
                self.table.unmap(slice(vpns.start, vpns.stop))
                mapped[here] = False
                words[here] = 0
            case 2:
                there = np.flatnonzero(mapped)
                there = self.random.permutation(there)[: len(there) // 3]
                new = self.random.integers(
                    0, 1 << min(self.table.fields.bits, 62), len(there)
                ).astype(np.uint64)
                self.table.store((there + self.first).astype(np.uint64), new)
                words[there] = new
            case 3:
                self.table.update(vpns, set=3)
                words[here][mapped[here]] |= np.uint64(3)
            case 4:
                self.table.update(vpns, clear=1)
                words[here] &= ~np.uint64(1)
        self.words, self.mapped = words, mapped

    def run(self):
        for _ in range(TURNS):
            fail_after(int(self.random.choice([0, 1, 2, 5, 30, 1000])))
            try:
                self.step()
                self.done += 1
            except MemoryError:
                self.refused += 1
            found = self.table.load(slice(self.first, self.first + SIZE))
            assert np.array_equal(found, self.words)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_each_thread_s_ptes_are_as_it_left_them(form):
    table = em.PageTable(form, FORMS[form])
    writers = [Writer(table, 300 + i * 4 * SIZE, seed=i) for i in range(2)]
    failed = []
    over = threading.Event()

    def guarded(body):
        try:
            body()
        except BaseException as error:  # noqa: BLE001 (raised below)
            failed.append(error)

    def forks():
        while not over.is_set():
            try:
                child = table.fork()
                child.update(slice(0, 1 << 20), clear=1)
                child.check()
            except MemoryError:
                pass

    def looks():
        pick = random.Random(1)
        while not over.is_set():
            first = pick.randrange(4 * SIZE)
            table.snapshot(slice(first, first + 600))

    others = [threading.Thread(target=guarded, args=(b,)) for b in (forks, looks)]
    threads = [threading.Thread(target=guarded, args=(w.run,)) for w in writers]
    for thread in (*threads, *others):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    for thread in others:
        thread.join()
    fail_after()
    if failed:
        raise failed[0]
    table.check()
    assert sum(writer.refused for writer in writers) > 0
    assert sum(writer.done for writer in writers) > 0
    assert len(table) == sum(int(writer.mapped.sum()) for writer in writers)
    table.unmap(slice(0, 1 << 20))
    memory = table.memory()
    assert (memory.pte, memory.side) == (0, 0)
    assert memory.index == 0


def test_what_may_still_be_allocated_is_counted_once_over_all_threads():
    tables = [em.PageTable("linked") for _ in range(4)]
    had = []

    def take(table):
        for i in range(50):
            try:
                table.map(i << 9)
                had.append(i)
            except MemoryError:
                return

    fail_after(60)
    threads = [threading.Thread(target=take, args=(t,)) for t in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fail_after()
    # Two upper tables for each; of a map that fails the tables go back.
    tables_made = sum(len(table.tables) for table in tables)
    assert tables_made == len(had)
    assert 60 - 4 * 3 - 4 <= tables_made <= 60


@pytest.mark.parametrize("form", ["linked", "adaptive", em.Adjacent(when="needed")])
def test_where_a_link_needs_a_place_too(form):
    """On ppc64 tables share a page: a side page without a place for its link once
    stayed until the table went."""
    table = em.PageTable(form, em.Fields(meta=64), "ppc64_radix_64k")
    table.map(slice(0, 32))
    words = np.arange(1 << 60, (1 << 60) + 32, dtype=np.uint64)
    before = table.memory()
    for failures in range(20):
        fail_after(failures)
        try:
            table.store(slice(0, 32), words)
            break
        except MemoryError:
            fail_after()
            assert table.memory() == before
    assert failures > 2
