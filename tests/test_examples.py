"""The examples run, and print what their sentences say."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import extmeta as em
from extmeta.captures.trackers import TraceError, WpAsync, has_soft_dirty

EXAMPLES = Path(__file__).parents[1] / "examples"
MAX_LINES = 60


def run(*command, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(line):
    return [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]*", line)]


def can_track():
    """Tell whether this kernel and user can ask which pages a child has written."""
    if has_soft_dirty():
        return True
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        WpAsync(child.pid).close()
    except (OSError, TraceError, RuntimeError):
        return False
    finally:
        child.communicate(b"\n")
    return True


def test_each_is_short():
    for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("cimport/*")]:
        if path.is_file():
            assert len(path.read_text().splitlines()) <= MAX_LINES, path.name


def test_each_is_listed():
    listed = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("[!._]*"):
        assert f"`{path.name}" in listed or path.name == "README.md"


def test_inspect_tables(tmp_path):
    out = run(EXAMPLES / "inspect_tables.py", cwd=tmp_path).splitlines()
    capture = em.load_capture("redis")
    filled = capture.occupancy()
    assert numbers(out[0])[0] == filled.nonzero()[0].max()
    assert numbers(out[2])[-2:] == [0, 10]
    assert sum(numbers(line)[0] for line in out[3:]) == filled.sum()


def test_tiering_ages(tmp_path):
    cold, hot, taken = run(EXAMPLES / "tiering_ages.py", cwd=tmp_path).splitlines()
    _intervals, found, pages = numbers(cold)
    assert pages == len(em.load_capture("redis").vpn)
    # Nine tenths are cold but for those accessed in the last 15 intervals.
    assert 0.85 * pages < found < 0.9 * pages
    assert numbers(hot)[0] <= numbers(hot)[1] / 1000
    assert 0 < numbers(taken)[0] < numbers(taken)[1]


def test_plan_arm64(tmp_path):
    out = run(EXAMPLES / "plan_arm64.py", cwd=tmp_path).splitlines()
    assert "too few" in out[0]
    assert "they fit" in out[1]
    assert "too few" in out[3]


def test_dirty_pages(tmp_path):
    if not can_track():
        pytest.skip("this machine does not tell which pages a child has written")
    out = run(EXAMPLES / "dirty_pages.py", cwd=tmp_path).splitlines()
    assert [numbers(line)[0] for line in out[:5]] == [400, 100, 25, 25, 25]
    assert numbers(out[5])[1] == 400


def test_cimport(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    folder = shutil.copytree(EXAMPLES / "cimport", tmp_path / "cimport")
    run("setup.py", "-q", "build_ext", "--inplace", cwd=folder)
    out = run("main.py", cwd=folder).splitlines()
    assert [numbers(line) for line in out] == [[10_000, age] for age in range(10)]


def test_the_notebook_is_stored_without_outputs():
    notebook = json.loads((EXAMPLES / "compare.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("pandas")
    notebook = nbformat.read(EXAMPLES / "compare.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    shown = [
        {kind for output in cell.outputs for kind in output.get("data", ())}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    html, picture = "text/html", "image/png"
    wanted = [html, picture, html, html, picture]
    assert all(kind in kinds for kind, kinds in zip(wanted, shown, strict=True)), shown
