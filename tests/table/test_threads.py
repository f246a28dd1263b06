"""Many threads on one table: each call is one step, ranges apart don't disturb."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from histories import Operation, explained

import extmeta as em

ENCODINGS = [*em.encodings(), em.Adjacent(when="needed")]
# A field for each of three threads.
FIELDS = em.Fields(a=2, b=2, c=2)
NAMES = tuple(FIELDS)


@pytest.fixture(params=ENCODINGS, ids=str)
def encoding(request):
    return request.param


@pytest.fixture(autouse=True)
def switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*bodies):
    """Run bodies in threads, started together; raise what one of them raises."""
    failed = []
    barrier = threading.Barrier(len(bodies))

    def run(body):
        barrier.wait()
        try:
            body()
        except BaseException as error:  # noqa: BLE001 (raised below)
            failed.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def worker(table, first, seed, rounds=60):
    """Return a body that does all there is to its own vpns, and a check of them."""
    rng = np.random.default_rng(seed)
    size = 700
    words = {}
    at = [first]

    def vpns():
        some = sorted(words)
        return np.array(some, np.uint64)[rng.random(len(some)) < 0.5]

    def body():
        for _ in range(rounds):
            what = rng.integers(6)
            if what == 0:
                new = [
                    v
                    for v in (at[0] + rng.integers(0, size, 50)).tolist()
                    if v not in words
                ]
                table.map(np.array(sorted(set(new)), np.uint64))
                words.update(dict.fromkeys(new, 0))
            elif what == 1 and len(some := vpns()):
                new = rng.integers(0, 4, len(some))
                table.store(some, a=new)
                for v, word in zip(some.tolist(), new.tolist(), strict=True):
                    words[v] = words[v] & ~3 | word
            elif what == 2:
                table.update(slice(at[0], at[0] + size), clear=4, set=1)
                words.update({v: word & ~4 | 1 for v, word in words.items()})
            elif what == 3:
                lower = at[0] + int(rng.integers(size))
                table.unmap(slice(lower, lower + 40))
                for v in range(lower, lower + 40):
                    words.pop(v, None)
            elif what == 4:
                to = first + 2048 if at[0] == first else first
                table.move(slice(at[0], at[0] + size), to)
                moved = {v - at[0] + to: word for v, word in words.items()}
                words.clear()
                words.update(moved)
                at[0] = to
            else:
                # A fork's words are those of the same pages.
                child = table.copy() if table.encoding.by_page else table.fork()
                child.update(slice(at[0], at[0] + size), set=2)
                child.unmap(slice(at[0], at[0] + 100))
            check()

    def check():
        everything = np.arange(at[0], at[0] + size, dtype=np.uint64)
        expected = [words.get(v, 0) for v in everything.tolist()]
        assert table.load(everything).tolist() == expected
        assert table.snapshot(everything)[1].tolist() == expected
        one = {v for v, word in words.items() if word & 1}
        assert set(table.scan(slice(at[0], at[0] + size), 1).tolist()) == one

    return body


def test_ranges_apart(encoding):
    """Three threads, each against a dict of its own; neighbours share tables above."""
    table = em.PageTable(encoding, FIELDS)
    at_once(*(worker(table, 0x1000 * (1 + i), i) for i in range(3)))
    table.check()
    table.unmap(slice(0, table.arch.nr_vpns))
    assert table.memory() == em.PageTable(encoding, FIELDS).memory()


@pytest.mark.parametrize("border", [2048, 2100])
def test_parts_of_a_range_by_two_threads_are_as_the_whole_by_one(encoding, border):
    """The parts meet between two PTE tables, or within one."""
    everything = slice(0, 4096)
    parts = (slice(0, border), slice(border, 4096))
    words = np.random.default_rng(1).integers(0, 64, 4096, dtype=np.uint64)
    whole, split = (em.PageTable(encoding, FIELDS) for _ in range(2))
    with ThreadPoolExecutor(2) as pool:

        def in_parts(call):
            return list(pool.map(call, parts))

        for table in (whole, split):
            table.map(everything)
        whole.store(everything, words)
        in_parts(lambda part: split.store(part, words[part]))
        assert (whole.load(everything) == np.concatenate(in_parts(split.load))).all()
        whole.update(everything, clear=1, set=4)
        in_parts(lambda part: split.update(part, clear=1, set=4))
        for mask in (1, 2):
            found = np.concatenate(in_parts(lambda p, mask=mask: split.scan(p, mask)))
            assert np.array_equal(whole.scan(everything, mask), found)
    assert (whole.load(everything) == split.load(everything)).all()
    split.check()


def test_no_update_is_lost_where_ranges_overlap(encoding):
    """Each thread writes its own field, of the same PTEs and of some apart."""
    table = em.PageTable(encoding, FIELDS)
    everything = slice(0, 2000)
    table.map(everything)

    def body(i):
        rng = np.random.default_rng(i)
        last = np.zeros(2000, np.uint64)

        def run():
            for _ in range(60):
                size = int(rng.integers(1, 1500 if rng.random() < 0.3 else 20))
                first = int(rng.integers(0, 2000 - size))
                new = rng.integers(0, 4, size).astype(np.uint64)
                table.store(slice(first, first + size), **{NAMES[i]: new})
                last[first : first + size] = new
                mine = table.load(everything, NAMES[i])
                assert np.array_equal(mine, last)

        return run

    at_once(*map(body, range(3)))
    table.check()


def test_each_call_is_one_step(encoding):
    """Nobody sees a store that has reached a part of its range, nor half an unmap."""
    table = em.PageTable(encoding, FIELDS)
    # A store takes as long as a thread needs to begin another call.
    size = 20_000
    everything = range(size)
    table.map(everything)
    over = threading.Event()
    # One lock lets nothing overlap, and whoever has it often gets it again. With
    # ThreadSanitizer each turn takes a hundred times as long.
    slow = "tsanned" in os.environ.get("PYTHONPATH", "")
    turns = 10 if slow else 300 if table.encoding.parallel else 30

    def write():
        try:
            for turn in range(turns):
                word = 1 + turn % 60
                table.store(everything, word)
                if word % 10 == 0:
                    table.unmap(slice(0, size))
                    table.map(everything)
                if word % 15 == 0:
                    table.move(slice(0, size), 1 << 16)
                    table.move(slice(1 << 16, (1 << 16) + size), 0)
        finally:
            over.set()

    def read():
        while not over.is_set():
            words = table.load(everything)
            assert words.min() == words.max()
            assert len(table.scan(slice(0, size), 0)) in (0, size)
            time.sleep(0)

    at_once(write, read, read)


def test_who_is_refused_has_done_nothing(encoding):
    table = em.PageTable(encoding, FIELDS)
    table.map(range(1024))
    over = threading.Event()

    def refused():
        # The last vpn is not mapped.
        for _ in range(60):
            with pytest.raises(ValueError, match="0x400 is not mapped"):
                table.store(range(1025), 0b101010)
            with pytest.raises(ValueError, match="mapped already"):
                table.map(range(1300, 1000, -1))
        over.set()

    def look():
        while not over.is_set():
            assert not table.flagged(range(1024)).any()
            assert not table.snapshot(slice(0, 1400))[1].any()
            assert len(table) == 1024

    at_once(refused, look, look)
    table.check()


def test_whole_tables_get_their_turn(encoding):
    """Those who need all of the table aren't kept out by those who need a part."""
    table = em.PageTable(encoding, FIELDS)
    table.map(range(4096))
    over = threading.Event()

    def part(first):
        def run():
            while not over.is_set():
                table.store(slice(first, first + 512), 3)

        return run

    def all_of_it():
        try:
            for _ in range(30):
                child = table.fork()
                assert len(child) == 4096
                table.memory()
        finally:
            over.set()

    at_once(all_of_it, part(0), part(1024), part(1100))


