"""Deltas against earlier snapshots, through all that happens to a page meanwhile."""

import numpy as np
import pytest

import extmeta as em
from extmeta.cost import forms
from extmeta.workloads import Epochs, play, synthetic
from extmeta.workloads.epochs import Tracker, later

BITS, BACK = 4, 5
PAGES = 1200
HUGE = 1 << 20
# Where pages move to and from.
FAR = 1 << 18


class Pages:
    """The rounds in which pages were written, beside a table with epochs."""

    def __init__(self, form, first):
        self.table = em.PageTable(form, em.Fields(epoch=BITS))
        self.table.map(slice(0, PAGES))
        # Two of `wide`'s leaves are as large as one of others.
        self.size = em.PageTable().huge_ptes()
        self.table.map_huge(range(HUGE, HUGE + self.size, self.table.huge_ptes()))
        self.last = {}
        self.round = 0
        self.table_of(self.table, first)

    def table_of(self, table, first):
        everything = np.array([0, HUGE + self.size - 1], np.uint64)
        patience = Epochs(bits=BITS, back=BACK).patience
        self.tracker = Tracker(table, "epoch", everything, first, BACK, patience)

    def vpns(self):
        return self.table.vpns()

    def write(self, rng):
        vpns = self.vpns()
        vpns = vpns[rng.random(len(vpns)) < 0.05]
        ptes, _words = self.table.snapshot(vpns)
        swapped = vpns[ptes & np.uint64(1) == 0]
        # A page that is written is brought back first.
        self.table.swap_in(swapped, np.arange(len(swapped)))
        self.tracker.write(vpns)
        self.last |= dict.fromkeys(vpns.tolist(), self.round)

    def swap(self, rng):
        ptes, _words = self.table.snapshot(self.vpns())
        present = self.vpns()[ptes & np.uint64(1) == 1]
        out = present[rng.random(len(present)) < 0.1]
        try:
            self.table.swap_out(out, np.arange(1, 1 + len(out)))
        except ValueError:
            # The encoding has no place for an epoch in a swap entry.
            return
        self.table.swap_in(out[::2], np.arange(len(out[::2])))

    def move(self, _rng):
        here = slice(300, 700)
        there = slice(300 + FAR, 700 + FAR)
        src, dst = (here, there) if len(self.table.vpns(here)) else (there, here)
        self.table.move(src, dst.start)
        by = dst.start - src.start
        self.last = {
            vpn + by if src.start <= vpn < src.stop else vpn: at
            for vpn, at in self.last.items()
        }

    def fork(self, _rng):
        self.parent = self.table
        self.table = self.tracker.table = self.table.fork()

    def unmap(self, _rng):
        self.table.unmap(slice(100, 150))
        self.table.map(slice(100, 150))
        for vpn in range(100, 150):
            self.last.pop(vpn, None)

    def split(self, _rng):
        """A huge page that was written in this epoch is split; its PTEs inherit it."""
        if len(self.table.vpns(slice(HUGE, HUGE + self.size))):
            return
        word = self.table.fields.pack(epoch=self.tracker.now)
        for vpn in range(HUGE, HUGE + self.size, self.table.huge_ptes()):
            self.table.split_huge(vpn, word)
        self.last |= dict.fromkeys(range(HUGE, HUGE + self.size), self.round)

    def snapshot(self):
        self.tracker.snapshot()
        self.round += 1

    def written(self, back):
        since = self.round - back
        return sorted(vpn for vpn, at in self.last.items() if at >= since)


@pytest.mark.parametrize("form", forms.default_forms())
@pytest.mark.parametrize("first", [1, 14])
def test_every_delta_is_right_through_all_that_happens_to_pages(form, first):
    """For as many snapshots as the numbers wrap around four times."""
    pages = Pages(forms.form(form), first)
    rng = np.random.default_rng(first)
    happens = (pages.swap, pages.move, pages.fork, pages.unmap, pages.split)
    for number in range(4 << BITS):
        pages.write(rng)
        happens[number % len(happens)](rng)
        pages.snapshot()
        for back in range(1, min(BACK, pages.round) + 1):
            assert pages.tracker.since(back).tolist() == pages.written(back)


def test_a_number_is_never_0():
    number = 1
    for _ in range(100):
        number = later(number, 1, 3)
        assert 1 <= number <= 7
    assert later(later(5, 9, 3), -9, 3) == 5


def test_each_tracker_has_its_own_snapshots():
    found = play(Epochs(snapshots=6, trackers=3), synthetic(700), "linked").counts()
    assert len(found["changed"]) == 6
    assert len(found["changed 1"]) == 3
    assert len(found["changed 2"]) == 2


def test_epochs_and_bitmaps_find_equal_changes():
    given = {"snapshots": 8, "back": 4}
    counts = {
        how: play(Epochs(how=how, **given), synthetic(700), "linked").counts()[
            "changed"
        ]
        for how in ("epochs", "WP_ASYNC", "soft-dirty")
    }
    assert counts["epochs"] == counts["WP_ASYNC"] == counts["soft-dirty"]


def test_the_bitmaps_of_other_trackers_are_counted():
    process = synthetic(700, 1)
    assert Epochs().bitmap_bytes(process) == 0
    assert Epochs(how="WP_ASYNC", back=10).bitmap_bytes(process) == 10 * 88


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"bits": 1}, "bits: 1 is not in"),
        ({"bits": 4, "back": 7}, r"back: 7 is not in \[1, 6\]"),
        ({"trackers": 0}, "trackers: 0 is not in"),
        ({"first": 0}, "first: 0 is not in"),
        ({"how": "WP_ASYNC", "trackers": 2}, "WP_ASYNC has one bit"),
    ],
)
def test_bad_parameters_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        Epochs(**given)
