"""What is done under the lock, counted by callgrind."""

import shutil

import pytest

import extmeta as em
from extmeta.cost.locked import OPERATIONS, locked
from extmeta.rows import Refused

counted = pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")


@pytest.mark.slow
@counted
def test_each_operation_is_counted_and_repeats():
    def rows():
        return list(locked(["linked", "inpte"], em.Fields(meta=64)))

    found = rows()
    assert [(r.encoding, r.operation) for r in found] == [
        (name, operation) for name in ("inpte", "linked") for operation in OPERATIONS
    ]
    by = {(r.encoding, r.operation): r for r in found}
    assert by["linked", "fork"].held == by["inpte", "fork"].held
    assert by["linked", "fork each"].held > 2 * by["linked", "fork"].held
    assert by["inpte", "fork each"].held == by["inpte", "fork"].held
    assert by["linked", "first words"].described == 1
    assert by["inpte", "first words"].described == 0
    assert all(r.held_most >= r.held > 100 for r in found if "each" not in r.operation)
    assert [(r.held, r.held_most) for r in rows()] == [
        (r.held, r.held_most) for r in found
    ]


@pytest.mark.slow
@counted
def test_an_encoding_that_can_not_hold_the_fields_is_refused():
    (refused,) = [
        row
        for row in locked(["adjacent"], em.Fields(site=100))
        if isinstance(row, Refused)
    ]
    assert refused.encoding == "adjacent"
    assert "64 bits" in refused.why
