"""How long a dirty bitmap of 1 TiB takes to read, by the share of pages written.

    python benchmarks/readers.py [CHUNK_WORDS ...]

Prints the median CPU seconds of `read` and, for each CHUNK_WORDS, of `set_bits`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import options

from extmeta.captures.formats import dirty_bitmap
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chunks", nargs="*", type=options.from_1, metavar="CHUNK_WORDS")
    chunks = parser.parse_args().chunks or [dirty_bitmap.CHUNK_WORDS]
    rng = np.random.default_rng(0)
    print("share  read, s " + "".join(f"{chunk:>10}" for chunk in chunks))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bitmap")
        for share in SHARES:
            bits = rng.random(TIB_PAGES, np.float32) < share
            np.packbits(bits, bitorder="little").tofile(path)
            words = np.fromfile(path, np.uint64)
            line = f"{share:<7g}{cpu_seconds(read, path):>8.2f} "
            for dirty_bitmap.CHUNK_WORDS in chunks:
                taken = cpu_seconds(dirty_bitmap.set_bits, words)
                line += f"{taken:>10.2f}"
            print(line, flush=True)


main()
