import os
import sys
from pathlib import Path

import cases
import pytest

import extmeta as em
from extmeta.arch import arch_named

# The oracle's driver.
sys.path.append(str(Path(__file__).parents[1] / "kernel"))

import native
from running import Running


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "fails_on_page_ext(reason, **only): see cases.fails_on_page_ext"
    )


def pytest_collection_modifyitems(items):
    """Expect the failures on page_ext that tests are marked with, and no others."""
    for item in items:
        values = getattr(item, "callspec", None) and item.callspec.params
        if not values or values.get("new") != "page_ext":
            continue
        for mark in item.iter_markers("fails_on_page_ext"):
            if all(values[name] in some for name, some in mark.kwargs.items()):
                why = mark.args[0]
                item.add_marker(
                    pytest.mark.xfail(
                        raises=cases.SIGN[why], reason=f"page_ext: {why}", strict=True
                    )
                )


@pytest.fixture(scope="session")
def swapless():
    """Why there is no swap on the running kernel, or None: with a swap file."""
    with native.swap() as reason:
        yield reason


@pytest.fixture(params=[*cases.FORMS, cases.RUNNING])
def new(request):
    """Make an address space of the form: ``new(thp=..., release=...)``."""
    if request.param == cases.RUNNING:
        reason = native.missing()
        if reason and os.environ.get("EXTMETA_ORACLE") == "required":
            pytest.fail(reason)
        if reason:
            pytest.skip(reason)
        swapless = request.getfixturevalue("swapless")
        yield lambda **_: Running(swapless)
        return
    encoding, name = cases.FORMS[request.param]
    # Each release's semantics on one row of bits: in 6.12 riscv64 has no free bit.
    arch = arch_named(name)
    made = []

    def make(**options):
        made.append(em.AddressSpace(cases.FIELDS, encoding, arch, **options))
        return made[-1]

    yield make
    for a in made:
        a.table.check()
