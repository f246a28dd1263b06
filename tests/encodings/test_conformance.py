"""Every encoding passes the suite, which is `extmeta.testing`."""

import pytest

import extmeta as em
from extmeta.memory.allowance import fail_after
from extmeta.testing import checks
from extmeta.testing.suite import Form, rounds_leak_nothing


@pytest.mark.parametrize("check", checks())
def test_conformance(check, form):
    check(*form)


@pytest.mark.slow
def test_against_a_dict_at_length(form):
    (against_dict,) = (c for c in checks() if c.__name__ == "against_dict")
    against_dict(*form)


@pytest.mark.slow
def test_many_rounds_leak_nothing(encoding):
    rounds_leak_nothing(Form(encoding, em.Fields(soft_dirty=1), "x86_64"), 200_000)


def test_no_memory_for_a_table_at_all():
    try:
        fail_after(0)
        with pytest.raises(MemoryError, match="address space"):
            em.PageTable()
        fail_after(1)
        with pytest.raises(MemoryError, match="root table"):
            em.PageTable()
    finally:
        fail_after()
