"""Checks the kernels: `python kernel/check.py [PART ...]`, or all parts.

objects  compiled out, the patch leaves no byte in an object of a file that it changes
words    guest/checks.c on each form and in each mode of fork
stress   the same, then guest/stress.c, on two processors; tells which hooks were reached
         with a word
debug    the same as stress, on a kernel with lockdep, DEBUG_VM, KASAN and kmemleak
"""

import os
import re
import sys

from boot import TWO, boot, reports
from kernels import PATCH, Failed, build, compiled, configure, hooked, make, say, tree

STRESS_SECONDS = int(os.environ.get("EXTMETA_STRESS", "240"))
# Objects that include a changed header, beside those of changed files.
TARGETS = ("mm/", "arch/x86/mm/", "kernel/fork.o", "fs/proc/", "fs/userfaultfd.o")


def objects() -> None:
    """Compare objects of the pristine tree with those of the patched one."""
    ours, source = compiled("stock"), tree("pristine")
    theirs = source / "objects"
    say("building the pristine tree's objects")
    configure(source, "stock", "objects")
    make(source, "objects", *TARGETS)
    found = [
        path.relative_to(theirs)
        for target in TARGETS
        for path in theirs.glob(f"{target}**/*.o" if target.endswith("/") else target)
    ]
    found = [name for name in found if name.name not in ("built-in.o", "vmlinux.o")]
    if not found:
        raise Failed("no objects to compare")
    differ = [
        str(name)
        for name in found
        if (ours / name).read_bytes() != (theirs / name).read_bytes()
    ]
    changed = {name[:-2] for name in hooked(PATCH.read_text()) if name.endswith(".c")}
    if missing := changed - {str(name)[:-2] for name in found}:
        raise Failed(f"not compared: {', '.join(missing)}")
    if differ:
        raise Failed(f"compiled out, these differ: {', '.join(differ)}")
    print(
        f"compiled out: {len(found)} objects are byte-identical to the pristine tree's"
    )


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
    for variant, modes in (("linked", 4), ("adjacent", 1), ("loop", 1)):
        output = boot(build(variant), f"quiet do=check modes={modes}")
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


def stressed(variant: str, *more: str) -> str:
    """Run checks and stress on two processors; return what was printed."""
    kernel, output = build(variant), ""
    for what, word in (
        ("do=check", "CHECKS"),
        (f"do=stress seconds={STRESS_SECONDS}", "STRESS"),
    ):
        line = " ".join(("ignore_loglevel", what, *more))
        printed = boot(kernel, line, machine=TWO)
        passed(f"{variant}, two processors, {what}", printed, word)
        output += printed
    reached = set(re.findall(r"extmeta site (\S+:\d+)", output))
    missed = [hook for hook in hooks() if hook not in reached]
    print(f"hooks reached with a word: {len(hooks()) - len(missed)} of {len(hooks())}")
    if missed:
        raise Failed(f"never reached: {', '.join(missed)}")
    return output


def stress() -> None:
    """Run checks and stress on a kernel that prints which hooks were reached."""
    stressed("sites")


def debug() -> None:
    """Run checks and stress on a kernel that checks itself."""
    said(stressed("debug", "leaks"), "LEAKS")


PARTS = {"objects": objects, "words": words, "stress": stress, "debug": debug}

if __name__ == "__main__":
    try:
        for part in sys.argv[1:] or PARTS:
            if part not in PARTS:
                raise Failed(f"no part {part!r}: there are {', '.join(PARTS)}")
            PARTS[part]()
    except Failed as error:
        sys.exit(f"kernel/check.py: {error}")
