"""What the documents say a command prints is what it prints.

A block that begins with `$ python ...`, or a table below the comment `printed by: python
...`, shows lines of what the command prints, in that order. Only commands whose figures
repeat are shown so: bytes, and counts of instructions with the compiler of the budgets.
"""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from extmeta.cost import instructions
from extmeta.cost.kernel import prototype

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
OBJECTIONS = ROOT / "docs" / "objections-to-our-numbers.md"

SHOWN = re.compile(
    r"^```console\n\$ (?P<typed>python .+)\n(?P<output>(?:.*\n)*?)```$"
    r"|^<!-- printed by: (?P<said>python .+) -->\n\n(?P<table>(?:\|.*\n)+)",
    re.MULTILINE,
)
BLOCKS = [
    (found["typed"] or found["said"], found["output"] or found["table"])
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for found in SHOWN.finditer(document.read_text())
]
# They take more than some seconds.
SLOW = ("churn", "machine.py", "under_lock.py")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")

needs_benchmarks = pytest.mark.skipif(
    not BENCHMARKS.is_dir(), reason="needs benchmarks/"
)


def cases():
    for command, shown in BLOCKS:
        slow = [pytest.mark.slow] if any(word in command for word in SLOW) else []
        yield pytest.param(command, shown, marks=slow, id=command)


def printed(command):
    program, *arguments = shlex.split(command)
    assert program == "python", command
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    # This one ends with 1 if a claim does not hold.
    assert done.returncode == 0 or "--machines" in arguments
    return done.stdout.splitlines()


def alike(shown, line, tolerance):
    """Tell whether two lines have equal words, and numbers within a tolerance."""
    if NUMBER.sub("", shown).split() != NUMBER.sub("", line).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(line), strict=True)
    return all(
        abs(a - b) <= tolerance * b
        for a, b in ([float(text.replace(",", "")) for text in pair] for pair in pairs)
    )


def counts_differ():
    """Return why counts of instructions can't be compared here, or ""."""
    spec = importlib.util.spec_from_file_location("budgets", BENCHMARKS / "budgets.py")
    budgets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(budgets)
    of = json.loads(budgets.FILE.read_text())["compiler"]
    here = budgets.compiler()
    return instructions.missing() or (here != of and f"counts are of {of}, not {here}")


@needs_benchmarks
@pytest.mark.parametrize(("command", "shown"), [*cases()])
def test_a_command_prints_what_is_shown(command, shown):
    counted = "under_lock.py" in command
    if counted and (why := counts_differ()):
        pytest.skip(why)
    lines = iter(printed(command))
    for line in shown.splitlines():
        if line != "...":
            found = any(alike(line, other, 0.02 * counted) for other in lines)
            assert found, f"{command} does not print, or in another order: {line}"


def test_there_are_blocks():
    commands = " ".join(command for command, _shown in BLOCKS)
    for script in ("histories.py", "machine.py", "under_lock.py", "scale.py"):
        assert script in commands


def test_lines_are_compared_by_words_and_numbers():
    assert alike("a  1,000 b", "a 1,000  b", 0)
    assert alike("a 1.01", "a 1.00", 0.02)
    assert not alike("a 1.03", "a 1.00", 0.02)
    assert not alike("a 1", "b 1", 0)
    assert not alike("a 1,001", "a 1,000", 0)


def test_the_kernels_figures_are_those_that_ship():
    kernel = prototype.shipped()
    text = OBJECTIONS.read_text()
    for form in kernel.forms:
        if form == prototype.STOCK:
            continue
        cells = " | ".join(
            f"{100 * kernel.extra(operation, form):+.1f} %"
            for operation in ("fork_1st", "fork_2nd", "munmap")
        )
        assert f"| {form} | {cells} |" in text


@needs_benchmarks
def test_memory_is_what_the_kernel_counts():
    """Frames are resident before they are used; where a block is used up, little is."""
    lines = printed("python benchmarks/histories.py rss")
    assert [line.split()[0] for line in lines] == [
        "linked",
        "adaptive",
        "hash",
        "xarray",
    ]
    for line in lines:
        assert float(re.search(r"it: (\d+\.\d+) MiB", line)[1]) <= 0.7, line
