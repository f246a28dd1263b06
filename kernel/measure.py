"""Counts what words cost Linux: `python kernel/measure.py` writes kernel/results.json.

Each form is booted under icount, where the guest's clock counts its instructions, and
some of them once more with a model of data caches. The load of this machine changes
nothing. What was measured is kept beside the kernels, so a run that was stopped goes on.
`python kernel/measure.py functions FORM OPERATION` prints the instructions a PTE of one
operation by kernel function.
"""

import bisect
import collections
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from boot import QEMU, boot, plugin
from kernels import (
    FOLDER,
    HERE,
    PATCH,
    PROGRAM,
    SHA256,
    VERSION,
    Failed,
    build,
    compiler,
    digest,
    digest_of,
    run,
    say,
    sources,
)

from extmeta.cost.instructions import PTES
from extmeta.cost.origin import today

RESULTS = HERE / "results.json"
FORMAT = "extmeta kernel 1"

STOCK = "stock"
COPY, SHARE, COUNT = 0, 1, 2
# Name, variant of the kernel, percent of PTEs with a word, fork's mode.
FORMS: dict[str, tuple[str, int, int]] = {
    STOCK: ("stock", 0, COPY),
    "linked, no word": ("linked", 0, COPY),
    "linked, 1% with a word": ("linked", 1, COPY),
    "linked, 1% with a word, shared": ("linked", 1, SHARE),
    "linked, equal words": ("linked", 100, COPY),
    "linked, equal words, shared": ("linked", 100, SHARE),
    "linked, each word copied in the loop": ("loop", 100, COPY),
    "linked, side page copied at once": ("linked", 100, COPY),
    "linked, side page shared": ("linked", 100, SHARE),
    "linked, copied, counted": ("linked", 100, COPY | COUNT),
    "linked, shared, counted": ("linked", 100, SHARE | COUNT),
    "in the loop, no word": ("loop", 0, COPY),
    "adjacent, no word": ("adjacent", 0, COPY),
    "adjacent, 1% with a word": ("adjacent", 1, COPY),
    "adjacent, copied at once": ("adjacent", 100, COPY),
    "adaptive, no word": ("adaptive", 0, COPY),
    "adaptive, 1% with a word": ("adaptive", 1, COPY),
    "adaptive, 1% with a word, shared": ("adaptive", 1, SHARE),
    "adaptive, equal words": ("adaptive", 100, COPY),
    "adaptive, side page copied at once": ("adaptive", 100, COPY),
    "adaptive, side page shared": ("adaptive", 100, SHARE),
}
CACHED = (
    STOCK,
    "linked, each word copied in the loop",
    "linked, side page copied at once",
    "linked, side page shared",
    "adjacent, copied at once",
)
# Booted once more with other random numbers from qemu, to see if counts repeat.
TWICE = (STOCK, "linked, side page shared")
SEEDS = 1, 2
MIB, CACHE_MIB, RUNS = 64, 16, 2


def phases() -> list[str]:
    """Return the names of guest/measure.c's phases, in order."""
    text = (HERE / "guest/measure.c").read_text()
    listed = text.partition("#define PHASES(X)")[2].partition("#define NAME")[0]
    return re.findall(r"X\((\w+)\)", listed)


def line(form: str, mib: int, runs: int) -> str:
    """Return the kernel's command line that measures a form."""
    _variant, percent, mode = FORMS[form]
    equal = int("equal words" in form)
    what = f"pct={percent} mode={mode} equal={equal}"
    # norandmaps: mappings and stacks have the same addresses in each boot.
    return f"quiet norandmaps do=measure mib={mib} runs={runs} {what}"


def kept(what: str, form: str, measure: Callable[[], Any]) -> Any:
    """Return what was measured before of the same kernel, or measure and keep it."""
    kernel = build(FORMS[form][0])
    of = f"{digest_of(PROGRAM)} {digest(kernel)} {form} {what} {FORMS[form]} {RUNS}"
    path = FOLDER / "counts" / hashlib.sha256(of.encode()).hexdigest()
    if not path.exists():
        say(f"{what}: {form}")
        found = measure()
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def counted(form: str, seed: int = SEEDS[0]) -> dict[str, float]:
    """Boot a form; return the instructions a PTE of each operation, in the last run.

    `side_bytes` is there too: the bytes of side memory of a table.
    """
    more = ("-seed", str(seed))
    output = boot(build(FORMS[form][0]), line(form, MIB, RUNS), more=more)
    return {
        name: float(values.split()[-1])
        for name, values in re.findall(r"^RESULT (\w+) (.*)$", output, re.MULTILINE)
    }


