"""Counts the instructions of each operation, by valgrind's callgrind.

Counts repeat to the digit, so they show what noise hides in times. They don't include
cache misses, which times do. Valgrind knows SIMD up to AVX2, so on a processor with
AVX-512 the real counts are lower.

One C function does all the work of an operation. Callgrind writes a profile each time
that function returns; its count, callees included, is the operation's. Callgrind counts
only what a process asks it to (`start`, `operation`), since all else takes much longer.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from extmeta import pagetable
from extmeta.checks import must, same
from extmeta.cost import once
from extmeta.cost.forms import form
from extmeta.cost.sweep import Progress
from extmeta.edge import words as methods
from extmeta.fields import Fields
from extmeta.pagetable import PageTable
from extmeta.rows import BASELINE, Counted, Refused, Row, Subject
from extmeta.table import snapshot, words

T = TypeVar("T")

FIELDS = Fields(uffd_wp=1, soft_dirty=1, age=4)
TABLES = 64
PTES = 512 * TABLES
FRACTIONS = (0.0, 0.01, 1.0)

# In the order of `work`; `update` sets a bit of every word, `clear` clears one. `store` is
# of the flagged PTEs; if there are none, it and `random store` are left out. Methods of
# PageTable include some thousand instructions of Python, and work that an encoding does
# for the operation as a whole.
FUNCTIONS = {
    "store": (words, r"__pyx_f_\w+Words_write"),
    "fork": (pagetable, r"__pyx_pw_\w+PageTable_\d+fork"),
    "load": (words, r"__pyx_f_\w+Words_read"),
    "random load": (words, r"__pyx_f_\w+Words_read"),
    "random store": (words, r"__pyx_f_\w+Words_write"),
    "snapshot": (snapshot, r"__pyx_f_\w+Snapshots_see_all"),
    "scan": (methods, r"__pyx_pw_\w+WordMethods_\d+scan"),
    "clear": (words, r"__pyx_f_\w+Words_write"),
    "unmap": (pagetable, r"__pyx_pw_\w+PageTable_\d+unmap"),
    "update": (words, r"__pyx_f_\w+Words_write"),
}

ENVIRONMENT = {
    # Without these the counts drift by some percent.
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # `rep stosb` counts once for each byte, so memset and memcpy must not use it.
    "GLIBC_TUNABLES": "glibc.cpu.x86_rep_stosb_threshold=1073741824:"
    "glibc.cpu.x86_rep_movsb_threshold=1073741824",
}

_TRIGGER = re.compile(r"desc: Trigger: --dump-after=(.*)")
# A name is written once, then its number stands for it.
_NAMED = re.compile(r"(c?)fn=\((\d+)\)(?: (.*))?")
_COST = re.compile(r"[\d+*-]\S* (\d+)")


def missing() -> str:
    """Return why nothing can be counted here, or ""."""
    if not (shutil.which("valgrind") and shutil.which("vgdb")):
        return "instructions are counted by valgrind: apt install valgrind"
    return ""


def symbols(
    functions: Mapping[str, tuple[ModuleType, str]] = FUNCTIONS,
) -> dict[str, str]:
    """Return the full name of each C function, whose key and pattern are given."""
    # With a wildcard callgrind uses only one of several functions.
    found = {}
    for operation, (module, pattern) in functions.items():
        names = re.search(rb"\0(" + pattern.encode() + rb")\0", _compiled(module))
        if names is None:
            raise ValueError(f"{module.__file__} has no symbols")
        found[operation] = names[1].decode()
    return found


def once_symbol() -> str:
    """Return the full name of the C function of `once.once`."""
    return symbols({"once": (once, r"__pyx_pw_\w+once_\d+once")})["once"]


@functools.cache
def _compiled(module: ModuleType) -> bytes:
    return Path(str(module.__file__)).read_bytes()


@functools.cache
def start() -> None:
    """Let callgrind look at this process from here on.

    Raises
    ------
    OSError
        If it doesn't, with what its command has printed.
    """
    command = ("vgdb", f"--pid={os.getpid()}", "instrumentation", "on")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as asked:
        # Valgrind answers while code runs, and not while it waits.
        while asked.poll() is None:
            pass
        said = asked.stdout.read().strip() if asked.stdout else ""
    if asked.returncode:
        raise OSError(f"callgrind does not begin: {said or 'vgdb said nothing'}")


def operation(run: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Return ``run(*arguments, **named)``; callgrind counts while it runs."""
    found: T = once.once(lambda _: run(*arguments, **named), None)
    return found


def work(encoding: str, fraction: float) -> None:
    """Do each operation once, on tables made before; this runs under callgrind."""
    everything = slice(0, PTES)
    table = PageTable(form(encoding), FIELDS)
    table.map(everything)
    flagged = np.flatnonzero(np.random.default_rng(1).random(PTES) < fraction)
    scattered = np.random.default_rng(2).permutation(PTES)
    if len(flagged):
        operation(table.store, flagged, 0b1101)
    child = operation(table.fork)
    same(np.count_nonzero(operation(child.load, everything)), len(flagged))
    same(np.count_nonzero(operation(child.load, scattered)), len(flagged))
    if len(flagged):
        operation(child.store, scattered[np.isin(scattered, flagged)], 0b1101)
    same(np.count_nonzero(operation(child.snapshot, everything)[1]), len(flagged))
    same(len(operation(child.scan, everything, 0b0001)), len(flagged))
    operation(child.update, everything, clear=0b0100)
    operation(child.unmap, everything)
    same(len(child), 0)
    # Last, and on the parent, because it gives every PTE a word.
    operation(table.update, everything, set=0b0010)


