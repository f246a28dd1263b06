"""kernel/: the patch holds no line of the kernel, and all figures are of that patch."""

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "kernel"
PATCH = (FOLDER / "hooks.patch").read_text()


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


def test_every_inserted_call_is_a_hook_of_the_header():
    header = (FOLDER / "extmeta.h").read_text()
    empty = header.partition("every hook is nothing")[2]
    for name in set(re.findall(r"\b(ext_\w+)\(", PATCH)):
        assert f"#define {name}(" in empty, f"{name} is there if it is compiled out"


def test_the_cover_letter_fits_a_mail():
    for line in (FOLDER / "README").read_text().splitlines():
        assert len(line.expandtabs()) <= 72, line
