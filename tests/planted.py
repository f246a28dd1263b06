"""Bugs planted in the core, each of which the tests must find.

    python tests/planted.py                  all, some minutes
    python tests/planted.py --only leaves    those whose name has that
    python tests/planted.py --tree DIR       in another checkout, with its own tests

A copy of the tree gets one piece of text replaced, is compiled, and runs the tests of
the core until one fails. A crash or a hang counts as found. Exit 1 if a bug survives.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Seconds after which the tests hang.
PATIENCE = 900


@dataclass(frozen=True)
class Planted:
    """A bug: in the one .pyx file that has it, a text stands for another."""

    name: str
    sound: str
    planted: str


BUGS = (
    Planted(
        "map counts a vpn that is named twice as two entries",
        "            t.used += <unsigned int>made\n",
        "            t.used += <unsigned int>r.n\n",
    ),
    Planted(
        "a freed table stays counted in the one above it",
        "            self.frames.free(t)\n            parent.used -= 1\n",
        "            self.frames.free(t)\n",
    ),
    Planted(
        "move leaves the PTEs of its source",
        "            source[i * stride] = none\n",
        "",
    ),
    Planted(
        "unmapped leaves keep their deposited table",
        "            if t is not NULL:\n                self.frames.free(t)\n"
        "            t = self.holder(",
        "            t = self.holder(",
    ),
    Planted(
        "swap-in makes each PTE writable",
        "<< a.pfn_shift | present_bits(a, writable)\n",
        "<< a.pfn_shift | present_bits(a, True)\n",
    ),
    Planted(
        "an object shared by two page tables counts as one's own",
        "        if self.users > 1:\n            shared =",
        "        if self.users > 2:\n            shared =",
    ),
    Planted(
        "a reader's range waits for no writer",
        "                    writes or other.writes):\n",
        "                    writes and other.writes):\n",
    ),
    Planted(
        "a snapshot does not look at the table's count of changes",
        "                if good and unchanged_since(&t.seq, before):\n",
        "                if good:\n",
    ),
    Planted(
        "side memory stays if words go by a list of vpns",
        "                untidy |= t.next != 0 or settles and t.flagged == 0\n",
        "                untidy |= t.next != 0\n",
    ),
    Planted(
        "frames are freed under a reader without a lock",
        "        if any_reader():\n            old = <Ptdesc*>",
        "        if False:\n            old = <Ptdesc*>",
    ),
    Planted(
        "linked forgets to count a word that goes",
        "                    entry[e] = pte & ~flag\n                    t.flagged -= 1\n",
        "                    entry[e] = pte & ~flag\n",
    ),
    Planted(
        "a write that is refused leaves the room that it made",
        "        self.settle_span(s, at)\n        self.encoding.end()\n"
        "        return failed\n",
        "        self.encoding.end()\n        return failed\n",
    ),
    Planted(
        "a table that moved is still looked for where it was",
        "                if made is not t:\n                    self.forget(&g)\n",
        "",
    ),
    Planted(
        "room in a list is promised to several runs",
        "        pending(t).count += <uint32_t>joins\n",
        "",
    ),
    Planted(
        "an unmap does not count words out of the table above",
        "                pmd.flagged -= 1\n",
        "                pass\n",
    ),
    Planted(
        "PAGEMAP_SCAN may find a page too many",
        "        full[0] = self.found_pages + (stop - first) > self.max_pages\n",
        "        full[0] = self.found_pages + (stop - first) > self.max_pages + 1\n",
    ),
    Planted(
        "a write does not copy a page that is mapped twice",
        "        pages[pfns[i]].mapcount += <uint32_t>more\n",
        "        pages[pfns[i]].mapcount = <uint32_t>(more > 0)\n",
    ),
)

LEFT_OUT = (".git", ".venv", "guest", "oracle", "sanitize*", "tsan*", "__pycache__")


def plant(tree: Path, bug: Planted) -> None:
    """Replace the text in the one file of ``tree`` that has it, once."""
    found = [p for p in (tree / "src").rglob("*.pyx") if bug.sound in p.read_text()]
    if len(found) != 1 or found[0].read_text().count(bug.sound) != 1:
        sys.exit(f"{bug.name}: the text is in {[str(p) for p in found]}")
    found[0].write_text(found[0].read_text().replace(bug.sound, bug.planted))


def core(tests: Path) -> list[Path]:
    """Return the tests of compiled code, in the folders of today or flat."""
    words = "conformance pagetable encodings adaptive faults reserve copies deposited"
    words += (
        " arch pgtable snapshot threads reentry page_ext xarray hash compact vpnhash"
        " addressspace addressspace_scan"
    )
    names = {f"test_{word}.py" for word in words.split()}
    return sorted(path for path in tests.rglob("test_*.py") if path.name in names)


def failure(tree: Path) -> str | None:
    """Compile the tree and run its tests; return what the first failure says."""
    env = {**os.environ, "PYTHONPATH": str(tree / "src")}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=tree, env=env, check=True, capture_output=True)
    jobs = str(os.cpu_count())
    run = [sys.executable, "-m", "pytest", "-q", "-x", "-n", jobs, "-m", "not slow"]
    run += ["--dist", "loadfile", "-p", "no:cacheprovider"]
    run += [str(path) for path in core(tree / "tests")]
    try:
        done = subprocess.run(
            run,
            cwd=tree,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"a hang of {PATIENCE} s"
    if done.returncode == 0:
        return None
    told = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return told[0].split(" - ")[0][7:] if told else done.stdout[-500:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="part of a bug's name")
    parser.add_argument("--tree", type=Path, default=ROOT, help="a compiled checkout")
    args = parser.parse_args()
    bugs = [bug for bug in BUGS if args.only in bug.name]
    if not bugs:
        parser.error(f"--only {args.only}: no bug has this in its name")
    survived = 0
    for bug in bugs:
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder) / "tree"
            # With its times, so that only what is planted compiles.
            shutil.copytree(
                args.tree, tree, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT)
            )
            plant(tree, bug)
            found = failure(tree)
        survived += found is None
        print(f"{bug.name}: {found or 'SURVIVED'}", flush=True)
    print(f"{len(bugs) - survived} of {len(bugs)} found")
    sys.exit(bool(survived))


if __name__ == "__main__":
    main()