def test_no_write_is_lost_between_two_resets(encoding):
    """As the kernel's selftest of PAGEMAP_SCAN has it: threads write to pages while
    another asks which were written to and resets that, in one call. A page written to
    at any time is found by the reset under way or by the next."""
    table = em.PageTable(encoding, FIELDS)
    nr_pages, nr_threads = 1024, 3
    table.map(range(nr_pages))
    mine = np.array_split(np.arange(nr_pages, dtype=np.uint64), nr_threads)
    turns = 15

    def reset():
        return len(table.scan(slice(0, nr_pages), 1, clear=1))

    for turn in range(turns):
        found = []
        done = threading.Barrier(nr_threads + 1)

        def write(vpns, done=done, turn=turn):
            if turn % 2:
                for vpn in vpns.tolist():
                    table.update(vpn, set=1)
            else:
                table.update(vpns, set=1)
            done.wait()

        def look(found=found, done=done):
            found.append(reset())
            done.wait()
            found.append(reset())

        at_once(look, *(lambda v=v: write(v) for v in mine))
        assert sum(found) >= nr_pages
        assert reset() == 0


def reading(table, vpn):
    return lambda: table.load([vpn]).tolist()[0], lambda word: (word, word)


def seeing(table, vpn):
    return lambda: table.snapshot(vpn)[1], lambda word: (word, word)


