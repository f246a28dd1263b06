"""Samples that several processes take, and the interval over them."""

import os
import sys

import numpy as np
import pytest

import extmeta as em
from extmeta.cost import machine, measure, sweep, workers
from extmeta.cost.space import space_of, sparse_tables
from extmeta.rows import Cpu, Point, Ram

TELL = "from extmeta.cost.workers import tell, work_given; import os, signal, time;"
FIELDS = em.Fields(age=4)
HALF = Point(0.5, "random")
HASTY = {"rounds": 2, "budget_ns": 1}


def ran(code, work=None, number=0):
    return workers.results(("-c", TELL + code), work, number)


def children():
    """Return the ids of this process's children, also of those that have ended."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {*file.read().split()}


# -- processes ---------------------------------------------------------------------


def test_a_process_gets_its_work_and_tells_results():
    assert list(ran("[tell(n) for n in work_given()]", [1, {"a": 2.5}])) == [
        1,
        {"a": 2.5},
    ]


def test_what_an_encoding_prints_is_no_result():
    print_and_tell = "work_given(); print('loading'); tell(1); print('done')"
    assert list(ran(print_and_tell)) == [1]


def test_each_process_has_an_environment_of_its_own_size():
    paddings = [workers.padding(number) for number in range(32)]
    assert len(set(paddings)) == 32
    assert max(paddings) < workers.PADDING_BYTES
    (told,) = ran("tell(os.environ['EXTMETA_PADDING'])", number=3)
    assert len(told) == workers.padding(3)


def test_addresses_differ_between_processes():
    with open("/proc/sys/kernel/randomize_va_space") as file:
        if file.read().strip() == "0":
            pytest.skip("this kernel does not randomise addresses")
    assert len({next(ran("tell(id(object()))")) for _ in range(3)}) > 1


def test_a_process_that_fails_is_reported_with_its_last_line():
    told = ran("tell(1); raise ValueError('no such thing')", number=2)
    assert next(told) == 1
    with pytest.raises(
        ChildProcessError,
        match=r"^measuring process 3 ended with status 1: ValueError: no such thing$",
    ):
        next(told)
    with pytest.raises(ChildProcessError, match=r"process 1 was killed by SIGKILL$"):
        list(ran("os.kill(os.getpid(), signal.SIGKILL)"))


def test_no_process_is_left_when_its_results_are_not_wanted_any_more():
    before = children()
    told = ran("tell(os.getpid()); time.sleep(600)")
    pid = next(told)
    os.kill(pid, 0)
    told.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert children() <= before


def test_a_process_sees_the_modules_that_this_one_does(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("VALUE = 7")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert list(ran("import only_here; tell(only_here.VALUE)")) == [7]


# -- sweeps ------------------------------------------------------------------------


def of_small_tables(processes, **options):
    space = sparse_tables(2, 20, seed=1)
    given = (space, ["linked", "hash"], FIELDS, [HALF])
    return sweep.sweep(*given, processes=processes, **HASTY, **options)


def test_several_processes_measure_every_ratio_of_one():
    alone, several = list(of_small_tables(1)), list(of_small_tables(3))
    assert [(type(row), getattr(row, "encoding", "")) for row in alone] == [
        (type(row), getattr(row, "encoding", "")) for row in several
    ]
    assert {r.processes for r in several if isinstance(r, Cpu)} == {3}
    assert {r.processes for r in alone if isinstance(r, Cpu)} == {1}
    rams = [[row for row in rows if isinstance(row, Ram)] for rows in (alone, several)]
    assert rams[0] == rams[1]


@pytest.mark.parametrize("arch", [None, "arm64_64k"])
def test_a_capture_is_measured_by_processes_too(arch):
    space = space_of(em.load_capture(em.shipped()["numpy-sparse"]), "sparse", arch)
    rows = list(sweep.sweep(space, ["linked"], FIELDS, [HALF], processes=2, **HASTY))
    assert {row.processes for row in rows if isinstance(row, Cpu)} == {2}


def test_an_interruption_keeps_what_some_processes_have_measured():
    seen = []
    before = children()

    def progress(done, total, what):
        seen.append((done, total))
        if "process 2 of 3" in what:
            raise KeyboardInterrupt

    rows = []
    with pytest.raises(KeyboardInterrupt):
        rows.extend(of_small_tables(3, progress=progress))
    space = sparse_tables(2, 20, seed=1)
    nr_ratios = sweep.Held(space, ["linked", "hash"], FIELDS).nr_ratios(HALF)
    assert sum(isinstance(row, Cpu) for row in rows) == nr_ratios
    assert {row.processes for row in rows if isinstance(row, Cpu)} == {1}
    assert seen[-1] == (nr_ratios, 3 * nr_ratios)
    assert children() <= before


# -- intervals ---------------------------------------------------------------------


def held_of_200(interval, between, processes=8):
    """Return how many of 200 intervals hold 1.3, the median of all processes."""
    rng = np.random.default_rng(5)
    held = 0
    for seed in range(200):
        of_process = rng.normal(0, between, (processes, 1))
        logs = of_process + rng.normal(0, 0.02, (processes, 8))
        _median, low, high = interval(1.3 * np.exp(logs), seed)
        held += low <= 1.3 <= high
    return held


def test_an_interval_over_processes_holds_what_others_would_measure():
    assert held_of_200(measure.interval_of_processes, 0.1) >= 0.9 * 200
    assert held_of_200(measure.interval_of_processes, 0) >= 0.9 * 200
    # Which is what it was made for: rounds of one process don't tell.
    alone = held_of_200(lambda ratios, seed: measure.interval(ratios[0], seed), 0.1)
    assert alone < 0.3 * 200


def test_with_fewer_processes_an_interval_holds_a_little_less_often():
    assert held_of_200(measure.interval_of_processes, 0.1, processes=4) >= 0.85 * 200


def test_an_interval_of_one_process_is_that_of_its_rounds():
    ratios = np.random.default_rng(2).uniform(0.5, 3, 21)
    assert measure.interval_of_processes([ratios], 1) == measure.interval(ratios, 1)


def test_processes_may_have_taken_different_numbers_of_rounds():
    parts = [np.array([1.0, 1.0]), np.array([2.0] * 5), np.array([4.0] * 9)]
    median, low, high = measure.interval_of_processes(parts)
    assert (median, low, high) == pytest.approx((2, 1, 4))


# -- the machine -------------------------------------------------------------------


def test_data_caches_are_found_by_level(tmp_path):
    for number, (level, kind, kib) in enumerate(
        [(1, "Data", 48), (1, "Instruction", 64), (2, "Unified", 2048)]
    ):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", f"{kib}K")):
            (folder / name).write_text(f"{text}\n")
    # A virtual machine may not tell how large a cache is.
    (tmp_path / "index3").mkdir()
    (tmp_path / "index3" / "level").write_text("3\n")
    (tmp_path / "index3" / "type").write_text("Unified\n")
    assert machine.caches(str(tmp_path)) == {"L1": 48 << 10, "L2": 2 << 20}
    assert machine.caches(str(tmp_path / "nowhere")) == {}
