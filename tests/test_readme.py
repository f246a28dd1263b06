"""What the documents show is what happens."""

import doctest
import re
from pathlib import Path

import pytest

import extmeta
import extmeta.cost.forms
import extmeta.cost.placement
import extmeta.fields
import extmeta.names
from extmeta.encodings import _factories
from extmeta.encodings import python as python_encodings

ROOT = Path(__file__).parents[1]


def test_readme_examples():
    found = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert found.attempted >= 10
    assert found.failed == 0


@pytest.fixture
def registry():
    """Take back what an example registers."""
    before = dict(_factories)
    yield
    _factories.clear()
    _factories.update(before)


@pytest.mark.usefixtures("registry")
def test_extending_examples():
    path = ROOT / "docs" / "extending.md"
    flags = doctest.ELLIPSIS
    found = doctest.testfile(str(path), module_relative=False, optionflags=flags)
    assert found.attempted >= 25
    assert found.failed == 0


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
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = document.read_text()
        for link in text.split("](")[1:]:
            target = link.split(")")[0].split("#")[0]
            assert (document.parent / target).exists(), f"{document.name}: {target}"
