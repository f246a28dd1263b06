"""``extmeta plan``: what it prints, and how it ends."""

import json

import pytest

import extmeta as em
from extmeta import cli
from extmeta.reports.plan import text

PAIR = ["uffd_wp", "soft_dirty", "--exclude", "uffd_wp,soft_dirty"]

EXCLUDED = """\
x86_64: uffd_wp=1, soft_dirty=1 (2 bits)
  uffd_wp and soft_dirty exclude each other

  combinations  3
  bits          2
  present PTE   has 8: fits
  swap entry    has 3: fits

  bit of code      0   1
  present PTE     10  11
  swap entry       1   2

  code
     0  none
     1  uffd_wp
     2  soft_dirty

Can't be expressed any more:
  - a PTE with both of uffd_wp and soft_dirty

Instead, for each PTE table (512 PTEs) with a word:
  linked    128 bytes
  adjacent  4,096 bytes
"""

TOO_MANY = """\
x86_64: a=3, b=3, c=1 (7 bits)

  combinations  128
  bits          7
  present PTE   has 6: 1 missing
  swap entry    has 1: 6 missing
  fits with one of: --exclude a,b

  bit of code      0   1   2   3   4   5
  present PTE     52  53  54  55  56  57
  swap entry       4   -   -   -   -   -
  mprotect clears 52-57: a kernel has to add them to _PAGE_CHG_MASK, which is
  one line
  in mprotect a change of 52-56 alone flushes nothing, but warns and flushes
  with CONFIG_DEBUG_VM

Instead, for each PTE table (512 PTEs) with a word:
  linked    512 bytes
  adjacent  4,096 bytes
"""


def test_fields_that_fit(capsys):
    assert cli.main(["plan", *PAIR]) == 0
    assert capsys.readouterr().out == EXCLUDED


def test_fields_that_do_not_fit_exit_1(capsys):
    assert cli.main(["plan", "a:3", "b:3", "c"]) == 1
    assert capsys.readouterr() == (TOO_MANY, "")
    assert cli.main(["plan", "a:3", "b:3", "c", "--exclude", "a,b"]) == 0


def test_codes_are_told_for_each_choice(capsys):
    assert cli.main(["plan", "a", "b", "c:2", "--per-vma", "a,b"]) == 0
    out = capsys.readouterr().out
    assert "  code, where VMAs have a\n     0  none\n     1  a\n" in out
    assert "     7  b, c=3\n" in out


def test_text_keeps_to_80_columns():
    fields = em.Fields(**{f"field_{i:02}": 2 for i in range(60)})
    names = list(fields)
    found = em.plan(
        fields,
        excludes=[names[:30]],
        implies=[(a, names[40]) for a in names[30:40]],
        per_vma=[names[41:50], names[50:]],
    )
    told = text(found)
    assert [line for line in told.splitlines() if len(line) > 80] == []
    assert "no single pair of fields" in told
    assert "adjacent  words are wider than 64 bits" in told
    wide = text(em.plan(em.Fields(a=70)))
    assert "combinations  2**70 or more" in wide
    assert "linked    8,192 bytes" in wide


def test_many_ways_to_make_it_fit_are_counted():
    told = text(em.plan(em.Fields(a=2, b=2, c=1, d=2)))
    assert "fits with one of: --exclude" in told
    many = em.plan(em.Fields(a=3, b=3, uffd_wp=1, soft_dirty=1, c=1))
    assert text(many).count("--exclude") == min(len(many.remedies), 5)


def test_json_holds_the_plan(capsys):
    assert cli.main(["plan", "a:2", "b:3", "c", "--imply", "c,a", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = em.plan(em.Fields(a=2, b=3, c=1), implies=[("c", "a")])
    assert document["fields"] == {"a": 2, "b": 3, "c": 1}
    assert document["constraints"] == [{"kind": "implies", "names": ["c", "a"]}]
    for key in ("combinations", "bits", "available", "available_swap", "fits",
                "fits_swap", "missing", "missing_swap"):  # fmt: skip
        assert document[key] == getattr(found, key)
    assert document["assignment"]["present"] == list(found.assignment.present)
    (codes,) = document["assignment"]["codes"]
    assert codes["choice"] == []
    assert len(codes["codes"]) == 56
    assert document["lost"] == list(found.lost)
    assert document["side_bytes"] == found.side
    assert cli.main(["plan", "a:3", "b:3", "c", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["remedies"] == [["a", "b"]]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["FIELD[=BITS]"]),
        (["a:x"], ["'a:x' is not NAME or NAME=BITS"]),
        (["a:"], ["'a:'"]),
        (["a-b"], ["'a-b'"]),
        (["a:0"], ["'a'", "below 1"]),
        (["a:600"], ["600 bits"]),
        (["words"], ["'words'"]),
        (["a", "a"], ["'a' is there twice"]),
        (["a", "--arch", "z80"], ["'z80'", "x86_64"]),
        (["a", "b", "--exclude", "a,x"], ["excludes", "'x'"]),
        (["a", "b", "--exclude", "a"], ["excludes", "('a',)"]),
        (["a", "b", "--imply", "a,b,a"], ["implies", "not a pair"]),
        (["a", "b", "--per-vma", "a,a"], ["per_vma", "'a' twice"]),
        (
            ["a", "b", "--exclude", "a,b", "--imply", "a,b"],
            ["'a' can never be non-zero", "a and b exclude each other", "a implies b"],
        ),
        (["a", "--arch", "x\x1b[2J"], ["x1b[2J"]),
    ],
)
def test_bad_input_is_one_line_and_2(arguments, parts, capsys):
    assert cli.main(["plan", *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1
    for part in parts:
        assert part in found.err
