"""Neighbours with equal words as one run: its first vpn, its end, the word.

Sorted arrays hold the runs of the whole address space, 24 bytes a run. This is little
if runs are long, and three times the size of a word if no two neighbours are equal.
"""

import numpy as np

import extmeta as em


class Runs(em.PythonEncoding):
    """Keep words as runs of PTEs with equal words."""

    def __init__(self):
        self.first = self.stop = self.word = np.empty(0, np.uint64)

    def load(self, vpns):
        at = np.searchsorted(self.stop, vpns, "right")
        # load() is asked for PTEs with a word only, so each vpn is in a run.
        return self.word[at]

    def store(self, vpns, words):
        # Take runs apart that these vpns touch, and make new ones.
        here = (self.stop >= vpns[0]) & (self.first <= vpns[-1] + np.uint64(1))
        old, length = self.taken_apart(here)
        vpns = np.concatenate([vpns, old])
        words = np.concatenate([words, np.repeat(self.word[here], length)])
        vpns, at = np.unique(vpns, return_index=True)
        words = words[at]
        vpns, words = vpns[words != 0], words[words != 0]
        begins = np.ones(len(vpns), bool)
        begins[1:] = (np.diff(vpns) != 1) | (np.diff(words) != 0)
        ends = np.append(begins[1:], True)[: len(vpns)]
        first = np.concatenate([self.first[~here], vpns[begins]])
        order = np.argsort(first)
        # Make new arrays; a fork may still use the old ones.
        self.first = first[order]
        self.stop = np.concatenate([self.stop[~here], vpns[ends] + np.uint64(1)])[order]
        self.word = np.concatenate([self.word[~here], words[begins]])[order]

    def taken_apart(self, runs):
        """Return the vpns of some runs, and the number of each run."""
        first = self.first[runs]
        length = (self.stop[runs] - first).astype(np.intp)
        before = np.cumsum(length) - length
        place = np.arange(length.sum()) - np.repeat(before, length)
        return np.repeat(first, length) + place.astype(np.uint64), length

    def copy_from(self, parent):
        self.first, self.stop, self.word = parent.first, parent.stop, parent.word

    def scan(self, vpns, mask, value):
        first, stop = vpns.start, vpns.stop
        here = (self.stop > first) & (self.first < stop)
        found, _ = self.taken_apart(here & (self.word & np.uint64(mask) == value))
        return found[(found >= first) & (found < stop)]

    def side_bytes(self):
        return self.word.nbytes

    def index_bytes(self):
        return self.first.nbytes + self.stop.nbytes

    def check(self):
        # python -O removes assert statements.
        if (self.first >= self.stop).any():
            raise AssertionError("a run without a PTE")
        if (self.stop[:-1] > self.first[1:]).any():
            raise AssertionError("runs overlap")
        joined = (self.stop[:-1] == self.first[1:]) & (np.diff(self.word) == 0)
        if joined.any():
            raise AssertionError("two runs that should be one")
