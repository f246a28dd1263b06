"""`extmeta report`: its formats, and what goes wrong."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import extmeta as em
from extmeta import cli
from extmeta.commands import report
from extmeta.cost import measure, sweep, workers
from extmeta.cost.space import sparse_tables
from extmeta.reports import comparison
from extmeta.reports.document import charts, html
from extmeta.rows import Point

pytest.importorskip("matplotlib")

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=8)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Nobody looks at the times."""
    monkeypatch.setattr(measure, "QUICK_ROUNDS", measure.MIN_ROUNDS)
    monkeypatch.setattr(measure, "QUICK_BUDGET_NS", 1)
    monkeypatch.setattr(workers, "QUICK_PROCESSES", 1)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The JSON of a comparison."""
    space = sparse_tables(4, 50, seed=1)
    points = [Point(0.1, "random")]
    rows = [
        *sweep.sweep(
            space, ["linked"], FIELDS, points, rounds=measure.MIN_ROUNDS, budget_ns=0
        )
    ]
    path = tmp_path_factory.mktemp("stored") / "stored.json"
    path.write_text(comparison.to_json(rows, {"seed": 1, "command": ["a"]}))
    return str(path)


def reported(capsys, *arguments):
    """Return the exit status, stdout and stderr of `extmeta report`."""
    status = cli.main(["report", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_a_shipped_capture_makes_a_page(tmp_path, capsys):
    page = tmp_path / "report.html"
    status, out, _err = reported(capsys, "redis", "--encodings", "linked", "-o", page)
    assert (status, out.startswith(f"{page}: "), out.count("\n")) == (0, True, 1)
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    for name in ("crossover", "ram", "map", "cpu-1-random", "bound-100"):
        assert f'id="{name}-title"' in text
    # The digest of the capture, and the command.
    assert em.load_capture(em.shipped()["redis"]).sha256 in text
    assert "extmeta report redis" in text


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("r.html", b"<!DOCTYPE html>"),
        ("r.other", b"<!DOCTYPE html>"),
        ("r.txt", b"What metadata words cost"),
        ("r.md", b"# What metadata words cost"),
        ("r.csv", b"subject,arch,"),
        ("r.json", b"{"),
        ("r.parquet", b"PAR1"),
    ],
)
def test_a_file_s_name_says_its_format(stored, tmp_path, capsys, name, begins):
    if name == "r.parquet":
        pytest.importorskip("pyarrow")
    status, _out, err = reported(capsys, stored, "-o", tmp_path / name)
    assert (status, err) == (0, "")
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(("how", "begins"), [("png", b"\x89PNG"), ("svg", b"<svg")])
def test_each_chart_has_a_file(stored, tmp_path, capsys, how, begins):
    assert reported(capsys, stored, "-o", tmp_path / f"c.{how}")[0] == 0
    names = sorted(os.listdir(tmp_path))
    charts = ["bound-10-random", "cpu-10-random", "in-a-kernel", "map", "ram"]
    assert names == [f"c-{name}.{how}" for name in charts]
    assert all((tmp_path / name).read_bytes().startswith(begins) for name in names)


def test_rows_that_make_no_chart_are_refused_as_a_picture(stored, tmp_path, capsys):
    document = json.loads(Path(stored).read_text())
    document["rows"] = document["rows"][:1]
    path = tmp_path / "subject.json"
    path.write_text(json.dumps(document))
    status, out, err = reported(capsys, path, "-o", tmp_path / "c.svg")
    assert (status, out) == (2, "")
    assert err == "extmeta report: --format svg: the rows make no chart\n"


def test_stdout_gets_text(stored, capsys):
    status, out, err = reported(capsys, stored)
    assert (status, err) == (0, "")
    assert out.startswith("What metadata words cost")


def test_json_comes_from_a_pipe_too(stored, capsys, monkeypatch):
    with open(stored) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        status, piped, _err = reported(capsys, "-")
    assert status == 0
    assert piped == reported(capsys, stored)[1]


def test_a_bad_capture_from_a_pipe_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "bad").write_text("nothing")
    with open(tmp_path / "bad") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        status, _out, err = reported(capsys, "-")
    assert status == 2
    assert err.startswith("extmeta report: -: ")


def test_several_files_make_one_report(stored, tmp_path, capsys):
    other = json.loads(Path(stored).read_text())
    other["provenance"]["command"] = ["b"]
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other))
    _status, out, _err = reported(capsys, stored, path)
    assert "command: a" in out
    assert "command of part 2: b" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["99999999"], "99999999"),
        (["nothing.npz"], "nothing.npz"),
        (["STORED", "-o", "/nowhere/r.html"], "there is no directory /nowhere"),
        (["STORED", "-o", "/"], "/: is a directory"),
        (["STORED", "--format", "svg"], "add -o FILE"),
        (["STORED", "--format", "pdf"], "'pdf'"),
        (["OTHER"], "no JSON that `compare --json` has written"),
        (["BROKEN"], "not JSON"),
        (["BINARY"], "not JSON"),
        (["STORED", "--encodings", "linked"], "--encodings: nothing is measured"),
        (["STORED", "--fields", "age=2"], "--fields: nothing is measured"),
        (["STORED", "--full"], "--full: nothing is measured"),
        (["redis", "--fields", "age=0"], "age"),
        (["redis", "--encodings", "lonked"], "lonked"),
    ],
)
def test_bad_input_is_named(stored, tmp_path, capsys, arguments, says):
    made = {
        "OTHER": b'{"format": "another"}',
        "BROKEN": b'{"format":',
        "BINARY": b"{\xff",
    }
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    named = {"STORED": stored, **{name: tmp_path / name for name in made}}
    status, out, err = reported(capsys, *(named.get(a, a) for a in arguments))
    assert (status, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("how", "package", "extra"),
    [("html", "matplotlib", "report"), ("parquet", "pyarrow", "parquet")],
)
def test_a_package_that_is_missing_is_named(
    stored, tmp_path, capsys, monkeypatch, how, package, extra
):
    monkeypatch.setattr(
        report,
        "find_spec",
        lambda name: None if name == package else importlib.util.find_spec(name),
    )
    status, _out, err = reported(capsys, stored, "-o", tmp_path / f"r.{how}")
    assert status == 2
    assert f"needs {package}: pip install 'extmeta[{extra}]'" in err
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told(stored, capsys):
    status, _out, err = reported(capsys, stored, "--format", "html", "-o", "/dev/full")
    assert status == 1
    assert err == "extmeta report: /dev/full: No space left on device\n"


@pytest.mark.parametrize(
    "at", [sweep, html, charts], ids=lambda module: module.__name__
)
def test_ctrl_c_leaves_no_file(stored, tmp_path, capsys, monkeypatch, at):
    def interrupted(*_given, **_named):
        raise KeyboardInterrupt

    name = {sweep: "sweep", html: "page", charts: "svg"}[at]
    monkeypatch.setattr(at, name, interrupted)
    page = tmp_path / "r.html"
    page.write_text("before")
    what = "redis" if at is sweep else stored
    status, out, err = reported(capsys, what, "-o", page)
    assert (status, out) == (130, "")
    assert err == "extmeta report: interrupted; nothing is written\n"
    assert page.read_text() == "before"
    assert os.listdir(tmp_path) == ["r.html"]


def test_a_running_process_is_reported(tmp_path, capsys):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(["cat"], **pipes) as process:
        process.stdin.write(b"x\n")
        process.stdin.flush()
        process.stdout.readline()
        page = tmp_path / "r.html"
        given = [process.pid, "--encodings", "linked", "-o", page]
        assert reported(capsys, *given)[0] == 0
        process.kill()
    assert f"process {process.pid}, cat" in page.read_text()


def test_nothing_else_imports_matplotlib():
    code = "import extmeta, extmeta.cli, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
