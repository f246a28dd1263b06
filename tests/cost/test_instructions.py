"""Speed promises, held by instruction counts: they repeat to the digit."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from extmeta.cost.instructions import FUNCTIONS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "instructions.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind"),
]


@pytest.fixture(scope="module")
def count():
    spec = importlib.util.spec_from_file_location("instructions", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.count


def test_a_table_without_words_costs_no_more_than_in_pte_bits(count):
    baseline = count("inpte", 0.0)
    again = count("inpte", 0.0)
    for operation, (module, _name) in FUNCTIONS.items():
        # Methods have Python in them, whose dicts are not laid out alike each time.
        off = (
            0
            if module.__name__.startswith("extmeta.table")
            else 0.05 * baseline[operation]
        )
        assert abs(again[operation] - baseline[operation]) <= off, operation
    for encoding in ("linked", "adaptive"):
        for operation, instructions in count(encoding, 0.0).items():
            if operation == "update":
                continue  # it gives every PTE a word
            assert instructions <= 1.05 * baseline[operation], (encoding, operation)
