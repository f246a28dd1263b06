"""How long a capture may hold a process's mmap_lock, and what it costs.

    python benchmarks/collector.py [MIB ...]

The kernel gives up the lock at the end of each call at the latest, so the processor time
of the longest call is a bound. For each MIB a process is started that has touched so
much memory, in 4 KiB pages. Prints, in microseconds, the longest call of each kind in
`ROUNDS` captures, the median of these maxima, and the processor time of a capture.
"""

import argparse
import contextlib
import fcntl
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict

import options

from extmeta.captures import procfs
from extmeta.captures.process import capture

ROUNDS = 9
TOUCH = """
import ctypes, mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]) << 20)
memory.madvise(mmap.MADV_NOHUGEPAGE)
ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, len(memory))
print(flush=True)
input()
"""


@contextlib.contextmanager
def longest_calls():
    """Give a dict that gets the longest call of each kind, in seconds."""
    longest = defaultdict(float)
    before = os.preadv, fcntl.ioctl, procfs.slurp

    def timed(kind, call, *given):
        start = time.thread_time()
        try:
            return call(*given)
        finally:
            longest[kind] = max(longest[kind], time.thread_time() - start)

    def slurp(where, name):
        found = procfs.open_file(where, name)
        pieces = []
        try:
            while piece := timed(name, os.read, found, 1 << 16):
                pieces.append(piece)
        finally:
            os.close(found)
        return b"".join(pieces)

    os.preadv = lambda *given: timed("pagemap", before[0], *given)
    fcntl.ioctl = lambda *given: timed("PAGEMAP_SCAN", before[1], *given)
    procfs.slurp = slurp
    try:
        yield longest
    finally:
        os.preadv, fcntl.ioctl, procfs.slurp = before


def rounds_of(pid, gentle):
    """Return the longest calls of `ROUNDS` captures."""
    rounds = []
    for _ in range(ROUNDS):
        with longest_calls() as longest:
            start = time.process_time()
            capture(pid, gentle=gentle)
            longest["capture"] = time.process_time() - start
        rounds.append(longest)
    return rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mib", nargs="*", type=options.from_1, default=[16, 256, 1024])
    kinds = ("smaps", "maps", "PAGEMAP_SCAN", "pagemap", "capture")
    print(f"{'MiB':>6}{'':>15}" + "".join(f"{kind:>14}" for kind in kinds))
    for mib in parser.parse_args().mib:
        command = [sys.executable, "-c", TOUCH, str(mib)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **pipes) as process:
            process.stdout.readline()
            for gentle in (False, True):
                rounds = rounds_of(process.pid, gentle)
                for how, of in (("median", statistics.median), ("most", max)):
                    line = f"{mib:>6}{'gentle ' * gentle + how:>15}"
                    for kind in kinds:
                        line += f"{1e6 * of([one[kind] for one in rounds]):>14,.0f}"
                    print(line, flush=True)
            process.communicate(b"\n")


main()
