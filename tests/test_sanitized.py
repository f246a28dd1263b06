"""In `make sanitize` and `make tsan`: the modules under test are the sanitized ones."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import extmeta.pagetable

SANITIZED = "sanitized" in os.environ.get("PYTHONPATH", "")
TSANNED = "tsanned" in os.environ.get("PYTHONPATH", "")


@pytest.mark.skipif(not SANITIZED, reason="runs in `make sanitize`")
def test_modules_are_the_sanitized_ones():
    module = Path(extmeta.pagetable.__file__)
    assert "sanitized" in module.parts
    assert b"__asan_report_load" in module.read_bytes()
    assert b"__ubsan_handle" in module.read_bytes()


@pytest.mark.skipif(not TSANNED, reason="runs in `make tsan`")
def test_modules_are_those_with_threadsanitizer():
    module = Path(extmeta.pagetable.__file__)
    assert "tsanned" in module.parts
    assert b"__tsan_write8" in module.read_bytes()


ALLOCATES = """
from torn import allocate_under_lock
allocate_under_lock()
"""


@pytest.mark.skipif(not (SANITIZED or TSANNED), reason="a build for tests aborts")
def test_an_allocation_under_a_table_s_lock_aborts():
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATES], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGABRT
    assert "allocation under the lock of a page table" in done.stderr
