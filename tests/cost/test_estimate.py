"""Instructions estimated from how PTEs and words lie."""

import numpy as np
import pytest

import extmeta as em
from extmeta.arch import arch_named
from extmeta.cost import census, estimate, instructions, placement, sweep, terms
from extmeta.cost.samples import sample
from extmeta.cost.space import space_of
from extmeta.encodings import encodings
from extmeta.fields import Fields
from extmeta.rows import OPERATIONS

FIELDS = Fields(uffd_wp=1, soft_dirty=1, age=4)

# docs/fleets.md has what benchmarks/estimates.py has seen.
TOLERANCES = {"linked": 0.05, "adaptive": 0.15}


def lies(count, bits=(9, 9, 9, 9)):
    arch = arch_named("x86_64")
    for seed in range(count):
        load, layout = estimate.loaded(
            sample(arch, seed), arch, "linked", FIELDS, "different"
        )
        yield load, layout, estimate.lie(load, layout, bits)


def test_words_are_marked_by_what_operations_find_in_them():
    for load, layout, lie in lies(20):
        found = dict(zip(census.WALK_NAMES, lie.tables, strict=True))
        matched = load.words & np.uint64(load.clear_bit) != 0
        blocks = np.unique(load.space.vpns[matched] >> np.uint64(6))
        assert found["matched_blocks"] == len(blocks)
        assert found["zeroed"] == (load.words == load.clear_bit).sum()
        assert found["flagged"] == len(load.flagged_vpns)
        assert found["swapped"] == layout.swapped.sum()
        written = dict(zip(census.ARRAY_NAMES, lie.written, strict=True))
        assert written["one"] == (len(load.flagged_vpns) > 0)


@pytest.mark.parametrize("text", encodings())
def test_every_operation_can_be_counted_on_a_sample(text):
    """Where swap entries can't hold the words, the sample has none."""
    arch = arch_named("x86_64")
    kept = 0
    for seed in range(40):
        made = sample(arch, seed)
        load, layout = estimate.loaded(made, arch, text, FIELDS, "different")
        estimate.work(text, load)
        kept += bool(layout.swapped.any())
    assert kept or text in ("inpte", "page_ext")


@pytest.mark.parametrize("operation", ["load", "unmap"])
def test_costs_that_add_up_are_found(operation):
    """An operation that takes so much for each of some terms is estimated exactly."""
    rng = np.random.default_rng(5)
    numbers = np.array([lie.of(operation) for _, _, lie in lies(40)])
    numbers = numbers[numbers.any(axis=1)]
    chosen = rng.permutation(terms.TERMS[operation][0])[:5]
    each = np.zeros(numbers.shape[1])
    each[chosen] = rng.integers(1, 50, 5)
    counts = 5000 + numbers @ each
    found = terms.fitted(operation, numbers, counts)
    assert found.min() >= 0
    assert numbers @ found == pytest.approx(counts, rel=0.02)


def test_costs_survive_their_file():
    each = {
        name: np.arange(len(terms.numbers_of(name)), dtype=np.float64)
        for name in OPERATIONS
    }
    costs = estimate.Costs((9, 9, 9, 9), each)
    again = estimate.Costs.from_json(costs.as_json())
    for load, _layout, lie in lies(20):
        assert again.of(lie) == costs.of(lie)
        assert ("store" in again.of(lie)) == (len(load.flagged_vpns) > 0)
    with pytest.raises(ValueError, match="count them anew"):
        estimate.Costs.from_json({**costs.as_json(), "each": {"load": [1.0]}})


@pytest.mark.slow
@pytest.mark.skipif(bool(instructions.missing()), reason="no valgrind")
def test_estimates_are_near_what_is_counted_directly():
    """On three captures; benchmarks/estimates.py prints each operation's error."""
    costs = estimate.costs([(text, FIELDS) for text in TOLERANCES], "x86_64")
    loads, estimates = [], []
    for name in ("redis", "numpy-sparse", "swapped"):
        space = space_of(em.load_capture(name), name)
        held = sweep.Held(space, [], FIELDS)
        layout = estimate.layout_of(held.base)
        for point in placement.points((0.1, 1.0), ("random",)):
            load = held.words(point)[1]
            for text, cost in zip(TOLERANCES, costs, strict=True):
                loads.append((text, load))
                estimates.append(cost.of(estimate.lie(load, layout, cost.level_bits)))
    each = zip(loads, estimates, estimate.counted(loads), strict=True)
    for (text, _load), found, counted in each:
        for name, number in found.items():
            near = pytest.approx(counted[name], rel=TOLERANCES[text])
            assert number == near, (text, name)
