"""Which faults flush while a batch is being protected, and what generations spare."""

import numpy as np
import pytest

import extmeta as em
from extmeta.linux import AddressSpace
from extmeta.workloads import (
    DeferredFlush,
    deferred_flush,
    of_capture,
    of_trace,
    play,
    synthetic,
)
from extmeta.workloads.comparison import compare
from extmeta.workloads.deferred_flush import WIDTHS
from extmeta.workloads.play import MismatchError

PROCESS = synthetic(16384)


def totals(load, process=PROCESS, encoding="adaptive"):
    return {
        name: sum(of) for name, of in play(load, process, encoding).counts().items()
    }


@pytest.mark.parametrize("placement", ["random", "clustered"])
def test_a_generation_spares_all_but_a_twentieth_of_the_flushes(placement):
    """With 1 % of the pages being protected at a time."""
    load = DeferredFlush(placement=placement)
    assert load.batch == 0.01
    found = totals(load)
    assert 0 < found["flushes by PTE, 8 bits"] <= 0.05 * found["flushes by mm"]
    assert found["flushes by PTE, 8 bits"] < found["flushes by table"]
    assert found["flushes by table"] < found["flushes by mm"]


def test_a_wider_generation_flushes_no_more_and_a_narrow_one_is_safe():
    """Nine rounds have some 50 generations, which wrap around in 1, 2 and 4 bits."""
    found = totals(DeferredFlush())
    by = [found[f"flushes by PTE, {bits} bits"] for bits in WIDTHS]
    assert by == sorted(by, reverse=True)
    assert by[0] > by[1] > by[2] > found["flushes that are needed"] == by[-1]


def test_ipis_are_of_batches_and_of_faults():
    small, large = (totals(DeferredFlush(rounds=2, cpus=n)) for n in (1, 9))
    assert not any(n for name, n in small.items() if name.startswith("IPIs"))
    batches = large["IPIs by mm"] // 8 - large["flushes by mm"]
    # Each round's 819 pages are protected in the next one, 164 at a time.
    assert batches == 2 * 5


@pytest.mark.parametrize("bits", [1, 2, 16])
@pytest.mark.parametrize("encoding", ["linked", "hash"])
def test_the_words_have_the_plain_arrays_generations(bits, encoding):
    load = DeferredFlush(rounds=2, dirty=0.3, bits=bits)
    process = synthetic(600, 3)
    counts = play(load, process, encoding).counts()
    assert counts == play(DeferredFlush(rounds=2, dirty=0.3), process).counts()


def test_recorded_writes_are_played():
    trace = em.Trace(
        vpns=np.array([0x1000, 0x1001, 0x1000, 0x1001], np.uint64),
        rounds=np.array([0, 2, 3, 4]),
        vmas=np.array([[0x1000, 0x1800]], np.uint64),
        interval=0.5,
        comm="made",
        release="6.18",
        how="WP_ASYNC",
    )
    found = play(DeferredFlush(), of_trace(trace, "made")).counts()
    # One page is protected at a time. The first fault is on that page, the second is not.
    assert found["flushes by mm"] == (0, 1, 1)
    assert found["flushes by PTE, 8 bits"] == (0, 1, 0)


def test_a_capture_is_compared_with_a_narrower_baseline():
    capture = em.load_capture(em.shipped()["numpy-sparse"])
    process = of_capture(capture, "numpy-sparse")
    load = DeferredFlush(rounds=1)
    rows = list(
        compare("deferred-flush", load, process, ["linked"], budget_ns=0, rounds=1)
    )
    assert rows[0].baseline_fields["gen"] < 8 == rows[0].fields["gen"]
    assert (
        rows[0].counts["flushes by mm"][1] > rows[0].counts["flushes by PTE, 8 bits"][1]
    )


def test_protection_that_leaves_a_page_out_is_caught(monkeypatch):
    protect = AddressSpace.uffd_writeprotect

    def leaves_out(self, addr, length, on):
        protect(self, addr, max(4096, length - 4096), on)

    monkeypatch.setattr(AddressSpace, "uffd_writeprotect", leaves_out)
    with pytest.raises(MismatchError, match=r"round 0, protected pages: 3 missing"):
        play(DeferredFlush(dirty=0.0), synthetic(600, 3))


def test_a_generation_that_a_word_does_not_have_is_caught(monkeypatch):
    monkeypatch.setattr(deferred_flush, "stamp", lambda generation, bits: 1)
    with pytest.raises(MismatchError, match="round 1: other generations"):
        play(DeferredFlush(dirty=0.5), synthetic(600, 3))


def test_a_strategy_that_misses_a_flush_is_caught(monkeypatch):
    def none(stamps, *_numbers):
        return stamps < 0

    monkeypatch.setattr(deferred_flush, "pending", none)
    with pytest.raises(MismatchError, match="by table: a page is not flushed"):
        play(DeferredFlush(dirty=0.5), synthetic(600, 3))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"bits": 0}, "bits: 0"),
        ({"bits": 17}, "bits: 17"),
        ({"cpus": 0}, "cpus: 0"),
        ({"batch": 0.0}, "batch: 0.0"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, told):
    with pytest.raises(ValueError, match=told):
        DeferredFlush(**values)
