"""Both encodings pass the suite of extmeta's own."""

import numpy as np
import pytest
from extmeta_runs.flagless import Flagless
from extmeta_runs.runs import Runs

import extmeta as em
from extmeta.testing import checks

FORMS = [
    (Runs, None),
    (Runs, em.Fields(meta=64)),
    (Flagless, None),
    (Flagless, em.Fields(age=8)),
]


@pytest.mark.parametrize(("factory", "fields"), FORMS)
@pytest.mark.parametrize("check", checks())
def test_conformance(check, factory, fields):
    check(factory, fields)


def test_a_run_costs_the_same_however_long():
    table = em.PageTable("runs")
    table.map(slice(0, 10_000))
    for stop in (1, 100, 10_000):
        table.store(slice(0, stop), 7)
        assert table.memory().side + table.memory().index == 24


def test_a_table_of_bytes_takes_no_bit_of_its_ptes():
    table = em.PageTable("flagless", em.Fields(age=8))
    table.map(slice(0, 512))
    before = table.tables[0].copy()
    table.store(slice(0, 512), np.arange(512) % 256)
    assert (table.tables[0] == before).all()
    assert table.memory().side == 512
