"""Results are checked, whatever Python's options; the benchmarks say what they need."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import extmeta as em
from extmeta import cli
from extmeta.checks import CheckError, must, same
from extmeta.commands import arguments

ROOT = Path(__file__).parents[2]
SECONDS = 120
QUICK = ("--quick", "--encodings", "inpte,linked", "--fractions", "1")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A capture of 300 entries."""
    whole = em.load_capture(em.shipped()["redis"])
    part = dataclasses.replace(
        whole,
        vpn=whole.vpn[:300],
        entry=whole.entry[:300],
        huge_vpn=np.zeros(0, np.uint64),
    )
    path = tmp_path_factory.mktemp("small") / "small.npz"
    part.save(path)
    return str(path)


def test_nothing_is_checked_by_assert():
    """python -O leaves assert statements out."""
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), path
    for path in (ROOT / "src").rglob("*.pyx"):
        assert "\n        assert " not in path.read_text(), path


def test_checks_say_what_is_wrong():
    must(True, "nothing")
    same([1], [1])
    with pytest.raises(CheckError, match="no child"):
        must(False, "no child")
    with pytest.raises(CheckError, match="3 is not 4"):
        same(3, 4)


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        (np.arange(3), np.array([0, 5, 7]), "2 of 3 differ, at 1: 1 is not 5"),
        ([1 << 80], [1 << 80 | 1], "1 of 1 differ, at 0: 12"),
        ((1, 2), (1, 2, 3), "2 values are not 3"),
        ([1], (1,), "list is not tuple"),
        (np.zeros(0), np.zeros(1), "0 values are not 1"),
        (
            np.zeros((2, 2)),
            np.ones((2, 2)),
            "2 of 2 differ, at 0: [0.0, 0.0] is not [1",
        ),
        ({1: 2}, {}, "{1: 2} is not {}"),
    ],
)
def test_what_differs_is_named(found, wanted, said):
    with pytest.raises(CheckError) as error:
        same(found, wanted, "words")
    assert str(error.value).startswith(f"words: {said}")
    same(found, found)


LOSES = """
import sys, extmeta as em
class Loses(em.PythonEncoding):
    def __init__(self): self.words = {}
    def load(self, vpns): return [self.words.get(v, 0) for v in vpns.tolist()]
    def store(self, vpns, words):
        for v, w in zip(vpns.tolist(), words.tolist()): self.words[v] = w & ~4
    def side_bytes(self): return 8 * len(self.words)
em.register("loses", Loses)
from extmeta.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("options", [[], ["-O"]], ids=str)
def test_an_encoding_that_loses_bits_is_told(small, options):
    fields = ("--fields", "a=1,b=2")
    command = ("compare", *QUICK, "--encodings", "loses", *fields, small)
    done = subprocess.run(
        [sys.executable, *options, "-c", LOSES, *command],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    told = " ".join(done.stdout.split())
    assert "words differ from what was stored" in told, done.stderr


def test_from_an_interrupted_file_says_so(small, tmp_path, capsys):
    path, again = tmp_path / "q.json", tmp_path / "again.json"
    assert cli.main(["compare", *QUICK, small, "--json", str(path)]) == 0
    assert not capsys.readouterr().out.startswith("INCOMPLETE")
    document = json.loads(path.read_text())
    document["complete"] = False
    del document["rows"][-1]
    path.write_text(json.dumps(document))
    assert cli.main(["compare", "--from", str(path), "--json", str(again)]) == 0
    assert capsys.readouterr().out.startswith("INCOMPLETE: ")
    assert json.loads(again.read_text())["complete"] is False


def test_fields_are_spelled_alike_everywhere():
    assert arguments.fields_of("age=8,dirty") == arguments.fields_of("age:8,dirty:1")
    assert arguments.fields_of("age=8,dirty") == em.Fields(age=8, dirty=1)
    assert arguments.field_of("age=8") == arguments.field_of("age:8") == ("age", 8)


def test_what_is_measured_elsewhere_is_left_out_in_part(capsys):
    """An encoding that allocates where it said that it would not has its rows."""

    class Asks(em.PythonEncoding):
        """Keeps nothing, and never has memory for a word."""

        def load(self, vpns):
            return vpns * 0

        def store(self, vpns, words):
            pass

        def side_bytes(self):
            return 0

        def prepare(self, vpns, words):
            raise MemoryError

    from extmeta.cost.demands import demanded
    from extmeta.encodings import _factories

    em.register("asks", Asks)
    try:
        rows = list(demanded(["asks"], em.Fields(a=2), "x86_64"))
    finally:
        del _factories["asks"]
    refused = [row for row in rows if getattr(row, "encoding", "") == "asks"][-1]
    assert refused.where == "what operations ask of a kernel"
    assert "memory" in refused.why


def test_the_version():
    assert em.__version__ == "0.1.0"


@pytest.mark.slow
def test_benchmarks_write_their_parameters(tmp_path):
    path = tmp_path / "b.json"
    chosen = ("benchmarks/bench_scan.py", "--quick", "-k", "linked", "--space", "8")
    written = (f"--benchmark-json={path}", f"--benchmark-histogram={tmp_path}/h")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen, *written],
        # Not those of a worker that this test runs in.
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())["benchmarks"]
    assert {b["params"]["point"] for b in found} >= {"1%-random", "100%"}
    assert list(tmp_path.glob("h*.svg"))


@pytest.mark.slow
def test_loops_and_lives_are_benchmarks_too():
    """They were called without the fixture that compares."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *("benchmarks/bench_loops.py", "--quick", "--space", "8"),
            *("-k", "linked and (update or lives and tables)"),
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "update loop" in done.stdout
    assert "fork, write" in done.stdout


def test_benchmarks_are_not_run_side_by_side():
    bench = [sys.executable, "-m", "pytest", "-q", "-n", "2", "benchmarks"]
    done = subprocess.run(
        bench, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS, check=False
    )
    assert "benchmarks are timed one at a time" in done.stdout + done.stderr
    assert done.returncode == 4
