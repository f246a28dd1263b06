"""kernel/: the patch holds no line of the kernel, and all figures are of that patch."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from extmeta.cost.kernel import prototype

FOLDER = Path(__file__).resolve().parents[1] / "kernel"
PATCH = (FOLDER / "hooks.patch").read_text()


@pytest.fixture(scope="module")
def scripts():
    """Return kernel/kernels.py and kernel/tables.py."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("kernels"), importlib.import_module("tables")
    finally:
        sys.path.remove(str(FOLDER))


def test_the_patch_has_inserted_lines_only():
    allowed = re.compile(r"--- a/\S+|\+\+\+ b/\S+|@@ -\d+,0 \+\d+(,\d+)? @@|\+.*")
    for line in PATCH.splitlines():
        assert allowed.fullmatch(line), f"not ours: {line}"


def test_each_inserted_line_is_counted_by_its_hunk():
    hunks = re.split(r"^@@ -\d+,0 \+\d+", PATCH, flags=re.MULTILINE)[1:]
    for hunk in hunks:
        count = re.match(r"(?:,(\d+))? @@\n", hunk)
        added = [x for x in hunk[count.end() :].splitlines() if x.startswith("+")]
        added = [x for x in added if not x.startswith("+++ b/")]
        assert len(added) == int(count[1] or 1), hunk


def test_every_inserted_call_is_a_hook_of_a_header():
    names = ("extmeta.h", "huge.h", "markers.h")
    headers = [(FOLDER / name).read_text() for name in names]
    empty = "".join(text.partition("every hook is nothing")[2] for text in headers)
    for name in set(re.findall(r"\b(ext_\w+)\(", PATCH)):
        assert f"#define {name}(" in empty, f"{name} is there if it is compiled out"


def test_figures_are_of_the_committed_sources(scripts):
    kernels, tables = scripts
    results = tables.loaded()
    assert results["patch_sha256"] == kernels.digest(kernels.PATCH)
    assert results["sources_sha256"] == kernels.sources()
    assert results["linux"] == kernels.VERSION
    assert results["source_sha256"] == kernels.SHA256


def test_the_document_shows_the_figures(scripts):
    _kernels, tables = scripts
    text = tables.DOCUMENT.read_text()
    assert tables.document(text, tables.loaded()) == text, "run kernel/tables.py"


def test_the_package_ships_the_figures(scripts):
    _kernels, tables = scripts
    assert tables.SHIPPED.read_text() == tables.shipped(tables.loaded()), (
        "run kernel/tables.py"
    )


def test_the_cover_letter_fits_a_mail():
    for line in (FOLDER / "README").read_text().splitlines():
        assert len(line.expandtabs()) <= 72, line


@pytest.mark.parametrize(
    ("form", "other"),
    [
        ("linked, no word", "stock"),
        ("linked, side page shared", "linked, no word"),
        ("linked, each word copied in the loop", "in the loop, no word"),
        ("adjacent, 1% with a word", "adjacent, no word"),
    ],
)
def test_a_form_is_set_beside_its_own_kernel_without_words(form, other):
    shipped = prototype.shipped()
    fork = shipped.costs["fork_2nd"]
    assert shipped.extra("fork_2nd", form) == fork[form] / fork[other] - 1


def test_each_form_has_another_beside_it():
    forms = prototype.shipped().forms
    assert {prototype.beside(form) for form in forms[1:]} <= {*forms}
