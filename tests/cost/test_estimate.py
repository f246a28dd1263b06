"""Instructions estimated from the fills of PTE tables."""

import numpy as np
import pytest

import extmeta as em
from extmeta.cost import estimate, instructions, placement, sweep
from extmeta.cost.space import space_of
from extmeta.fields import Fields

FIELDS = Fields(uffd_wp=1, soft_dirty=1, age=4)

# benchmarks/estimates.py has seen 44 % for these encodings.
TOLERANCE = 0.5


@pytest.mark.parametrize("size", [512, 256, 2048, 32])
def test_tables_at_a_node_are_all_its_weight(size):
    fills = estimate.nodes(size)
    assert len(set(fills)) == len(fills)
    for at, (n, k) in enumerate(fills):
        found = estimate.weights(fills, np.array([n]), np.array([k]))
        assert found == pytest.approx(np.eye(len(fills))[at])


def test_weights_keep_the_number_of_tables_ptes_and_words():
    """So an operation that costs so much a PTE and a word is estimated exactly."""
    fills = estimate.nodes(512)
    rng = np.random.default_rng(3)
    n = rng.integers(1, 513, size=1000)
    k = rng.integers(0, n + 1)
    found = estimate.weights(fills, n, k)
    assert found.min() >= 0
    ptes, words = np.array(fills).T
    assert found.sum() == pytest.approx(1000)
    assert found @ ptes == pytest.approx(n.sum())
    assert found @ words == pytest.approx(k.sum())


def test_what_is_walked_is_counted_by_hand():
    bits = (2, 2, 2, 9)
    # In slot 1 of the root: slot 3 of PUD and PMD; in slot 2: slots 0, 2 and 0, 1.
    slots = np.array([0b01_11_11, 0b10_00_00, 0b10_10_01])
    vpns = (slots << 9).astype(np.uint64)
    between = estimate.walked(vpns, bits, whole=False)
    # 6 tables; of PMD tables 1 empty slot before the first used one, 3 behind one.
    assert between.tolist() == [1, 6, 1, 3, 1, 0]
    whole = estimate.walked(vpns, bits, whole=True)
    assert whole.tolist() == [1, 6, 3 + 1, 3 + 2, 3 + 2, 2]


def test_costs_survive_their_file():
    nodes = len(estimate.nodes(512))
    costs = estimate.Costs((9, 9, 9, 9), {"load": np.ones(6)}, {"load": np.ones(nodes)})
    again = estimate.Costs.from_json(costs.as_json())
    vpns = np.arange(2000, dtype=np.uint64)
    lie = estimate.lie(vpns, vpns[:3], again.level_bits)
    assert again.of(lie) == costs.of(lie)
    with pytest.raises(ValueError, match="count them anew"):
        estimate.Costs.from_json({**costs.as_json(), "tables": {"load": [1.0]}})


@pytest.mark.slow
@pytest.mark.skipif(bool(instructions.missing()), reason="no valgrind")
@pytest.mark.parametrize("text", ["linked", "adaptive"])
def test_estimates_are_near_what_is_counted_directly(text):
    """On three captures; benchmarks/estimates.py prints each operation's error."""
    (costs,) = estimate.costs([(text, FIELDS)], "x86_64")
    loads, lies = [], []
    for name in ("redis", "numpy-sparse", "swapped"):
        space = space_of(em.load_capture(name), name)
        held = sweep.Held(space, [], FIELDS)
        for point in placement.points((0.1, 1.0), ("random",)):
            load = held.words(point)[1]
            loads.append((text, load))
            lies.append(estimate.lie(space.vpns, load.flagged_vpns, costs.level_bits))
    for lie, counted in zip(lies, estimate.counted(loads), strict=True):
        for name, found in costs.of(lie).items():
            assert found == pytest.approx(counted[name], rel=TOLERANCE), name
