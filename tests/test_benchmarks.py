"""The scripts of benchmarks/ are listed, and refuse what they can't use."""

import importlib
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs benchmarks/")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Have scripts import each other: tests/ has modules of the same names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = [path.stem for path in BENCHMARKS.glob("*.py")]
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(others)


def test_each_is_listed():
    listed = (BENCHMARKS / "README.md").read_text()
    for path in BENCHMARKS.glob("*.py"):
        assert f"`{path.name}`" in listed or f"| {path.stem} |" in listed, path.name


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("busy --loops -1", "'-1' is no number from 0 on"),
        ("busy --loops 0 -- nothing", "nothing: No such file or directory"),
        ("locking nothing", "no encoding named 'nothing'"),
        ("locking --rounds 0", "'0' is not above 0"),
        ("machine --captures nothing", "nothing: No such file or directory"),
        ("machine --processes 0", "'0' is not above 0"),
        ("make_captures --folder nowhere", "nowhere: no such folder"),
        ("measures --processes 0", "'0' is not above 0"),
        ("measures nothing", "no measure named 'nothing'"),
        ("processes --tables 0", "'0' is not above 0"),
        ("collector 0", "'0' is not above 0"),
        ("epochs --captures nothing", "nothing: No such file or directory"),
        ("epochs --pages 0", "'0' is not above 0"),
        ("estimates --captures nothing", "nothing: No such file or directory"),
        ("estimates --encodings nothing", "no encoding named 'nothing'"),
        ("fleet --captures 0", "'0' is not above 0"),
        ("fleet --workers 0", "'0' is not above 0"),
        ("tlb nothing", "'nothing'"),
        ("runs /", "/: of no known format"),
        ("scale --encodings linked,nothing", "no encoding named 'nothing'"),
        ("scale --gib nan", "'nan' is not in"),
        ("scale --gib 0", "'0' is not in"),
        ("scale --gib much", "'much' is no number"),
        ("scale --seed -1", "'-1' is no number from 0 on"),
        ("scale --headlines --processes 0", "'0' is not above 0"),
        ("scale --headlines --tables 0", "'0' is not above 0"),
        ("snapshots nothing", "no encoding named 'nothing'"),
        ("snapshots --snapshots nan", "'nan' is no number from 0 on"),
        ("threads nothing", "no encoding named 'nothing'"),
        ("threads --rounds 1", "--rounds 1: quartiles need 2 rounds"),
        ("tunables COPIED -5", "'-5' is no number from 0 on"),
        ("tunables COPIED --rounds 0", "'0' is not above 0"),
        ("under_lock nothing", "no encoding named 'nothing'"),
    ],
)
def test_what_a_script_cannot_use_is_named(command, why, monkeypatch, capfd):
    script, *arguments = command.split()
    monkeypatch.setattr("sys.argv", [f"{script}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert why in capfd.readouterr().err


def no_user():
    shutil.chown(BENCHMARKS, "nobody-has-this-name")


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        (lambda: subprocess.run(["false"], check=True), "CalledProcessError: Command"),
        (lambda: subprocess.run(["no-program"], check=True), "FileNotFoundError: "),
        (lambda: max(()), "ValueError: "),
        (no_user, "LookupError: no such user"),
    ],
)
def test_a_program_that_cannot_run_is_left_out(
    failing, why, monkeypatch, capsys, tmp_path
):
    make_captures = importlib.import_module("make_captures")
    program = make_captures.PROGRAMS["node"]._replace(version=failing)
    monkeypatch.setattr(make_captures, "PROGRAMS", {"node": program})
    monkeypatch.setattr("sys.argv", ["make_captures.py", "--folder", str(tmp_path)])
    make_captures.main()
    assert f"node is left out: {why}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
