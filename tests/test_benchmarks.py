"""The scripts of benchmarks/ are listed, and refuse what they can't use."""

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs benchmarks/")


def test_each_is_listed():
    listed = (BENCHMARKS / "README.md").read_text()
    for path in BENCHMARKS.glob("*.py"):
        assert f"`{path.name}`" in listed or f"| {path.stem} |" in listed, path.name


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("machine --captures nothing", "nothing: No such file or directory"),
        ("machine --processes 0", "'0' is not above 0"),
        ("measures --processes 0", "'0' is not above 0"),
        ("measures nothing", "no measure named 'nothing'"),
        ("processes --tables 0", "'0' is not above 0"),
        ("runs /", "/: Is a directory"),
        ("scale --encodings linked,nothing", "no encoding named 'nothing'"),
        ("scale --gib nan", "'nan' is not in"),
        ("scale --gib 0", "'0' is not in"),
        ("scale --gib much", "'much' is no number"),
        ("scale --seed -1", "'-1' is no number from 0 on"),
        ("scale --headlines --processes 0", "'0' is not above 0"),
        ("scale --headlines --tables 0", "'0' is not above 0"),
        ("threads nothing", "no encoding named 'nothing'"),
        ("threads --rounds 1", "--rounds 1: quartiles need 2 rounds"),
        ("tunables COPIED -5", "'-5' is no number from 0 on"),
        ("tunables COPIED --rounds 0", "'0' is not above 0"),
        ("under_lock nothing", "no encoding named 'nothing'"),
    ],
)
def test_what_a_script_cannot_use_is_named(command, why, monkeypatch, capsys):
    script, *arguments = command.split()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr("sys.argv", [f"{script}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert why in capsys.readouterr().err
