"""Scans find the same vpns, and loads the same words, whichever instructions are used."""

import os
import subprocess
import sys

import numpy as np
import pytest

import extmeta as em
from extmeta.table.simd import instructions, vpns_of

PATHS = ("none", "avx2", "avx512")
TABLES = 8
PTES = 512 * TABLES
# Neither end lies on a multiple of 64.
FIRST, STOP = 100, PTES - 77
WIDTHS = (2, 8, 13, 16, 30, 61, 64)
FRACTIONS = (0.0, 0.003, 0.01, 0.03, 0.06, 0.2, 0.7, 1.0)


def words_of(rng, kind, bits, n):
    """Return n words, none of them 0: of one value, of three, or all different."""
    values = {"one": 1, "few": 3, "different": n}[kind]
    some = rng.integers(1, 2**bits - 1, values, np.uint64, endpoint=True)
    return some[rng.integers(values, size=n)] if kind != "different" else some


def compare(encoding):
    """Compare scans of tables with all kinds of words with what numpy finds."""
    compared = 0
    for bits in WIDTHS:
        try:
            em.PageTable(encoding, em.Fields(meta=bits))
        except ValueError:
            continue
        for fraction in FRACTIONS:
            for kind in ("one", "few", "different"):
                rng = np.random.default_rng(bits)
                table = em.PageTable(encoding, em.Fields(meta=bits))
                table.map(slice(FIRST, STOP))
                vpns = np.flatnonzero(rng.random(PTES) < fraction)
                vpns = vpns[(vpns >= FIRST) & (vpns < STOP)]
                stored = words_of(rng, kind, bits, len(vpns))
                if len(vpns):
                    table.store(vpns, stored)
                words = table.load(slice(0, PTES))
                assert np.array_equal(words[vpns], stored)
                assert np.count_nonzero(words) == len(vpns)
                compared += compare_scans(table, bits)
    return compared


def compare_scans(table, bits):
    words = table.load(slice(0, PTES))
    mapped = np.arange(FIRST, STOP, dtype=np.uint64)
    every = 2**bits - 1
    asked = [(1, 1), (3, 2), (3, 0), (0, 0), (every, int(words.max())), (every, 0)]
    for mask, value in asked:
        right = mapped[words[mapped] & np.uint64(mask) == np.uint64(value)]
        assert np.array_equal(table.scan(slice(0, PTES), mask, value), right)
        some = right[(right >= 513) & (right < PTES - 600)]
        assert np.array_equal(table.scan(slice(513, PTES - 600), mask, value), some)
    return len(asked)


def compare_bitmaps():
    """Compare pages of bitmaps with what numpy finds, and return how many there are."""
    compared = 0
    for seed, share in enumerate((0, 0.001, 0.01, 0.1, 0.5, 0.9, 1)):
        bits = np.random.default_rng(seed).random(64 * 50) < share
        words = np.packbits(bits, bitorder="little").view("<u8").astype(np.uint64)
        for some, first in ((words, 0), (words[:1], 1 << 33), (words[::3], 5)):
            found = vpns_of(some, first)
            raw = some.astype("<u8").view(np.uint8)
            right = np.flatnonzero(np.unpackbits(raw, bitorder="little")) + first
            assert np.array_equal(found, right.astype(np.uint64))
            compared += len(found)
    assert len(vpns_of(words[:0])) == 0
    return compared


@pytest.mark.parametrize("path", PATHS)
def test_each_path_finds_what_numpy_finds(path):
    if PATHS.index(path) > PATHS.index(instructions()):
        pytest.skip(f"this processor has {instructions()}, not {path}")
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"EXTMETA_SIMD": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used, compared, pages = done.stdout.split()
    assert used == path
    assert int(compared) > 1000
    assert int(pages) > 1000


if __name__ == "__main__":
    each = [compare(name) for name in ("adaptive", "linked", "inpte", "hash", "wide")]
    print(instructions(), sum(each), compare_bitmaps())
