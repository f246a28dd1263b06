"""The fixture `paired`, in runs of pytest of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from extmeta.compared import Compared
from extmeta.reports.paired import table

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]

# A side takes so many ns of a clock that nothing else moves.
SIDES = """
import pytest

now = 0

def clock():
    return now

def taking(ns, result=None):
    def run(*state):
        global now
        now += ns
        return result
    run.__name__ = f"takes_{ns}"
    return run

QUICK = {"clock": clock, "narrow": 0, "rounds": 5, "sample_ns": 1}
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run a test file in which the names of SIDES are known."""
    # pytest-benchmark measures nothing if it sees that it is in a worker.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)

    def run(text, *args, process=False):
        pytester.makepyfile(SIDES + text)
        how = pytester.runpytest_subprocess if process else pytester.runpytest_inprocess
        return how("-p", "pytest_extmeta", "-p", "no:cacheprovider", *args)

    return run


def shown(result, name):
    """Return the cells of a line of the table."""
    (line,) = [line for line in result.outlines if line.startswith(f"  {name} ")]
    return line.split()[1:]


def test_a_ratio_is_of_the_second_to_the_first(run):
    result = run("""
def test_one(paired):
    found = paired(taking(1000), taking(1500), **QUICK)
    assert (found.ratio, found.low, found.high) == pytest.approx((1.5,) * 3)
    assert found.floor == pytest.approx((1, 1, 1))
    assert (found.group, found.baseline_ns) == ("test_one", 1000)
""")
    result.assert_outcomes(passed=1)
    assert shown(result, "takes_1500") == ["1.50", "1.50", "-", "1.50", "1.00", "us"]
    assert shown(result, "takes_1000 again")[1] == "1.00"


def test_a_limit_is_held_against_the_upper_end_of_the_interval(run):
    result = run("""
import itertools
uneven = itertools.cycle([1000, 1000, 1000, 1600])

def sometimes_slow():
    taking(next(uneven))()

def wide(paired, limit):
    paired(taking(1000), sometimes_slow, max_ratio=limit, **QUICK)

def test_below(paired):
    wide(paired, 1.7)

def test_maybe(paired):
    wide(paired, 1.2)

def test_above(paired):
    wide(paired, 0.5)
""")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "sometimes_slow takes * not for certain below max_ratio=1.2; the noise floor is*",
            "sometimes_slow takes * above max_ratio=0.5; the noise floor is*",
        ]
    )


LIMITED = """
pytestmark = pytest.mark.paired(group="json", max_ratio=1.1)

def test_module(paired):
    paired(taking(10), taking(13), **QUICK)

@pytest.mark.paired(max_ratio=1.4)
def test_closest(paired):
    paired(taking(10), taking(13), **QUICK)

@pytest.mark.paired(max_ratio=1.4)
def test_called(paired):
    paired(taking(10), taking(13), max_ratio=1.2, **QUICK)
"""


def test_limits_by_marker_and_by_call(run):
    result = run(LIMITED, "--strict-markers")
    result.assert_outcomes(passed=1, failed=2)
    assert result.outlines.count("json, over takes_10") == 1


@pytest.mark.parametrize(
    ("options", "failed"),
    [
        ([], 0),
        (["2"], 0),
        (["1.1"], 2),
        (["a=1.1"], 1),
        (["1.1", "a=2"], 1),
        (["b=1.1", "a=1.1"], 2),
    ],
)
def test_limits_of_groups(run, options, failed):
    text = """
@pytest.mark.parametrize("group", ["a", "b"])
def test_groups(paired, group):
    paired(taking(10), taking(13), group=group, **QUICK)