def traced(form: str, mib: int, runs: int, more: str = "") -> list[str]:
    """Boot a form with the plugin; return what the plugin wrote."""
    with tempfile.TemporaryDirectory(prefix="extmeta-cache-") as name:
        scratch = Path(name)
        out = scratch / "out"
        arguments = ("-plugin", f"{plugin(scratch)},out={out}{more}")
        boot(build(FORMS[form][0]), line(form, mib, runs), more=arguments)
        return out.read_text().splitlines()


def cached(form: str) -> dict[str, list[float]]:
    """Return accesses, bytes read, bytes written, misses in L1, L2 and L3, a PTE."""
    names, ptes = phases(), CACHE_MIB * 256
    found = {}
    for row in traced(form, CACHE_MIB, 1):
        word, number, _instructions, *counts = row.split()
        if word == "PHASE":
            found[names[int(number) - 16]] = [round(int(c) / ptes, 2) for c in counts]
    return found


def functions(form: str, operation: str) -> None:
    """Print the instructions a PTE of an operation, in the last run, by kernel function."""
    kernel = build(FORMS[form][0])
    symbols = sorted(
        (int(address, 16), name)
        for address, kind, name in (s.split() for s in run("nm", kernel).splitlines())
        if kind in "tT"
    )
    starts = [address for address, _name in symbols]
    total: collections.Counter[str] = collections.Counter()
    number = phases().index(operation) + 16
    for row in traced(form, MIB, RUNS, f",fn={number}"):
        if row.startswith(f"PHASE {number} "):
            total.clear()  # of the run before
        elif row.startswith("FN "):
            address, count = int(row.split()[1], 16), int(row.split()[2])
            name = symbols[bisect.bisect(starts, address) - 1][1]
            total[name if address >> 63 else "user"] += count
    for name, count in total.most_common(20):
        print(f"{name:<40}{count / MIB / 256:9.2f}")


def model() -> dict[str, dict[str, float]]:
    """Return callgrind's instructions a PTE of the Cython core, every PTE flagged."""
    counts = json.loads((HERE.parent / "benchmarks/budgets.json").read_text())["counts"]
    return {
        encoding: {
            operation: round(count / PTES, 2)
            for operation, count in counts[encoding]["1"].items()
        }
        for encoding in ("inpte", "linked", "adjacent")
    }


def transposed(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn form by operation into operation by form."""
    return {
        operation: {
            form: row[operation] for form, row in rows.items() if operation in row
        }
        for operation in phases()
    }


def measured() -> dict[str, Any]:
    """Measure everything."""
    rows = {form: kept("count", form, partial(counted, form)) for form in FORMS}
    again = {
        form: kept("again", form, partial(counted, form, SEEDS[1])) for form in TWICE
    }
    caches = {form: kept("cache", form, partial(cached, form)) for form in CACHED}
    differ = {
        operation: max(
            abs(again[form][operation] / count - 1)
            for form in TWICE
            if (count := rows[form][operation])
        )
        for operation in phases()
    }
    return {
        "format": FORMAT,
        "linux": VERSION,
        "source_sha256": SHA256,
        "patch_sha256": digest(PATCH),
        "sources_sha256": sources(),
        "compiler": run("gcc", "--version").splitlines()[0],
        "through": compiler(),
        "qemu": run(QEMU, "--version").splitlines()[0],
        "command": "python kernel/measure.py",
        "date": today(),
        "ptes": MIB * 256,
        "runs": RUNS,
        "boots_differ_by": {name: round(value, 6) for name, value in differ.items()},
        "instructions": transposed(rows),
        "side_bytes": {
            form: row["side_bytes"] for form, row in rows.items() if "side_bytes" in row
        },
        "model": model(),
        "cache": {
            "ptes": CACHE_MIB * 256,
            "columns": ["accesses", "read", "written", "l1", "l2", "l3"],
            "costs": transposed(caches),
        },
    }


def main(arguments: list[str]) -> None:
    """Measure, or print functions."""
    if arguments[:1] == ["functions"] and len(arguments) == 3:
        functions(*arguments[1:])
    elif arguments:
        raise Failed(
            f"can't {' '.join(arguments)!r}: functions FORM OPERATION, or nothing"
        )
    else:
        RESULTS.write_text(json.dumps(measured(), indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failed as error:
        sys.exit(f"kernel/measure.py: {error}")
