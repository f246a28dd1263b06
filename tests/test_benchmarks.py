"""The benchmarks' own options: what they store, and what they refuse at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def bench(*arguments, code="pass"):
    program = f"import sys, pytest; {code}; sys.exit(pytest.main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, "-p", "no:cacheprovider", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=BENCHMARKS.parent,
    )


def test_points_are_stored_as_text_and_bytes_have_no_time(tmp_path):
    path = tmp_path / "out.json"
    done = bench(
        *(BENCHMARKS / "bench_memory.py", BENCHMARKS / "bench_point.py", "--quick"),
        *("-k", "linked and (point or node)", f"--benchmark-json={path}"),
    )
    assert done.returncode == 0, done.stdout
    text = path.read_text()
    assert "UNSERIALIZABLE" not in text
    found = json.loads(text)["benchmarks"]
    params = {
        (name, each["params"].get(name)) for each in found for name in each["params"]
    }
    assert {("point", "1% random"), ("end", "0%"), ("end", "100%")} <= params
    assert "RAM, " not in {each["group"] for each in found}
    assert all(
        "time of" in e["group"] for e in found if "bench_memory" in e["fullname"]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["-n", "2"], "pass", "timed one at a time"),
        (
            ["--benchmark-histogram"],
            "sys.modules['pygal'] = None",
            "pip install 'extmeta[bench]'",
        ),
    ],
)
def test_what_would_lose_the_results_is_refused_at_once(arguments, code, told):
    done = bench(BENCHMARKS / "bench_point.py", *arguments, code=code)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert told in done.stderr
    assert "Traceback" not in done.stderr
