"""What is installed: a wheel with all that a user and a cimporter need."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import extmeta as em

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

# C that is compiled where the package is used.
BY_HAND = [f"extmeta/cost/kernel/{name}.c" for name in ("timing", "init", "guest")]


def run(*command, cwd=None, path=""):
    # Only what is installed, and ``path``: not the tree that these tests are of.
    # Nor are they a worker's, where this test runs in one.
    ours = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    # Compiled in a third of the time.
    env = {**ours, "PYTHONPATH": str(path), "CFLAGS": "-O0"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """An sdist of this tree, and a wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    # What is checked out, and no product of an earlier build.
    tracked = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).split("\n")
    tree = folder / "tree"
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    run(*build, tree)
    return folder


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """A virtual environment with the wheel in it; its python."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(
        sysconfig.get_path(
            "purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}
        )
    )
    # The tools and libraries of this environment, but not its extmeta, which an
    # editable install puts on the path by a .pth file that a link does not bring.
    (site / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return folder / "bin" / "python"


def test_wheel_holds_what_users_need(dist):
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "extmeta/py.typed",
        "extmeta/__init__.pxd",
        "extmeta/encoding.pxd",
        "extmeta/pagetable.pxd",
        "extmeta/pagetable.pyi",
        "extmeta/encodings/side.pxd",
        "extmeta/encodings/linked.pyi",
        "extmeta/data/numpy-sparse.npz",
        "extmeta/data/guest.json",
        "pytest_extmeta.py",
        *BY_HAND,
    ):
        assert name in names
    assert {name for name in names if name.endswith((".c", ".pyc"))} == set(BY_HAND)
    compiled = [name for name in names if name.endswith(".so")]
    sources = [
        str(p.relative_to(ROOT / "src"))[:-4] for p in (ROOT / "src").rglob("*.pyx")
    ]
    assert {name.split(".")[0] for name in compiled} == set(sources)


def test_sdist_builds_and_holds_the_sources(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert any(name.endswith("src/extmeta/pagetable.pyx") for name in names)
    assert any(name.endswith("/LICENSE") for name in names)
    # The C there is was written by hand.
    ours = ("/tests/", "/kernel/")
    made = [n for n in names if n.endswith((".so", ".c"))]
    assert not [n for n in made if not any(part in n for part in ours)]


def test_no_instructions_of_the_building_machine_only(dist):
    assert "march=native" not in (ROOT / "setup.py").read_text()


def test_installed_package_works(installed, tmp_path):
    code = (
        "import extmeta as em; t = em.PageTable(); t.map(5); t.store(5, 7);"
        "print(em.__file__, t.load(5), len(em.load_capture(em.shipped()"
        "['numpy-sparse']).build()))"
    )
    path, word, ptes = run(installed, "-c", code, cwd=tmp_path).split()
    assert Path(path).is_relative_to(installed.parents[1])
    assert word == "7"
    assert int(ptes) > 10_000


def test_pip_installs_the_wheel_alone_and_the_tutorial_runs(dist, tmp_path):
    (wheel,) = dist.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    try:
        run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    except AssertionError as error:
        if "No matching distribution" in str(error):
            pytest.skip("numpy and rich can't be downloaded")
        raise
    out = run(python, ROOT / "examples" / "tutorial.py", cwd=tmp_path)
    assert [line.split(":")[0] for line in out.splitlines()] == ["linked", "adaptive"]
    script = python.with_name("extmeta")
    assert run(script, "--version", cwd=tmp_path) == f"extmeta {em.__version__}\n"


def test_an_installed_plugin_is_found_by_pytest(installed, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "def test_it(paired):\n    assert paired(list, list, rounds=5).pairs == 10\n"
    )
    out = run(installed, "-m", "pytest", "-p", "no:cacheprovider", cwd=tmp_path)
    assert "paired: each against its baseline" in out


def test_the_version_has_one_place():
    """`extmeta.__version__`, which setuptools reads, and the changelog's first heading."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "extmeta.__version__"
    }
    _, first, *_ = (ROOT / "CHANGELOG.md").read_text().split("\n## ")
    assert first.split()[0] == em.__version__
    assert "\nversion:" not in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def consumer(installed, tmp_path_factory):
    """A stranger's package, compiled against the installed wheel."""
    folder = tmp_path_factory.mktemp("consumer")
    for source in (ROOT / "tests" / "consumer").iterdir():
        if source.is_file():
            (folder / source.name).write_bytes(source.read_bytes())
    run(installed, "setup.py", "-q", "build_ext", "--inplace", cwd=folder)
    return lambda code: run(installed, "-c", code, cwd=folder)


def test_a_stranger_can_cimport(consumer):
    out = consumer(
        "import consumer, extmeta as em; t = em.PageTable(); t.map(5);"
        "print(consumer.store(t, 5, 77), consumer.word(t, 5), t.load(5),"
        "consumer.store(t, 6, 1), consumer.word(t, 6))"
    )
    assert out.split() == ["0", "77", "77", "-1", "0"]


def test_frames_never_overlap_and_join_again(consumer):
    out = consumer("import probe; print(*(probe.frames(s, 2000) for s in range(8)))")
    assert all(512 <= int(pages) <= 8192 for pages in out.split())
    # Fragments: 256 and 16 to a page.
    for page, frame in ((65536, 256), (65536, 4096)):
        out = consumer(
            "import probe;"
            f"print(*(probe.frames(s, 2000, {page}, {frame}) for s in range(4)))"
        )
        assert all(512 <= int(frames) <= 8192 for frames in out.split())


def test_slabs_never_overlap_and_waste_a_quarter_at_most(consumer):
    out = consumer("import probe; [print(*probe.slabs(s, 3000)) for s in range(8)]")
    for line in out.splitlines():
        asked, used = map(int, line.split())
        assert asked <= used <= 1.34 * asked


@pytest.fixture(scope="module")
def extended(installed, tmp_path_factory):
    """Run commands where the example package is installed beside extmeta."""
    folder = tmp_path_factory.mktemp("extmeta-runs")
    source, target = folder / "source", folder / "target"
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "examples" / "extmeta-runs", source, ignore=ignored)
    run(installed, "-m", "build", "--no-isolation", "--outdir", folder, source)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return lambda *command, cwd=source: run(installed, *command, cwd=cwd, path=target)


def test_the_example_passes_the_suite(extended):
    out = extended("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert int(out.split(" passed")[0].split()[-1]) >= 60


def test_the_example_is_in_every_list(extended):
    out = extended("-c", "import extmeta as em; print(*em.encodings())")
    assert out.split()[-2:] == ["flagless", "runs"]
    quick = ("--quick", "--fractions", "0.01", "--fields", "age=4")
    # All encodings there are: nobody names it.
    report = extended("-m", "extmeta", "compare", *quick, "numpy-sparse")
    for name in ("flagless", "runs"):
        assert any(line.split()[:1] == [name] for line in report.splitlines())
    collect = ("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")
    for tests, at_least in (
        ("benchmarks", 10),
        ("tests/encodings/test_conformance.py", 10),
    ):
        collected = extended(*collect, tests, cwd=ROOT).splitlines()
        for name in ("flagless", "runs"):
            assert sum(f"{name}-" in line for line in collected) >= at_least
