"""Checks the kernels: `python kernel/check.py [PART ...]`, or all parts.

objects  compiled out, the patch changes no byte of code or data in the objects of changed files
words    guest/checks.c and devices.c on each form and in each mode of fork
stress   the same, then guest/stress.c, on two processors, of linked and adaptive; tells
         which hooks of linked were reached with a word
migrate  reads words of pages that compaction moves, under the PTL and without it, on two
         processors; nobody writes these words
debug    the same as stress, on kernels with lockdep, DEBUG_VM, KASAN and kmemleak
"""

import os
import re
import sys
import tempfile
from pathlib import Path

from boot import TWO, boot, reports
from kernels import (
    DEBUG,
    PATCH,
    Failed,
    build,
    compiled,
    configure,
    hooked,
    make,
    run,
    say,
    tree,
)

# An emulated processor is slow if its machine is busy: that is no stall, and no broken timer.
PATIENT = "rcupdate.rcu_cpu_stall_timeout=300 no_timer_check"
# Memory that can be taken offline, which moves huge pages.
MOVABLE = "mem=1920M movablecore=512M"
STRESS_SECONDS = int(os.environ.get("EXTMETA_STRESS", "240"))
# They include changed headers; objects() adds the files that the patch changes.
INCLUDERS = ("mm/mmap.o", "mm/madvise.o", "kernel/fork.o")


def objects() -> None:
    """Compare objects of the pristine tree with those of the patched one."""
    changed = [name for name in hooked(PATCH.read_text()) if name.endswith(".c")]
    names = [*(name.removesuffix("c") + "o" for name in changed), *INCLUDERS]
    ours, source = compiled("stock"), tree("pristine")
    say("building the pristine tree's objects")
    configure(source, "stock", "objects")
    make(source, "objects", *names)
    if differ := [
        name for name in names if code(ours / name) != code(source / "objects" / name)
    ]:
        raise Failed(f"compiled out, these differ: {', '.join(differ)}")
    print(f"compiled out: {len(names)} objects are equal to the pristine tree's")


def code(path: Path) -> bytes:
    """Return an object without the names of what only it can see.

    The kernel puts line numbers into the names of initcalls, and our lines move them.
    """
    with tempfile.TemporaryDirectory(prefix="extmeta-object-") as scratch:
        target = Path(scratch, "object")
        run("strip", "--strip-unneeded", "-o", target, path)
        return target.read_bytes()


def said(output: str, word: str) -> str:
    """Return the line that begins with a word, or raise Failed with the output's end."""
    for line in output.splitlines():
        if line.startswith(word):
            return line
    raise Failed("\n".join(output.splitlines()[-30:]))


def passed(name: str, output: str, word: str) -> None:
    """Print a boot's result; raise Failed if something was wrong."""
    if bad := [row for row in output.splitlines() if row.startswith(("BAD", "WRONG"))]:
        raise Failed(f"{name}:\n" + "\n".join(bad))
    if found := reports(output):
        raise Failed(f"{name}: the kernel reports:\n" + "\n".join(found))
    print(f"{name}: {said(output, word)}", flush=True)


def words() -> None:
    """Run the checks on each form."""
    for variant, modes in (
        ("linked", 4),
        ("adaptive", 4),
        ("adjacent", 1),
        ("loop", 1),
    ):
        output = boot(build(variant), f"quiet {MOVABLE} do=check modes={modes}")
        passed(variant, output, "CHECKS")


def hooks() -> list[str]:
    """Return file:line of each inserted line that calls a hook of this build."""
    found, name, line = [], "", 0
    for row in PATCH.read_text().splitlines():
        if row.startswith("+++ b/"):
            name = row[6:]
        elif row.startswith("@@"):
            line = int(re.search(r"\+(\d+)", row)[1])  # type: ignore[index]
        elif row.startswith("+"):
            # The loop's hooks are empty in this build; words() runs them.
            if re.search(r"\bext_\w+\(", row) and "ext_loop_words" not in row:
                found.append(f"{name}:{line}")
            line += 1
    return found


def on_two(variant: str, what: str, word: str, *more: str) -> str:
    """Boot on two processors; return what was printed."""
    line = " ".join(("ignore_loglevel", PATIENT, MOVABLE, what, *more))
    printed = boot(build(variant), line, machine=TWO)
    if "Brought up 1 node, 2 CPUs" not in printed:
        raise Failed(f"{variant}: the guest has not two processors")
    if "\nBAD\n" in printed:
        raise Failed(f"{variant}, {what}: {said(printed, word)}")
    passed(f"{variant}, two processors, {what}", printed, word)
    return printed


def stressed(variant: str, *more: str) -> str:
    """Run checks and stress on two processors; return what was printed."""
    stress = f"do=stress seconds={STRESS_SECONDS}"
    return on_two(variant, "do=check", "CHECKS", *more) + on_two(
        variant, stress, "STRESS", *more
    )


def migrate() -> None:
    """Read words of pages that migrate, both ways: none may be missing."""
    on_two("linked", f"do=stress migrate=1 seconds={STRESS_SECONDS}", "STRESS")


def all_reached(output: str) -> None:
    """Raise Failed unless each hook was reached with a word."""
    reached = set(re.findall(r"extmeta site (\S+:\d+)", output))
    missed = [hook for hook in hooks() if hook not in reached]
    print(f"hooks reached with a word: {len(hooks()) - len(missed)} of {len(hooks())}")
    if missed:
        raise Failed(f"never reached: {', '.join(missed)}")


def stress() -> None:
    """Run checks and stress on a kernel that prints which hooks were reached."""
    all_reached(stressed("sites"))
    stressed("adaptive")


def debug() -> None:
    """Run checks and stress on kernels that check themselves.

    Without lib/test_hmm.c: it takes its lock under mmap_lock, and memory that goes offline
    asks KSM, which takes mmap_lock, so lockdep reports the two. None of it is ours.
    """
    for variant in DEBUG:
        said(stressed(variant, "leaks", "devices=0"), "LEAKS")


PARTS = {
    "objects": objects,
    "words": words,
    "stress": stress,
    "migrate": migrate,
    "debug": debug,
}

if __name__ == "__main__":
    try:
        for part in sys.argv[1:] or PARTS:
            if part not in PARTS:
                raise Failed(f"no part {part!r}: there are {', '.join(PARTS)}")
            PARTS[part]()
    except Failed as error:
        sys.exit(f"kernel/check.py: {error}")
