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
SOURCES = ("driver.c", "words.c", "timing.c", "guest.c")
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-static")

SWAP_NAME = "extmeta-oracle-"  # then a random part
# Far more than is used: a huge page goes out whole only where 512 slots in a row
# are free, and slots whose page was still being written stay taken for a while.
SWAP_BYTES = 1 << 30


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
    """Remove swap files that nobody uses any more; return their paths.

    Who uses one holds a lock on it for as long as he lives.
    """
    with _alone():
        return [path for path in _files() if _remove_unused(path)]


@contextlib.contextmanager
def _alone():
    """Only one process at a time makes, joins or removes swap files."""
    with Path(tempfile.gettempdir(), f"{SWAP_NAME}lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _files():
    found = [p for place in places() for p in place.glob(f"{SWAP_NAME}*.swap")]
    return list(dict.fromkeys(found))


def _remove_unused(path):
    """Remove a swap file unless somebody holds it; return whether."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ask("swapoff", path)  # it may be off already
            path.unlink()
    except OSError:  # held, or removed by another
        return False
    return True


def _join():
    """Return a swap file of ours, in use or made now, held; None if refused."""
    for path in _files():
        if not _remove_unused(path) and (file := _held(path)):
            return file
    for place in places():
        if place.is_dir() and (file := _made(place)):
            return file
    return None


def _held(path):
    """Return a swap file, open and held; None if it can't be shared."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as failing:
        file = failing.enter_context(path.open("rb"))
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        failing.pop_all()
        return file
    return None


def _made(place):
    handle, name = tempfile.mkstemp(prefix=SWAP_NAME, suffix=".swap", dir=place)
    path = Path(name)
    with os.fdopen(handle, "wb") as file:
        try:
            # Not truncated: a swap file has no holes.
            os.posix_fallocate(file.fileno(), 0, SWAP_BYTES)
            # Before any other swap: what is swapped out stays when that one goes.
            on = ["swapon", "--priority", "100"]
            for command in (["mkswap", "--quiet"], on):
                subprocess.run([*command, path], check=True, capture_output=True)
        except BaseException as failed:
            ask("swapoff", path)
            path.unlink()
            if isinstance(failed, (OSError, subprocess.CalledProcessError)):
                return None
            raise
    return _held(path)


@contextlib.contextmanager
def swap():
    """Have a swap file for the time of a block; yield why not, or None.

    Processes side by side share one, since what one swaps out may come to lie in
    another's. The last one removes it: after the block, after an exception, SIGINT,
    SIGTERM or SIGHUP; after SIGKILL, at the next start.
    """
    if os.geteuid() != 0:
        yield "swapon needs root"
        return
    if not all(map(shutil.which, ("mkswap", "swapon", "swapoff"))):
        yield "no mkswap and swapon (apt install util-linux mount)"
        return
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Turned into an exception, they run the way out.
        with contextlib.suppress(ValueError):  # not in the main thread
            before[number] = signal.signal(number, _leave)
    held = None
    try:
        with _alone():
            held = _join()
        yield None if held else "swapon is refused here"
    finally:
        if held:
            with _alone():
                held.close()
                _remove_unused(Path(held.name))
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number, frame):
    raise SystemExit(128 + number)
