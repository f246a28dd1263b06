"""Make the captures that come with the package, and the README beside them.

    python benchmarks/make_captures.py [NAME ...] [--folder FOLDER]

Starts each program of `programs.py`, one after the other, captures it while it is
stopped, and describes in the README what the folder then has. A program that this
machine can't run is left out, with the reason. Needs root, to make a swap file and to
start the database as its user; PFNs are not kept.
"""

import argparse
import dataclasses
import subprocess
from pathlib import Path

from programs import PROGRAMS

from extmeta.captures import whole_file
from extmeta.captures.capture import Capture, load_capture
from extmeta.captures.process import capture

DATA = Path(__file__).resolve().parent.parent / "src" / "extmeta" / "data"
# What a program that this machine can't run may raise.
FAILURES = (
    *(OSError, LookupError, ValueError, RuntimeError),
    *(subprocess.SubprocessError, SystemExit),
)
COMMAND = "python benchmarks/make_captures.py"

README = """\
# Captures that come with extmeta

Each `NAME.npz` is the page tables of one process, stopped while it was read:
no PFNs, no contents, file names without folders. `extmeta.captures.capture` describes
the format. All of them are made by

    {command}

| capture | what ran | kernel | entries | PTE, PMD, PUD tables | entries a table | \
VmPTE, KiB | empty tables | swapped | anonymous huge pages |
|---|---|---|---|---|---|---|---|---|---|
{rows}

VmPTE is 4 KiB for each of these tables: what the kernel itself says the tables
take, without the root. Empty tables are those that VmPTE counts and no entry
needs.

Anonymous huge pages are 2 MiB leaves, for each of which Linux deposits a PTE table.
"Not marked": extmeta did not yet tell huge pages from 512 PTEs when it made this
capture. There are as many as the number says, or fewer.

sha256 of the contents (`Capture.sha256`):

{digests}
"""


def made(name: str) -> Capture:
    """Return the capture of a program."""
    program = PROGRAMS[name]
    about = f"{program.did}; {program.version()}; {COMMAND} {name}"
    with program.run() as pid:
        found = capture(pid, stop=True)
    if not found.settled:
        raise SystemExit(f"{name} moved while it was stopped")
    return dataclasses.replace(found, about=about)


def row(name: str, of: Capture) -> str:
    """Return a capture's row of the README."""
    need = of.tables_needed()
    cells = (
        name,
        of.about.rpartition("; ")[0],
        of.kernel,
        f"{len(of.vpn):,}",
        f"{need.pte}, {need.pmd}, {need.pud}",
        f"{len(of.vpn) / need.pte:.0f}",
        f"{of.vmpte_kb:,}",
        f"{of.empty_tables}",
        f"{of.nr_swapped:,}",
        f"not marked, at most {of.unmarked}"
        if of.unmarked
        else f"{len(of.deposited_vpn)}",
    )
    return f"| {' | '.join(cells)} |"


def readme(folder: Path) -> str:
    """Return the README of the captures in a folder."""
    found = {path.stem: load_capture(path) for path in sorted(folder.glob("*.npz"))}
    return README.format(
        command=COMMAND,
        rows="\n".join(row(name, of) for name, of in found.items()),
        digests="\n".join(f"    {of.sha256}  {name}" for name, of in found.items()),
    )


def main() -> None:
    """Run programs, capture them, and describe what was captured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--folder", type=Path, default=DATA)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(PROGRAMS):
        parser.error(f"no program named {min(unknown)!r}; there are {[*PROGRAMS]}")
    if not arguments.folder.is_dir():
        parser.error(f"{arguments.folder}: no such folder")
    for name in arguments.names or PROGRAMS:
        try:
            found = made(name)
        except FAILURES as error:
            print(f"{name} is left out: {type(error).__name__}: {error}", flush=True)
            continue
        path = arguments.folder / f"{name}.npz"
        found.save(path)
        print(f"{path.stat().st_size:>9,} bytes  {found}", flush=True)
    text = readme(arguments.folder)
    whole_file.replace(arguments.folder / "README.md", text.encode())


if __name__ == "__main__":
    main()
