"""What the documents show is what happens."""

import doctest
from pathlib import Path

import extmeta
import extmeta.fields
import extmeta.workload

ROOT = Path(__file__).parents[1]


def test_readme_examples():
    found = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert found.attempted >= 10
    assert found.failed == 0


def test_docstring_examples():
    for module in (extmeta, extmeta.fields, extmeta.workload):
        found = doctest.testmod(module)
        assert found.attempted > 0
        assert found.failed == 0


def test_links_lead_somewhere():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = document.read_text()
        for link in text.split("](")[1:]:
            target = link.split(")")[0].split("#")[0]
            assert (document.parent / target).exists(), f"{document.name}: {target}"
