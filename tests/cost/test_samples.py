"""Made address spaces on which instructions are counted."""

import numpy as np
import pytest

from extmeta.arch import arch_named
from extmeta.cost import census, estimate
from extmeta.cost.samples import sample
from extmeta.edge.state import state_of
from extmeta.fields import Fields


@pytest.mark.parametrize("name", ["x86_64", "arm64_64k", "ppc64_hash_64k"])
def test_a_sample_is_built_as_it_says(name):
    arch = arch_named(name)
    for seed in range(12):
        made = sample(arch, seed)
        assert all(map(np.array_equal, made, sample(arch, seed)))
        state = state_of(made.space(arch).build("linked", Fields(meta=8)))
        assert np.array_equal(state.vpns, made.vpns)
        assert np.array_equal(state.present, ~made.swapped)
        assert np.array_equal(state.leaf_vpns, made.leaves)
        assert np.array_equal(state.deposited, made.deposited)


def test_samples_have_what_an_estimate_tells_apart():
    """A number that is 0 in all of them would cost nothing in any capture."""
    arch = arch_named("x86_64")
    lies = [
        estimate.lie(
            *estimate.loaded(
                sample(arch, seed), arch, "linked", Fields(meta=8), "byte"
            ),
            arch.level_bits,
        )
        for seed in range(estimate.SAMPLES)
    ]
    for operation, names in (("load", census.ARRAY_NAMES), ("scan", census.WALK_NAMES)):
        seen = np.any([lie.of(operation) for lie in lies], axis=0)
        never = {name for name, any_ in zip(names, seen, strict=True) if not any_}
        # Tables of x86-64 have four levels; random words don't match 64 in a row.
        rest = {name for name in never if not name.endswith(("3", "4", "5"))}
        assert rest - {"all_matched"} == set()
