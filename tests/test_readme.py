"""What the documents show is what happens."""

import contextlib
import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest

import extmeta
import extmeta as em
import extmeta.cost.forms
import extmeta.cost.placement
import extmeta.fields
import extmeta.names
from extmeta import cli
from extmeta.commands.arguments import DEFAULT_FIELDS, fields_of
from extmeta.commands.compare import QUICK_FRACTIONS, QUICK_PLACEMENT
from extmeta.cost import sweep
from extmeta.cost.forms import default_forms
from extmeta.cost.kernel import prototype
from extmeta.cost.space import space_of
from extmeta.encodings import _factories
from extmeta.encodings import python as python_encodings
from extmeta.reports.ram import ram_tables
from extmeta.reports.subjects import by_subject
from extmeta.rows import Point

ROOT = Path(__file__).parents[1]


DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
WITH_EXAMPLES = [path for path in DOCUMENTS if ">>>" in path.read_text()]


@pytest.fixture
def registry():
    """Take back what an example registers."""
    before = dict(_factories)
    yield
    _factories.clear()
    _factories.update(before)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples(path):
    flags = doctest.ELLIPSIS
    found = doctest.testfile(str(path), module_relative=False, optionflags=flags)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_examples_are_found():
    found = {path.stem for path in WITH_EXAMPLES}
    assert found >= {"README", "extending", "objections", "tutorial"}


def test_the_readme_shows_the_ram_that_compare_prints():
    *_, shown = re.findall(
        r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    name = next(iter(em.shipped()))
    space = space_of(em.load_capture(em.shipped()[name]), name)
    points = [
        Point(fraction, QUICK_PLACEMENT if 0 < fraction < 1 else "")
        for fraction in map(float, QUICK_FRACTIONS.split(","))
    ]
    rows = sweep.ram(space, default_forms(), fields_of(DEFAULT_FIELDS), points)
    (table,) = ram_tables(by_subject(rows)[0])
    rest = iter(table.splitlines())
    for line in shown.splitlines():
        assert line in rest, f"not printed, or in another order: {line}"


def test_the_readme_tells_what_fork_costs_in_a_kernel():
    text = " ".join((ROOT / "README.md").read_text().split())
    shared, copied = (
        100 * prototype.shipped().extra("fork_1st", f"linked, {how}")
        for how in ("side page shared", "each word copied in the loop")
    )
    assert f"takes {shared:.1f} % more instructions if the child shares" in text
    assert f"and {copied:.0f} % more if a loop copies each" in text


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


COMMAND = re.compile(r"^    extmeta (.*)$|`extmeta ([a-z][^`]*)`", re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_the_command_knows_what_documents_call(path):
    text = path.read_text().replace("$(pidof -s redis-server)", "1").replace("PID", "1")
    for block, inline in COMMAND.findall(text):
        # An explanation comes after some blanks.
        for command in (block or inline).partition("   ")[0].split("; extmeta "):
            words = shlex.split(command, comments=True)
            if words[1:]:
                assert cli._parser().parse_args(words).verb == words[0]
            assert words[0] in (*cli.VERBS, "--help", "VERB")


def test_the_commands_are_found():
    found = {path.stem for path in DOCUMENTS if COMMAND.search(path.read_text())}
    assert found >= {"README", "plan", "calibration"}


def test_tutorial_commands(tmp_path, monkeypatch, capsys):
    """A line of dots stands for any lines."""
    shutil.copy(em.shipped()["redis"], tmp_path / "mine.npz")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```console\n\$ extmeta (.*?)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    for command, shown in blocks:
        with contextlib.suppress(SystemExit):
            cli.main(shlex.split(command))
        printed = capsys.readouterr().out
        wanted = shown.replace("\n...\n", "\n<any>\n").replace("<any>\n", "...")
        checker = doctest.OutputChecker()
        assert checker.check_output(wanted, printed, doctest.ELLIPSIS), printed


def test_semantics_examples():
    text = (ROOT / "docs" / "semantics.md").read_text()
    names = {}
    *_, last = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)  # noqa: S102
    expression, told = last.strip().rpartition("\n")[2].split("  # ")
    assert str(eval(expression, names)) == told


@pytest.mark.parametrize(
    ("language", "file"),
    [("toml", "pyproject.toml"), ("cython", "src/extmeta_runs/flagless.pyx")],
)
def test_extending_shows_what_the_example_has(language, file):
    text = (ROOT / "docs" / "extending.md").read_text()
    (block,) = re.findall(f"```{language}\n(.*?)```", text, re.DOTALL)
    assert block in (ROOT / "examples" / "extmeta-runs" / file).read_text()


def test_docstring_examples():
    for module in (
        extmeta,
        extmeta.fields,
        extmeta.cost.placement,
        python_encodings,
        extmeta.cost.forms,
        extmeta.names,
    ):
        found = doctest.testmod(module)
        assert found.attempted > 0
        assert found.failed == 0


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        text = document.read_text()
        for link in text.split("](")[1:]:
            target = link.split(")")[0].split("#")[0]
            assert (document.parent / target).exists(), f"{document.name}: {target}"
