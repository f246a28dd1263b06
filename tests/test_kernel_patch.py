"""kernel/: the patch holds no line of the kernel, and all figures are of that patch."""

import importlib
import re
import sys
from pathlib import Path

import pytest

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
