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


def ask(*command, **options):
    """Run a command; return what it said, whatever its status."""
    return subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )


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
    made = ask(compiler, *FLAGS, "-o", program, *sources)
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
        done = ask(build(), input=text, timeout=timeout)
    except subprocess.TimeoutExpired as slow:
        raise DriverError(f"no end after {timeout} s") from slow
    if done.returncode or not done.stdout.endswith("bye\n"):
        raise DriverError(done.stderr.strip() or f"status {done.returncode}")
    return done.stdout


# ---- swap ----


def places():
    """Return directories for a swap file: swapon refuses some file systems."""
    return [Path(tempfile.gettempdir()), Path("/var/tmp"), HERE.parents[1] / "build"]


def remove_leftovers():
    """Remove swap files whose maker is gone; return their paths.

    A maker holds a lock on its file for as long as it lives.
    """
    removed = []
    for place in dict.fromkeys(places()):
        for path in place.glob(f"{SWAP_NAME}*.swap"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
                removed.append(path)
    return removed


def _remove(path):
    ask("swapoff", path)  # it may be off already
    path.unlink(missing_ok=True)


def _swap_on(place):
    """Make a swap file there; return it and its open file, or None."""
    handle, name = tempfile.mkstemp(prefix=SWAP_NAME, suffix=".swap", dir=place)
    path, file = Path(name), os.fdopen(handle, "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Written, not truncated: a swap file has no holes.
        file.write(bytes(SWAP_BYTES))
        file.flush()
        for command in (["mkswap", "--quiet"], ["swapon"]):
            subprocess.run([*command, path], check=True, capture_output=True)
    except BaseException as failed:
        _remove(path)
        file.close()
        if isinstance(failed, (OSError, subprocess.CalledProcessError)):
            return None
        raise
    return path, file


@contextlib.contextmanager
def swap():
    """Have a swap file for the time of a block; yield why not, or None.

    It is gone after the block, after an exception, SIGINT, SIGTERM or SIGHUP;
    after SIGKILL, at the next start.
    """
    if os.geteuid() != 0:
        yield "swapon needs root"
        return
    if not all(map(shutil.which, ("mkswap", "swapon", "swapoff"))):
        yield "no mkswap and swapon (apt install util-linux mount)"
        return
    remove_leftovers()
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Turned into an exception, they run the way out.
        with contextlib.suppress(ValueError):  # not in the main thread
            before[number] = signal.signal(number, _leave)
    made = None
    try:
        for place in places():
            if place.is_dir() and (made := _swap_on(place)):
                break
        yield None if made else "swapon is refused here"
    finally:
        if made:
            path, file = made
            _remove(path)
            file.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number, frame):
    raise SystemExit(128 + number)
