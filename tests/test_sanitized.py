"""In `make sanitize`: the modules under test are the sanitized ones."""

import os
from pathlib import Path

import pytest

import extmeta.pagetable

SANITIZED = "sanitized" in os.environ.get("PYTHONPATH", "")


@pytest.mark.skipif(not SANITIZED, reason="runs in `make sanitize`")
def test_modules_are_the_sanitized_ones():
    module = Path(extmeta.pagetable.__file__)
    assert "sanitized" in module.parts
    assert b"__asan_report_load" in module.read_bytes()
    assert b"__ubsan_handle" in module.read_bytes()
