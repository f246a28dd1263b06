"""Results are checked by raising, so that ``python -O`` checks them too."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from extmeta.checks import WrongResultError, must, must_equal, there

ROOT = Path(__file__).resolve().parent.parent

LOSES = """
import sys
import extmeta as em

class Loses(em.PythonEncoding):
    "Forgets a bit of every third word."
    def __init__(self):
        self.words = {}
    def load(self, vpns):
        return [self.words.get(v, 0) for v in vpns.tolist()]
    def store(self, vpns, words):
        for v, w in zip(vpns.tolist(), words.tolist()):
            self.words[v] = w & ~4 or w if v % 3 == 0 else w
    def side_bytes(self):
        return 8 * len(self.words)
"""

SWEEP = """
from extmeta import compare, workload
em.register("loses", Loses)
space, fields = workload.full_tables(1), em.Fields(a=1, b=2)
for row in compare.sweep(
    space, ["loses"], fields, [workload.Point(1.0, "")], budget_ns=1, rounds=5
):
    if isinstance(row, compare.Refused):
        print(row)
"""

CONFORMANCE = """
from extmeta.testing import checks
for check in checks():
    if check.__name__ in ("bulk_in_any_order", "child_outlives_its_parent"):
        try:
            check(Loses)
        except AssertionError as error:
            print(error)
"""


def optimized(code):
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_compare_finds_an_encoding_that_loses_bits_under_O():
    out = optimized(LOSES + SWEEP)
    assert "words differ from what was stored" in out
    assert "differ, the first at" in out


def test_the_suite_finds_an_encoding_that_loses_bits_under_O():
    out = optimized(LOSES + CONFORMANCE)
    assert "words, unordered:" in out
    assert "words of the grandchild:" in out


def test_nothing_is_checked_by_an_assert_statement():
    found = []
    for folder in ("src", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name.startswith("test_"):
                # pytest rewrites these.
                continue
            tree = ast.walk(ast.parse(path.read_text()))
            found += [(path, n.lineno) for n in tree if isinstance(n, ast.Assert)]
        for path in (ROOT / folder).rglob("*.py[xi]"):
            lines = enumerate(path.read_text().splitlines(), 1)
            found += [(path, n) for n, x in lines if x.strip().startswith("assert ")]
    assert found == []


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        (np.arange(3), np.array([0, 5, 7]), "2 of 3 differ, the first at 1: 1, not 5"),
        ([1 << 80], [1 << 80 | 1], "1 of 1 differ, the first at 0: 12"),
        ((1, 2), (1, 2, 3), "2 values, not 3"),
        (np.zeros(0), np.zeros(1), "0 values, not 1"),
        (np.zeros((2, 2)), np.ones((2, 2)), "the first at 0: [0.0, 0.0], not [1.0"),
        ({1: 2}, {}, "{1: 2}, not {}"),
    ],
)
def test_a_wrong_result_names_what_differs(found, expected, said):
    with pytest.raises(WrongResultError) as error:
        must_equal(found, expected, "words")
    assert str(error.value).startswith("words: ")
    assert said in str(error.value)
    must_equal(found, found, "words")
    assert isinstance(error.value, AssertionError)


def test_what_holds_and_what_is_there():
    must(1, "one")
    with pytest.raises(WrongResultError, match="two"):
        must([], "two")
    assert there(0) == 0
    with pytest.raises(WrongResultError, match="missing"):
        there(None)
