"""When a goal is met, and on which machines: benchmarks/measures.py and scale.py."""

import importlib
import json
from pathlib import Path

import pytest

from extmeta.checks import CheckError
from extmeta.cost.measure import Paired, verify

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    if not BENCHMARKS.is_dir():
        pytest.skip("needs benchmarks/")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def found(ratio, low, high):
    return Paired(ratio, low, high, 1.0, 8, 1)


def test_a_goal_is_met_by_the_whole_interval_only(module):
    measures = module("measures")
    assert measures.at_most("M", "x", 1.05, found(1.0, 0.9, 1.04)).met
    assert not measures.at_most("M", "x", 1.05, found(1.0, 0.9, 1.06)).met
    assert measures.faster("M", "x", 5, found(0.1, 0.05, 0.19)).met
    assert not measures.faster("M", "x", 5, found(0.1, 0.05, 0.21)).met


def test_several_processes_measure_what_one_would(module):
    measures = module("measures")
    lines = list(measures.Bench(8, quick=True).lines("noise", 2))
    assert [line.what for line in lines] == [
        f"{name}: inpte over inpte" for name in measures.tasks.OPERATIONS
    ]


def test_a_snapshot_reads_no_ptes_that_load_has_just_read(module):
    measures = module("measures")
    filled = measures.Bench(8, quick=True).filled(
        "linked", measures.WORD, measures.ALL, "different"
    )
    load, seen = measures.of_random(filled)
    turns = [task.ready() for task in (load, seen, seen, load) * 3]
    assert len({vpns.tobytes() for vpns, _words in turns}) == len(turns)


@pytest.mark.parametrize("tasks", ["of_all", "of_random"])
def test_a_wrong_word_is_found(module, tasks):
    measures = module("measures")
    filled = measures.Bench(8, quick=True).filled(
        "adaptive", measures.WORD, measures.ALL, "different"
    )
    for task in getattr(measures, tasks)(filled):
        verify(task)
    filled.table.store(filled.load.space.range, 7)
    for task in getattr(measures, tasks)(filled):
        with pytest.raises(CheckError, match="words differ"):
            verify(task)


def stored(tmp_path, name, **met):
    line = {"what": "a fork", "goal": "<= 1 x", "measured": "0.9 [0.8, 1.0]"}
    machine = {"cpu": name, "cpus": 2, "kernel": "6", "commit": "", "caches": {}}
    lines = [
        {"tables": int(tables[1:]), **line, "met": value}
        for tables, value in met.items()
    ]
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, "processes": 8, "lines": lines}))
    return path


def test_claims_that_fail_on_a_machine_are_named_with_their_sizes(
    module, tmp_path, capsys
):
    scale = module("scale")
    paths = [stored(tmp_path, "a", t64=True), stored(tmp_path, "b", t64=True)]
    assert scale.machines(paths) == 0
    assert "| a fork | <= 1 x | all |" in capsys.readouterr().out
    paths.append(stored(tmp_path, "c", t64=False, t256=True, t1024=False))
    assert scale.machines(paths) == 1
    out = capsys.readouterr().out
    assert "| a fork | <= 1 x | not on c: 64, 1,024 tables |" in out


@pytest.mark.parametrize("text", ["{", "[]", '{"machine": {}, "lines": []}'])
def test_a_damaged_file_is_named(module, tmp_path, text):
    path = tmp_path / "damaged.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"damaged\.json: not what"):
        module("scale").machines([path])


def test_a_size_is_marked_with_the_cache_that_holds_it(module):
    scale = module("scale")
    caches = {"L1": 32 << 10, "L2": 1 << 20}
    assert scale.fitting_cache(1 << 20, caches) == "L2"
    assert scale.fitting_cache(2 << 20, caches) == "memory"
    assert scale.slug("Intel(R) Xeon(R) CPU @ 2.6") == "intel-xeon-cpu-2-6"