def operations(fraction: float) -> list[str]:
    """Return the operations that `work` does, in order."""
    return [name for name in FUNCTIONS if fraction or not name.endswith("store")]


def count(
    encoding: str, fractions: Sequence[float] = FRACTIONS
) -> dict[float, dict[str, int]]:
    """Return the instructions of each operation in one encoding; see `count_each`."""
    return count_each([encoding], fractions)[encoding]


def count_each(
    encodings: Sequence[str], fractions: Sequence[float] = FRACTIONS
) -> dict[str, dict[float, dict[str, int]]]:
    """Return the instructions of each operation, counted in one process of its own.

    Parameters
    ----------
    encodings : sequence of str
        See `forms.form`.
    fractions : sequence of float
        Shares of the PTEs that are flagged, at random.

    Returns
    -------
    dict of str to dict of float to dict of str to int
        For each encoding and fraction, of each operation on `PTES` entries.

    Raises
    ------
    ValueError
        If an encoding can't do it, with what it said last.
    """
    command = [sys.executable, "-m", __name__, ",".join(encodings)]
    returns, _said = profiled(
        [*command, *map(str, fractions)], [symbols()[name] for name in FUNCTIONS]
    )
    each = [count for _function, count in returns]
    nr_counts = sum(len(operations(fraction)) for fraction in fractions)
    must(len(each) == nr_counts * len(encodings), "not each was called once")
    counts = iter(each)
    return {
        encoding: {
            fraction: {name: next(counts) for name in operations(fraction)}
            for fraction in fractions
        }
        for encoding in encodings
    }


def profiled(
    command: Sequence[str],
    functions: Sequence[str],
    tunables: str = "",
    *,
    everywhere: bool = False,
) -> tuple[list[tuple[str, int]], str]:
    """Run a command under callgrind, and count what some functions take.

    Parameters
    ----------
    command : sequence of str
        It calls `start`.
    functions : sequence of str
        Full names of C functions.
    tunables : str, optional
        More of GLIBC_TUNABLES, each with a colon before it.
    everywhere : bool, optional
        Count also outside of `operation`.

    Returns
    -------
    returns : list of (str, int)
        For each return of one of the functions, in order, its name and instructions,
        those of its callees included.
    said : str
        What the command has printed.

    Raises
    ------
    ValueError
        If the command fails, with what it said last.
    """
    environment = os.environ | ENVIRONMENT
    environment["GLIBC_TUNABLES"] += tunables
    options = [f"--dump-after={name}" for name in functions]
    if not everywhere:
        options.append(f"--toggle-collect={once_symbol()}")
    with tempfile.TemporaryDirectory(prefix="extmeta-callgrind-") as folder:
        out = Path(folder, "out")
        done = subprocess.run(
            [
                *("valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"),
                "--instr-atstart=no",
                *options,
                *command,
            ],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or done.stdout.strip().splitlines()
            raise ValueError(said[-1] if said else f"status {done.returncode}")
        parts = sorted(Path(folder).glob("out.*"), key=lambda p: int(p.suffix[1:]))
        found = [_inclusive(part) for part in parts]
    # A profile from outside of an operation has counted nothing.
    return [(name, count) for name, count in found if count], done.stdout


def _inclusive(profile: Path) -> tuple[str, int]:
    """Return the function whose return triggered the profile, and its count."""
    trigger, total, inside = "", 0, False
    names: dict[str, str] = {}
    with profile.open() as file:
        for line in file:
            if found := _TRIGGER.match(line):
                trigger = found[1]
            elif found := _NAMED.match(line):
                called, number, name = found.groups()
                names.setdefault(number, name)
                if not called:
                    inside = names[number] == trigger
            elif inside and (found := _COST.match(line)):
                # Its own lines, and after each "calls=" what the callee took.
                total += int(found[1])
    return trigger, total


def counted(
    forms: Sequence[str],
    *,
    counts: Callable[[str], dict[float, dict[str, int]]] = count,
    progress: Progress | None = None,
) -> Iterator[Row]:
    """Yield a Subject, and a Counted for each encoding, fraction and operation.

    Parameters
    ----------
    forms : sequence of str
        See `forms.form`; the baseline is counted first.
    counts : callable
    progress : callable, optional
        As of `sweep.sweep`.
    """
    names = [BASELINE, *(text for text in forms if text != BASELINE)]
    yield Subject(
        name=f"{TABLES} full tables",
        sha256="",
        arch="x86_64",
        nr_ptes=PTES,
        nr_tables=TABLES,
        nr_huge=0,
        present_bytes=PTES * 4096,
        fields=dict(FIELDS),
        baseline_fields=dict(FIELDS),
        baseline_lacks="",
        words="one",
    )
    for done, name in enumerate(names):
        if progress:
            progress(done, len(names), f"instructions of {name}")
        try:
            found = counts(name)
        except ValueError as error:
            yield Refused(name, str(error))
            continue
        for fraction, numbers in found.items():
            for operation, number in numbers.items():
                yield Counted(name, operation, fraction, number / PTES)


if __name__ == "__main__":
    start()
    for named in sys.argv[1].split(","):
        for given in sys.argv[2:]:
            work(named, float(given))