def writing(table, vpn, new):
    return lambda: table.store([vpn], new), lambda word: (new, None)


def writing_one(table, vpn, new):
    return lambda: table.store(vpn, new), lambda word: (new, None)


def setting(table, vpn, bits):
    return lambda: table.update([vpn], set=bits), lambda word: (word | bits, None)


def taking(table, vpn, bits):
    def step(word):
        return (word & ~bits, [vpn]) if word & bits == bits else (word, [])

    return lambda: table.scan(slice(vpn, vpn + 1), bits, clear=bits).tolist(), step


KINDS = (reading, seeing, writing, writing_one, setting, taking)


def recorded(table, vpn, rng, nr_operations):
    """Return a body that operates on one PTE, and the history it makes."""
    history = []
    calls = []
    for _ in range(nr_operations):
        kind = KINDS[rng.integers(len(KINDS))]
        bits = (1 << int(rng.integers(6)),) if kind in (setting, taking) else ()
        new = (int(rng.integers(64)),) if kind in (writing, writing_one) else ()
        calls.append(kind(table, vpn, *bits, *new))

    def body():
        for call, step in calls:
            began = time.monotonic_ns()
            result = call()
            history.append(Operation(began, time.monotonic_ns(), step, result))

    return body, history


def test_histories_of_one_word_are_explained(encoding):
    table = em.PageTable(encoding, FIELDS)
    table.map(range(8))
    rng = np.random.default_rng(3)
    overlaps = rounds = 0
    while rounds < 10 or overlaps < 3:
        rounds += 1
        assert rounds < 1000
        table.store(5, 0)
        pairs = [recorded(table, 5, rng, 30) for _ in range(3)]
        at_once(*(body for body, _history in pairs))
        history = [op for _body, ops in pairs for op in ops]
        assert explained(history, 0)
        overlaps += any(
            a.began < b.ended and b.began < a.ended
            for a in pairs[0][1]
            for b in pairs[1][1]
        )


def test_a_history_that_never_was_is_refuted():
    def wrote(began, ended, new):
        return Operation(began, ended, lambda word: (new, None), None)

    def read(began, ended, found):
        return Operation(began, ended, lambda word: (word, word), found)

    assert explained([wrote(0, 9, 1), read(1, 2, 0), read(3, 4, 1)], 0)
    # Once it is seen it stays seen.
    assert not explained([wrote(0, 9, 1), read(1, 2, 1), read(3, 4, 0)], 0)
    # A lost update: both set a bit, one is gone.
    sets = [Operation(0, 9, lambda w, b=b: (w | b, None), None) for b in (1, 2)]
    assert explained([*sets, read(10, 11, 3)], 0)
    assert not explained([*sets, read(10, 11, 2)], 0)
