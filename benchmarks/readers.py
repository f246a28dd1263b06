"""How long a dirty bitmap of 1 TiB takes to read, by the share of pages written.

    python benchmarks/readers.py

Prints the median CPU seconds of `read`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from extmeta.captures.read import read

TIB_PAGES = 1 << 28
SHARES = (0.0, 0.001, 0.01, 0.1)
ROUNDS = 5


def cpu_seconds(call, *given):
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        call(*given)
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def main():
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    rng = np.random.default_rng(0)
    print("share  read, s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bitmap")
        for share in SHARES:
            bits = rng.random(TIB_PAGES, np.float32) < share
            np.packbits(bits, bitorder="little").tofile(path)
            print(f"{share:<7g}{cpu_seconds(read, path):>8.2f}", flush=True)


main()
