"""Would a container of runs make the side memory of `adaptive` smaller?

    python benchmarks/runs.py [CAPTURE ...]

A run is a first position and a length, 16 bits each, and the word that all of its entries
have. For each PTE table, the bytes that `adaptive` takes are compared with those of runs,
rounded up to a size of side memory. What is printed is what would be saved if each table
took the smaller one. In the first figure a run ends at a PTE without a word. In the second
it goes on, since the PTE's flag says that it has none.
"""

import argparse

import numpy as np
from options import capture

import extmeta as em
from extmeta.captures.capture import shipped
from extmeta.cost.placement import flags
from extmeta.cost.space import space_of
from extmeta.rows import Point

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, meta=62)
INTERVALS = 16


def of_trackers(captured, vpns):
    """Return the uffd-wp and soft-dirty bits that the capture has."""
    return captured.build("adaptive", FIELDS).load(vpns)


def ages(vpns, placement):
    """Return 1 for a page accessed in the last interval, 2 if before that, and so on.

    In each of `INTERVALS` a quarter of the pages is accessed.
    """
    age = np.full(len(vpns), INTERVALS, np.uint64)
    for interval in range(INTERVALS):
        age += np.uint64(1)
        age[flags(vpns, Point(0.25, placement), interval)] = 1
    return np.minimum(age, np.uint64(INTERVALS))


def owners(vpns, bits):
    """Return words for a tenth of the pages, in clusters, a word for each cluster."""
    flagged = flags(vpns, Point(0.1, "clustered"), 0)
    cluster = np.cumsum(np.diff(flagged, prepend=False))
    rng = np.random.default_rng(1)
    drawn = rng.integers(1, 1 << bits, cluster[-1] + 1, dtype=np.uint64)
    return np.where(flagged, drawn[cluster], np.uint64(0))


WORDS = {
    "bits of trackers": of_trackers,
    "ages, random": lambda _capture, vpns: ages(vpns, "random"),
    "ages, clustered": lambda _capture, vpns: ages(vpns, "clustered"),
    "8 bits a cluster": lambda _capture, vpns: owners(vpns, 8),
    "63 bits a cluster": lambda _capture, vpns: owners(vpns, 63),
}


def rounded(nbytes):
    """Return the size of side memory that holds so many bytes."""
    step = max(8, (1 << (nbytes - 1).bit_length()) // 8)
    return -(-nbytes // step) * step


def of_runs(words, starts):
    """Return the bytes of a table's words in runs that begin where ``starts`` says."""
    width = max(8, 1 << (int(words.max()).bit_length() - 1).bit_length())
    return rounded(int(starts.sum()) * (4 + width // 8))


def compared(space, words):
    """Return how many tables have words, their bytes, and what runs would save."""
    table = space.bare("adaptive", FIELDS)
    has = words != 0
    vpns, words = space.vpns[has], words[has]
    owner = vpns >> np.uint64(9)
    turns = np.diff(words, prepend=~words[:1]) != 0
    gaps = np.diff(vpns, prepend=vpns[:1] - np.uint64(2)) != 1
    held, saved = 0, np.zeros(2, np.int64)
    first = np.flatnonzero(np.diff(owner, prepend=owner[:1] + np.uint64(1)))
    for part in map(slice, first, [*first[1:], len(vpns)]):
        table.store(vpns[part], words[part])
        present = table.memory().side - held
        held += present
        for kind, starts in enumerate((turns | gaps, turns)):
            begins = starts[part].copy()
            begins[0] = True
            saved[kind] += max(0, present - of_runs(words[part], begins))
    return len(first), held, saved


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captures", nargs="*", type=capture, metavar="CAPTURE")
    captures = parser.parse_args().captures
    print("capture, words: tables with words, bytes of each, saved, if runs span gaps")
    for captured, name in captures or map(capture, shipped()):
        space = space_of(captured, name)
        for kind, make in WORDS.items():
            words = make(captured, space.vpns)
            if not words.any():
                continue
            tables, held, saved = compared(space, words)
            shares = "".join(f"{n / held if held else 0:>7.0%}" for n in saved)
            line = f"{name}, {kind}"
            print(f"{line:<38} {tables:>4} {held / tables:>6.0f} {shares}", flush=True)


if __name__ == "__main__":
    main()
