"""Have spin go through every state of the models, and refute the broken variants.

    python tests/models/check.py [MODEL ...]

A line for each: what was expected, how many states there are, seconds. Exit 1 if a
model fails or a broken variant does not; 2 if spin or a compiler is missing.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
# How each model has to be run to hold, and what breaks it.
MODELS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "litmus": (("",), ("MP_NO_WMB", "MP_NO_RMB", "SB_NO_MB")),
    "publish": (
        ("", "TWO_READERS"),
        ("NO_WMB", "FLAG_FIRST", "NO_RECHECK", "NO_RMB", "NO_CAS"),
    ),
    "reclaim": (
        ("",),
        ("NO_WMB", "NO_WRITER_MB", "NO_READER_MB", "NO_GRACE", "ANY_EPOCH"),
    ),
    "share": (
        ("",),
        ("IN_PLACE", "NO_RELEASE", "NO_RECHECK", "TORN_COUNT", "NO_COUNT"),
    ),
    "move": (("",), ("NO_COUNT", "NO_RECHECK", "NO_WMB")),
    "flush": (
        ("", "WRITE_LOCK", "PTE_GENERATION"),
        ("NO_FLUSH", "ALWAYS_COPY", "UNWRAPPED", "LAST_ENDED"),
    ),
}
TOOLS = {"spin": "spin", "cc": "gcc"}
# Loads are expressions of arrays: compilers see bounds they take for wrong.
BUILD = ("cc", "-w", "-O1", "-DSAFETY", "-DVECTORSZ=1024", "-DMEMLIM=2000")


def missing() -> str | None:
    """Return what is needed and not there, or None."""
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"no {tool} (apt install {package})"
    return None


def states(model: str, variant: str = "") -> tuple[bool, int]:
    """Search all states; return whether an assertion fails, and how many there are.

    Raises
    ------
    RuntimeError
        If spin did not get to the end of the search.
    """
    with tempfile.TemporaryDirectory(prefix="extmeta-models-") as directory:

        def run(*command: str) -> str:
            done = subprocess.run(
                command, check=False, cwd=directory, capture_output=True, text=True
            )
            return done.stdout + done.stderr

        for path in HERE.glob("*.pml"):
            shutil.copy(path, directory)
        define = [f"-D{variant}"] if variant else []
        said = run("spin", "-a", *define, f"{model}.pml")
        if not Path(directory, "pan.c").exists():
            raise RuntimeError(f"{model} {variant}: {said}")
        said = run(*BUILD, "-o", "pan", "pan.c")
        if said:
            raise RuntimeError(f"{model} {variant}: {said}")
        # Depth, and no remarks on lines that are never reached.
        said = run("./pan", "-m100000", "-n")
    found = re.search(r"errors: (\d+)", said)
    count = re.search(r"(\d+(?:\.\d+)?(?:e\+\d+)?) states, stored", said)
    failed = found is not None and found[1] != "0"
    whole = "assertion violated" in said if failed else "not completed" not in said
    if found is None or count is None or not whole or "too small" in said:
        raise RuntimeError(f"{model} {variant}: {said}")
    return failed, int(float(count[1]))


def main(names: list[str]) -> int:
    """Check the models; return the exit status."""
    if reason := missing():
        print(f"models: {reason}", file=sys.stderr)
        return 2
    if unknown := sorted(set(names) - set(MODELS)):
        print(f"models: no {unknown[0]!r}; there are {sorted(MODELS)}", file=sys.stderr)
        return 2
    wrong = 0
    for model in names or MODELS:
        sound, broken = MODELS[model]
        for variant in (*sound, *broken):
            start = time.perf_counter()
            failed, count = states(model, variant)
            seconds = time.perf_counter() - start
            as_expected = failed == (variant in broken)
            wrong += not as_expected
            told = "refuted" if failed else "holds"
            print(
                f"{model:<8} {variant:<13} {told:<8} {count:>9,} states {seconds:5.1f} s"
                f"{'' if as_expected else '   NOT AS EXPECTED'}",
                flush=True,
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
