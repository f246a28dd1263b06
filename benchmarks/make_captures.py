"""Make the captures that come with the package, and the README beside them.

    python benchmarks/make_captures.py [FOLDER]

Starts redis-server, numpy and node, one after the other, loads them, and
captures each while it is stopped. Needs root or nothing: PFNs are not kept.
The workloads are seeded, but addresses and allocators are not: the numbers of
entries and tables vary by a few from run to run.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extmeta.captures import whole_file
from extmeta.captures.capture import Capture, load_capture
from extmeta.captures.process import capture

DATA = Path(__file__).resolve().parent.parent / "src" / "extmeta" / "data"
SECONDS = 60.0

REDIS_KEYS = 400_000
REDIS_BATCH = 10_000
VALUE_BYTES = 200

NUMPY = """
import sys
import numpy as np
sparse = np.empty(256 << 20, np.uint8)
rng = np.random.default_rng(1)
sparse[rng.integers(0, sparse.size, 6_000)] = 1
dense = np.ones(24 << 20, np.uint8)
print("ready", flush=True)
sys.stdin.read()
"""

NODE = """
const kept = [];
for (let i = 0; i < 400000; i++)
  kept.push({id: i, name: "object " + i, next: kept[i >> 1]});
console.log("ready");
process.stdin.on("data", () => kept.length);
"""


class Program(NamedTuple):
    """What is captured: its name, what it did, how to run it, its version."""

    name: str
    did: str
    run: Callable[[], contextlib.AbstractContextManager[int]]
    version: Callable[[], str]


@contextlib.contextmanager
def child(
    *command: str, ready: bool = True, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a command until it says "ready", and end it afterwards."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        if ready and process.stdout and process.stdout.readline() != "ready\n":
            raise SystemExit(f"{command[0]} did not get ready")
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def connected(path: Path) -> socket.socket:
    """Return a connection to the socket at ``path``, once it is there."""
    deadline = time.monotonic() + SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return connection


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """Run redis-server after `REDIS_KEYS` SETs of `VALUE_BYTES` bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", str(path)]
        command += ["--save", "", "--appendonly", "no", "--dir", folder]
        with child(*command, ready=False) as server, connected(path) as connection:
            replies = connection.makefile("rb")
            for first in range(0, REDIS_KEYS, REDIS_BATCH):
                keys = [b"key:%d" % i for i in range(first, first + REDIS_BATCH)]
                connection.sendall(
                    b"".join(
                        b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
                        % (len(key), key, VALUE_BYTES, b"x" * VALUE_BYTES)
                        for key in keys
                    )
                )
                if replies.read(5 * REDIS_BATCH) != b"+OK\r\n" * REDIS_BATCH:
                    raise SystemExit("redis-server refused a SET")
            yield server.pid


@contextlib.contextmanager
def numpy_sparse() -> Iterator[int]:
    """Run a sparse and a dense numpy array, without transparent huge pages."""
    with child(sys.executable, "-c", NUMPY, NUMPY_MADVISE_HUGEPAGE="0") as process:
        yield process.pid


@contextlib.contextmanager
def node() -> Iterator[int]:
    """Run node with many small objects."""
    with child("node", "-e", NODE) as process:
        yield process.pid


def said(*command: str) -> str:
    """Return the version number in what a command prints."""
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"\d+\.\d+[.\d]*", text)
    return match.group() if match else text.strip()


PROGRAMS = (
    Program(
        "numpy-sparse",
        "a 256 MiB numpy array touched at 6,000 random places, and 24 MiB filled; "
        "4 KiB pages (NUMPY_MADVISE_HUGEPAGE=0)",
        numpy_sparse,
        lambda: f"numpy {np.__version__}, Python {sys.version.split()[0]}",
    ),
    Program(
        "redis",
        f"redis-server after {REDIS_KEYS:,} SETs of {VALUE_BYTES} bytes",
        redis,
        lambda: f"redis {said('redis-server', '--version')}",
    ),
    Program(
        "node",
        "node holding 400,000 small objects",
        node,
        lambda: f"node {said('node', '--version')}",
    ),
)

README = """\
# Captures that come with extmeta

Each `NAME.npz` is the page tables of one process, stopped while it was read:
no PFNs, no contents, file names without folders. `extmeta.captures.capture` describes
the format. All of them are made by

    python benchmarks/make_captures.py

| capture | what ran | version | kernel | entries | PTE, PMD, PUD tables | \
entries a table | VmPTE, KiB | empty tables | anonymous huge pages |
|---|---|---|---|---|---|---|---|---|---|
{rows}

VmPTE is 4 KiB for each of these tables: what the kernel itself says the tables
take, without the root. Empty tables are those that VmPTE counts and no entry
needs.

Anonymous huge pages are 2 MiB leaves, for each of which Linux deposits a PTE table.
"Not marked" are those of captures from before extmeta told them from 512 PTEs; the
number is how many there may be at most.

sha256 of the contents (`Capture.sha256`):

{digests}
"""


def row(program: Program, made: Capture) -> str:
    """Return a capture's row of the README."""
    need = made.tables_needed()
    cells = (
        program.name,
        program.did,
        program.version(),
        made.kernel,
        f"{len(made.vpn):,}",
        f"{need.pte}, {need.pmd}, {need.pud}",
        f"{len(made.vpn) / need.pte:.0f}",
        f"{made.vmpte_kb:,}",
        f"{made.empty_tables}",
        f"not marked, at most {made.unmarked}"
        if made.unmarked
        else f"{len(made.deposited_vpn)}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run each program, capture it, and describe what was captured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DATA)
    folder = parser.parse_args().folder
    rows = []
    digests = []
    for program in PROGRAMS:
        with program.run() as pid:
            seen = capture(pid, stop=True)
        if not seen.settled:
            raise SystemExit(f"{program.name} moved while it was stopped")
        path = folder / f"{program.name}.npz"
        seen.save(path)
        made = load_capture(path)
        rows.append(row(program, made))
        digests.append(f"    {made.sha256}  {program.name}")
        print(f"{path.stat().st_size:>9,} bytes  {made}")
    text = README.format(rows="\n".join(rows), digests="\n".join(digests))
    whole_file.replace(folder / "README.md", text.encode())


if __name__ == "__main__":
    main()