"""
    result = run(text, *(f"--paired-max-ratio={option}" for option in options))
    result.assert_outcomes(passed=2 - failed, failed=failed)


def test_a_limit_that_is_no_number_is_named(run):
    text = "def test_one(paired):\n    paired(len, len)"
    result = run(text, "--paired-max-ratio=a=fast")
    result.stdout.fnmatch_lines(["*--paired-max-ratio=a=fast: 'fast' is no number"])
    result = run(text.replace("len, len", "len, len, max_ratio=-1"))
    result.stdout.fnmatch_lines(["*max_ratio=-1: a limit is a number above 0"])
    result = run("@pytest.mark.paired(max_tim=1)\n" + text)
    result.stdout.fnmatch_lines(["*the marker paired takes group, max_ratio*max_tim"])


BAD = """
@pytest.mark.parametrize(
    "given",
    [{"max_ratio": "fast"}, {"ram": (1,)}, {"ram": ("x", 1)}, {"ram": lambda _: -1}],
)
def test_one(paired, given):
    paired(taking(100), taking(80), **QUICK, **given)
"""


def test_bad_arguments_are_named_and_end_only_their_test(run):
    result = run(BAD, "--tb=line")
    result.assert_outcomes(failed=4)
    for says in (
        "max_ratio='fast': a limit is a number above 0",
        "ram: (1,) is not the bytes of both sides",
        "ram: 'x' is not an integer",
        "ram: -1 is negative",
    ):
        result.stdout.fnmatch_lines([f"*{says}"])


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_seconds_that_are_none_are_named(run, seconds):
    result = run("", f"--paired-seconds={seconds}")
    result.stderr.fnmatch_lines([f"*--paired-seconds: '{seconds}' is not 0 or more"])


def test_sides_have_to_come_to_the_same_result(run):
    result = run("""
def test_differ(paired):
    paired(taking(10, [1, 2]), taking(10, [1, 3]), **QUICK)

def test_alike(paired):
    paired(taking(10, [1, 2]), taking(10, [1, 2]), **QUICK)

def test_checked(paired):
    paired(taking(10, [1]), taking(10, (1,)), check=lambda r: len(r) == 1, **QUICK)

def test_both_are_checked(paired):
    def check(result):
        assert result == 1
    paired(taking(10, 1), taking(10, 2), check=check, **QUICK)
""")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*results differ; check= *1 of 2 differ, at 1: 3 is*"])


def test_setup_and_teardown_are_around_every_run_and_not_timed(run):
    result = run("""
log = []

