"""Whatever Python runs while a page table is in use may use the page table too."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import extmeta as em

# A hang is a failure, not a wait.
SECONDS = 120


def test_hooks_in_every_method_use_the_table():
    child = Path(__file__).with_name("reentry.py")
    command = [sys.executable, str(child)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-3000:]
    assert done.stdout.endswith("done\n")


class UsesItsTable(em.PythonEncoding):
    """Calls the page table from a method, which no encoding may do."""

    table = None

    def load(self, vpns):
        type(self).table.memory()
        return vpns * 0

    def store(self, vpns, words):
        pass

    def side_bytes(self):
        return 0


def test_an_encoding_in_python_is_refused_its_own_table():
    table = em.PageTable(UsesItsTable())
    table.map(5)
    table.store(5, 1)
    UsesItsTable.table = table
    with pytest.raises(RuntimeError, match=r"UsesItsTable\(\) is at work on this page"):
        table.load(5)
    table.map(6)
    assert len(table) == 2


@pytest.fixture
def busy():
    """Tables that threads are at work on all the time, and one that rests."""
    tables = {name: em.PageTable(name) for name in ("linked", "adaptive", "page_ext")}
    tables["rests"] = em.PageTable()
    for table in tables.values():
        table.map(range(4096))
        table.store(range(4096), 7)
    order = np.random.default_rng(0).permutation(4096)
    stop = threading.Event()
    started = threading.Barrier(7)

    def work(name, number):
        started.wait()
        table = tables[name]
        vpns = order[number::2]
        while not stop.is_set():
            table.snapshot(order)
            table.store(vpns, 7)
            table.scan(slice(0, 4096), 7)
            table.fork()

    threads = [
        threading.Thread(target=work, args=(name, number), daemon=True)
        for name in ("linked", "adaptive", "page_ext")
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    started.wait()
    yield tables
    stop.set()
    for thread in threads:
        thread.join()


def use(tables):
    """Use every table in a child; what is there must be what the threads keep."""
    for table in tables.values():
        assert (table.load(range(4096)) == 7).all()
        table.store(range(512), 9)
        table.unmap(slice(512, 1024))
        table.map(range(512, 1024))
        assert table.fork().scan(slice(0, 4096), 15, 9).size == 512
        assert table.snapshot(5)[1] == 9
        table.check()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_beside_threads_leaves_usable_tables(busy):
    for _ in range(15):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                use(busy)
                status = 0
            finally:
                os._exit(status)
        gone = threading.Timer(SECONDS, os.kill, (child, 9))
        gone.start()
        assert os.waitpid(child, 0)[1] == 0
        gone.cancel()
        assert (busy["rests"].load(range(4096)) == 7).all()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_multiprocessing_by_fork(busy):
    process = multiprocessing.get_context("fork").Process(target=use, args=(busy,))
    process.start()
    process.join(SECONDS)
    assert process.exitcode == 0
