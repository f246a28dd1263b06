"""Sweeps many captures with one worker and with two: rows, time and memory.

The captures are made: each is a random window of one that ships. They differ in size
from 1,000 PTEs to the whole. The same rows have to come from any number of workers.

    python benchmarks/fleet.py                          # 10,000 captures
    python benchmarks/fleet.py --captures 500 --ram-only
    python benchmarks/fleet.py --captures 1500 --workers 2 1 2 1

Instructions are counted first, by a sweep of one capture. CPU time over wall time tells
how many processors a run really had: other work on the machine makes it less than the
number of workers, and then wall times tell nothing about workers.
"""

import argparse
import dataclasses
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import options

import extmeta as em

MACHINES = 100


def window(capture, rng):
    """Return a capture of some of another one's pages, in a row."""
    n = len(capture.vpn)
    size = int(min(n, 1000 * np.exp(rng.exponential(1.2))))
    first = int(rng.integers(n - size + 1))
    kept = slice(first, first + size)
    vpn = capture.vpn[kept]
    huge = capture.huge_vpn
    inside = np.isin(huge, vpn) & np.isin(huge + np.uint64(511), vpn)
    # The parts of a leaf that the window cuts are left out.
    cut = np.isin(vpn >> np.uint64(9), huge[~inside] >> np.uint64(9))
    none = np.zeros_like(capture.vma_unlocated_kb)
    return dataclasses.replace(
        capture,
        vpn=vpn[~cut],
        entry=capture.entry[kept][~cut],
        huge_vpn=huge[inside],
        vma_unlocated_kb=none,
        vma_anon_huge_kb=none,
        settled=False,
    )


def make(folder, count, seed=1):
    """Write captures, in a folder for each machine."""
    rng = np.random.default_rng(seed)
    of = [em.load_capture(path) for path in em.shipped().values()]
    total = 0
    for i in range(count):
        machine = folder / f"m{i % MACHINES:03}"
        machine.mkdir(exist_ok=True)
        capture = window(of[rng.integers(len(of))], rng)
        total += len(capture.vpn)
        capture.save(machine / f"{i:05}.npz")
    return total


def sha256(folder):
    """Return a digest of all files of results, and their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.parquet")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def swept(captures, out, workers, what, more=()):
    """Sweep captures into a folder, and print what it takes."""
    command = [sys.executable, "-m", "extmeta", "sweep", captures, "-o", out]
    command += ["--workers", str(workers), *more]
    before, start = usage(), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took, cpu = time.monotonic() - start, usage() - before
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(
        f"{what}: {took:.1f} s, {cpu:.1f} s of CPU time, {cpu / took:.2f} processors, "
        f"at most {most} MiB a process so far",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--captures", type=options.from_1, default=10_000)
    parser.add_argument("--workers", type=options.from_1, nargs="+", default=[2, 1])
    parser.add_argument("--ram-only", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep captures and results there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        captures = folder / "captures"
        if not captures.exists():
            captures.mkdir(parents=True)
            total = make(captures, args.captures)
            print(f"{args.captures:,} captures, {total / args.captures:,.0f} PTEs each")
        costs = None
        if not args.ram_only:
            one = folder / "one"
            one.mkdir(exist_ok=True)
            first = next(captures.glob("*/*.npz"))
            (one / first.name).write_bytes(first.read_bytes())
            swept(one, folder / "counted", 2, "instructions counted")
            costs = (folder / "counted" / "_costs.json").read_bytes()
        digests = set()
        for number, workers in enumerate(args.workers):
            out = folder / f"{number}-by-{workers}"
            out.mkdir(exist_ok=True)
            if costs:
                (out / "_costs.json").write_bytes(costs)
            ram_only = ["--ram-only"] * args.ram_only
            swept(captures, out, workers, f"{workers} workers", ram_only)
            digests.add(sha256(out))
        print("equal files" if len(digests) == 1 else "FILES DIFFER")
    sys.exit(len(digests) != 1)


def usage():
    """Return the CPU time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
