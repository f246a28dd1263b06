"""The driver on the running kernel, with a swap file where root may have one."""

import atexit
import contextlib
import fcntl
import functools
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("driver.c", "timing.c", "guest.c")
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-static")

SWAP_NAME = "extmeta-oracle-"  # then a random part
SWAP_BYTES = 64 << 20


class Missing(Exception):
    """What a run needs and this machine lacks."""


class DriverError(Exception):
    """The driver refused its input, or ended before its end."""


@functools.cache
def build():
    """Compile the driver into a directory that goes with this process.

    Returns
    -------
    pathlib.Path
        A static executable.

    Raises
    ------
    Missing
        If there is no compiler for x86-64, or no static C library.
    """
    if platform.machine() != "x86_64":
        raise Missing(f"the driver is for x86_64, not {platform.machine()}")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Missing("no C compiler")
    scratch = tempfile.TemporaryDirectory(prefix="extmeta-driver-")
    atexit.register(scratch.cleanup)
    program = Path(scratch.name, "driver")
    sources = [HERE / name for name in SOURCES]
    made = subprocess.run(
        [compiler, *FLAGS, "-o", program, *sources], capture_output=True, text=True
    )
    if made.returncode:
        if "cannot find -lc" in made.stderr:
            raise Missing("no static C library (apt install libc6-dev)")
        raise DriverError(made.stderr)
    return program


def missing():
    """Return why nothing can run on this kernel, or None."""
    try:
        about = run("").split()
    except (Missing, DriverError) as reason:
        return str(reason)
    if about[about.index("uffd") + 1] == "0":
        return "no userfaultfd here (not configured, or not permitted)"
    if about[about.index("scan") + 1] == "0":
        return "no PAGEMAP_SCAN here (Linux 6.7)"
    return None


def run(text, *, timeout=600):
    """Run programs in text form here; return the driver's output.

    Raises
    ------
    Missing
        If the driver can't be built.
    DriverError
        If the driver refused a line or did not end.
    """
    try:
        done = subprocess.run(
            [build()], input=text, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as slow:
        raise DriverError(f"no end after {timeout} s") from slow
    if done.returncode or not done.stdout.endswith("bye\n"):
        raise DriverError(done.stderr.strip() or f"status {done.returncode}")
    return done.stdout