def test_around(paired):
    def setup():
        taking(10**6)()
        log.append("setup")
        return 7

    def one(state):
        assert state == 7
        log.append("run")
        taking(1000)()

    found = paired(one, one, setup=setup, teardown=log.append, **QUICK)
    assert (found.ratio, found.baseline_ns) == (1, 1000)
    assert log == ["setup", "run", 7] * (len(log) // 3)

def test_teardown_alone(paired):
    paired(len, len, teardown=print)
""")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*teardown without setup*"])


def test_each_baseline_has_its_own_noise_floor(run):
    result = run("""
def test_one(paired):
    counts = []
    for _ in range(5):
        calls = []
        # A function may get the place of one that is gone.
        found = paired(lambda: calls.append(taking(10)()), taking(10), **QUICK)
        counts.append(len(calls))
    assert found.floor and len({*counts}) == 1

def test_shared(paired):
    calls = []
    baseline = lambda: calls.append(taking(10)())
    paired(baseline, taking(10), **QUICK)
    once = len(calls)
    paired(baseline, taking(10), **QUICK)
    assert len(calls) < 2 * once
""")
    result.assert_outcomes(passed=2)


def test_ram_is_what_a_run_allocates_or_what_a_function_tells(run):
    result = run("""
def small():
    taking(10)()
    return len(bytearray(50_000)) > 0

def large():
    taking(10)()
    return len(bytearray(100_000)) > 0

def test_traced(paired):
    found = paired(small, large, ram=True, **QUICK)
    assert 100_000 < found.ram[1] < 101_000
    assert found.ram_ratio == pytest.approx(2, rel=0.02)

def test_told(paired):
    sides = taking(10, b"x"), taking(20, b"xyz")
    found = paired(*sides, ram=len, check=bool, **QUICK)
    assert found.ram == (1, 3)
    found = paired(*sides, ram=(4, 5), check=bool, table=False, **QUICK)
    assert found.ram == (4, 5)

def test_limited(paired):
    paired(small, large, max_ram_ratio=1.5, **QUICK)
""")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["large takes ?.?? of small's RAM, above max_ram_ratio=1.5"]
    )
    assert shown(result, "takes_20")[-3:] == ["3", "B", "3.00"]


def test_a_test_that_does_not_ask_sees_nothing(run):
    result = run("def test_one():\n    pass")
    assert "paired" not in result.stdout.str()
    without = "import sys\ndef test_one():\n    assert 'extmeta' not in sys.modules"
    run(without, process=True).assert_outcomes(passed=1)


def test_xdist_workers_send_what_they_found(run):
    pytest.importorskip("xdist")
    text = """
@pytest.mark.parametrize("n", range(4))
def test_one(paired, n):
    paired(taking(10), taking(13 + n), **QUICK)
"""
    result = run(text, "-n2", process=True)
    result.assert_outcomes(passed=4)
    assert shown(result, "takes_16")[0] == "1.60"


BENCHMARKED = """
def test_first(paired, benchmark):
    paired(taking(10), taking(13), **QUICK)
    paired(taking(10), taking(14), **QUICK)

def test_after(paired, benchmark):
    benchmark(taking(10))
    paired(taking(10), taking(15), setup=list, **QUICK)

def test_around(paired, benchmark):
    paired(taking(10), taking(16), setup=list, **QUICK)
"""


def test_pytest_benchmark_stores_the_ratios_and_compares_its_file(run, pytester):
    pytest.importorskip("pytest_benchmark")
    result = run(BENCHMARKED, "--benchmark-json=one.json", process=True)
    result.assert_outcomes(passed=3)
    # The table comes after pytest-benchmark's.
    lines = result.outlines
    first = next(n for n, line in enumerate(lines) if "= paired: " in line)
    assert not any("benchmark" in line for line in lines[first:])
    stored = json.loads((pytester.path / "one.json").read_text())["benchmarks"]
    ratios = [[p["ratio"] for p in b["extra_info"]["paired"]] for b in stored]
    assert ratios == [pytest.approx(r) for r in ([1.3, 1.4], [1.5], [1.6])]
    assert stored[0]["group"] == "test_first"
    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", "one.json"],
        cwd=pytester.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "test_around" in done.stdout
    result = run(BENCHMARKED, "--benchmark-disable", "-Werror", process=True)
    result.assert_outcomes(passed=3)


def test_the_table_fits_100_columns_and_marks_what_is_uncertain():
    row = Compared(
        *("g" * 200, "n" * 200, "b" * 200, 1234.5, 0.001, 123456.7),
        *((1.5, 0.01, 99.9), 9.9e11, 10, 1, 0.9, (3, 1 << 40), (5, 7)),
    )
    lines = table([vars(row)]).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("1,234?" in line or "1,235?" in line for line in lines)
    assert "1 of 1 ratios are uncertain" in " ".join(lines)
    assert "The machine is busy" in " ".join(lines)


COUNTED = """
def few():
    return sum(range(1_000)) > 0

def many():
    return sum(range(100_000)) > 0

def test_counted(paired):
    paired(few, few, name="itself", rounds=5)
    paired(few, many, rounds=5, max_instruction_ratio=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")
def test_instructions_are_counted_by_a_second_run(run):
    result = run(COUNTED, "--paired-instructions", process=True)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["many takes * of few's instructions, above max_instr*"]
    )
    assert shown(result, "itself")[-1] == "1.00"
    assert 50 < float(shown(result, "many")[-1]) < 200


def test_without_valgrind_nothing_is_counted(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run(COUNTED, process=True)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*instructions are counted by valgrind*"])


def test_the_example_passes():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pytest_extmeta", "."],
        cwd=ROOT / "examples" / "pytest_pairs",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as_one_array" in done.stdout
