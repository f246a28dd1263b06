"""docs/kernel-cases.md has every test of this directory, and no other."""

import importlib
import re
from pathlib import Path

import cases
import pytest

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "docs" / "kernel-cases.md"
FILES = sorted(
    path.stem for path in HERE.glob("test_*.py") if path != Path(__file__).resolve()
)
WORDS = {cases.NO_PAGE: "no page", cases.ONE_WORD: "one word"}


def rows(name):
    """Return page_ext's cell by test, of the table of a file."""
    after = TABLE.read_text().split(f"`tests/kernel_cases/{name}.py`", 1)[1]
    section = after.split("\n## ", 1)[0]
    found = re.findall(r"^\|.*\| (test_\w+) \|(.*)\|$", section, re.MULTILINE)
    assert len(found) == len(dict(found))
    return {test: cell.strip() for test, cell in found}


@pytest.mark.parametrize("name", FILES)
def test_every_test_is_in_the_table(name):
    module = importlib.import_module(name)
    tests = {key: value for key, value in vars(module).items() if key[:5] == "test_"}
    table = rows(name)
    assert sorted(table) == sorted(tests)
    for key, test in tests.items():
        marks = getattr(test, "pytestmark", [])
        reasons = {m.args[0] for m in marks if m.name == "fails_on_page_ext"}
        for reason, words in WORDS.items():
            assert (words in table[key]) == (reason in reasons), key


def test_the_table_has_every_file():
    named = re.findall(r"`tests/kernel_cases/(test_\w+)\.py`", TABLE.read_text())
    assert sorted(named) == FILES
