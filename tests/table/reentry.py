"""Run every method of a page table while hooks use it; python tests/table/reentry.py.

A hook that finds a lock held would wait for ever, since its own thread holds it.
tests/table/test_reentry.py runs this in a process that it can kill.
"""

import contextlib
import copy
import gc
import pickle
import signal
import sys

import numpy as np

import extmeta as em

# Two methods that need all of the page table, and two that need a part of it.
USES = (
    lambda t: t.memory(),
    lambda t: t.load(5),
    lambda t: t.scan(slice(0, 64), 0),
    lambda t: t.update(range(8), clear=1),
)
FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=1)
MANY = np.arange(2000, dtype=np.uint64)


class Hook:
    """Uses a page table whenever it is called, but for by itself."""

    def __init__(self, table):
        self.table = table
        self.nr_calls = 0
        self.busy = False

    def __call__(self, *_arguments):
        if not self.busy:
            self.busy = True
            try:
                USES[self.nr_calls % len(USES)](self.table)
            finally:
                self.busy = False
            self.nr_calls += 1
        return self


class Dies:
    """Garbage that uses a page table when it is collected."""

    def __init__(self, hook):
        self.hook = hook
        self.me = self

    def __del__(self):
        self.hook()


@contextlib.contextmanager
def profiled(hook):
    sys.setprofile(hook)
    yield
    sys.setprofile(None)


@contextlib.contextmanager
def traced(hook):
    sys.settrace(hook)
    yield
    sys.settrace(None)


@contextlib.contextmanager
def collected(hook):
    before = gc.get_threshold()
    gc.callbacks.append(hook)
    gc.set_threshold(1)
    Dies(hook)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(hook)
    gc.collect()


@contextlib.contextmanager
def signalled(hook):
    before = signal.signal(signal.SIGALRM, hook)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def refused(call):
    try:
        call()
    except (ValueError, MemoryError):
        return
    raise AssertionError("not refused")


def swap(t):
    t.swap_out(MANY, MANY + 1)
    refused(lambda: t.swap_out(MANY, MANY + 1))
    t.swap_in(MANY, MANY + 1)
    refused(lambda: t.swap_in(MANY, MANY + 1))


def map_(t):
    t.map(range(8192, 8200))
    refused(lambda: t.map(range(8190, 8200)))
    t.unmap(slice(8192, 8200))


def huge(t):
    size = t.huge_ptes()
    t.map_huge(16 * size)
    refused(lambda: t.map_huge(16 * size))
    refused(lambda: t.map(16 * size + 3))
    refused(lambda: t.move(slice(16 * size, 16 * size + 5), 0))
    refused(lambda: t.unmap(16 * size + 3))
    refused(lambda: t.split_huge(1))
    t.split_huge(16 * size)
    t.unmap(slice(16 * size, 16 * size + size))


def move(t):
    t.move(slice(0, 2000), 4096)
    refused(lambda: t.move(slice(4096, 7096), 4090))
    t.map(0)
    refused(lambda: t.move(slice(4096, 6096), 0))
    t.unmap(0)
    t.move(slice(4096, 6096), 0)


def reserve(t):
    with contextlib.suppress(ValueError):  # those that can't tell what they need
        t.reserve(2)
        t.reserve(0)
    refused(lambda: t.reserve(-1))


def store(t):
    t.store(MANY, 1)
    refused(lambda: t.store([5, 5000], 1))
    t.store(5, age=1)


def seen(t):
    ptes, words = t.snapshot(MANY)
    t.unchanged(MANY, ptes, words)
    t.snapshot(5)


CALLS = {
    "check": lambda t: t.check(),
    "copy": lambda t: (t.copy(), copy.copy(t), copy.deepcopy(t)),
    "flagged": lambda t: (t.flagged(MANY), t.flagged(5)),
    "fork": lambda t: t.fork().fork(),
    "frames_view": lambda t: t.frames_view(),
    "huge_ptes": lambda t: t.huge_ptes(),
    "leaves": lambda t: t.leaves(),
    "load": lambda t: (t.load(MANY), t.load(5), t.load(MANY, "age")),
    "map": map_,
    "map_huge": huge,
    "memory": lambda t: t.memory(),
    "move": move,
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "reserve": reserve,
    "reserved": lambda t: t.reserved,
    "scan": lambda t: (t.scan(slice(0, 4096), 1), t.scan(slice(0, 4096), 1, clear=1)),
    "scan_runs": lambda t: t.scan_runs(slice(0, 4096), 1),
    "scan_since": lambda t: t.scan_since(slice(0, 4096), next(iter(t.fields)), 1),
    "snapshot": seen,
    "split_huge": huge,
    "store": store,
    "swap_in": swap,
    "swap_out": swap,
    "table_at": lambda t: t.table_at(0),
    "table_vpns": lambda t: t.table_vpns(),
    "trim": lambda t: t.trim(),
    "tables": lambda t: [view.sum() for view in t.tables.values()],
    "unchanged": seen,
    "unmap": map_,
    "update": lambda t: t.update(slice(0, 4096), set=1),
    "vpns": lambda t: (t.vpns(), t[5], 5 in t, list(t)),
}
# They take no lock themselves and change nothing; plot() only calls the others.
EDGE = {"arch", "encoding", "fields", "plot"}


# They may not come while so little runs. Without the GIL that goes for the collector too.
SELDOM = {signalled}
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    SELDOM.add(collected)


def main():
    public = {name for name in dir(em.PageTable) if not name.startswith("_")}
    assert public | {"pickle"} == set(CALLS) | EDGE, public ^ (set(CALLS) | EDGE)
    for encoding in em.encodings():
        # A swap entry of page_ext has no place for a word.
        word = 0 if encoding == "page_ext" else 1
        for hooked in (profiled, traced, collected, signalled):
            table = em.PageTable(encoding, FIELDS)
            table.map(MANY)
            hook = Hook(table)
            hook.busy = True
            with hooked(hook):
                for name, call in CALLS.items():
                    print(encoding, hooked.__name__, name, flush=True)
                    if name in ("swap_out", "swap_in"):
                        table.update(MANY, clear=7, set=word)
                    hook.busy = False
                    with contextlib.suppress(ValueError):
                        call(table)
                    hook.busy = True
            assert hook.nr_calls or hooked in SELDOM, (encoding, hooked)
            table.check()
    print("done")


if __name__ == "__main__":
    main()
