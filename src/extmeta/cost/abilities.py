"""What this machine can do: each is tried, none is guessed from a version."""

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from extmeta.captures import trackers
from extmeta.linux import pagemap_scan
from extmeta.linux.pagemap_scan import PageIs

# Syscall userfaultfd by machine: arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h.
USERFAULTFD = {"x86_64": 323, "aarch64": 282, "riscv64": 282}
USER_MODE_ONLY = 1

PAGE = os.sysconf("SC_PAGE_SIZE")

# Seconds for a program to tell its version.
PATIENCE = 20


@dataclass(frozen=True)
class Ability:
    """Something that a part of extmeta needs.

    Attributes
    ----------
    name, needed_for : str
    lacks : str
        Why it can't be used here; "" if it can.
    """

    name: str
    needed_for: str
    lacks: str


def abilities() -> Iterator[Ability]:
    """Yield what this machine can do, one after the other as it is tried."""
    for name, needed_for, probe in (
        ("root", "capture processes of other users; PFNs", _root),
        ("PFNs in pagemap", "page_ext of captures; shared pages", _pfns),
        ("soft-dirty", "trace, calibrate", _soft_dirty),
        ("userfaultfd", "trace, calibrate", _userfaultfd),
        ("PAGEMAP_SCAN", "fast captures, huge pages, trace", _pagemap_scan),
        ("compiler", "calibrate, encodings in Cython", lambda: _program("cc")),
        ("valgrind", "compare --instructions, --lock", lambda: _program("valgrind")),
        (
            "virtual machine",
            "calibrate --guest",
            lambda: _program("qemu-system-x86_64"),
        ),
        ("chromium", "tests of the report's page", lambda: _program("chromium")),
    ):
        yield Ability(name, needed_for, _tried(probe))


def _tried(probe: Callable[[], str]) -> str:
    try:
        return probe()
    except OSError as error:
        return error.strerror or str(error)


def _root() -> str:
    return "" if os.geteuid() == 0 else f"user {os.geteuid()}"


def _pfns() -> str:
    page = np.ones(2 * PAGE, np.uint8)
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        at = (page.ctypes.data // PAGE + 1) * 8
        word = int.from_bytes(os.pread(file.fileno(), 8, at), "little")
    return "" if word & ((1 << 55) - 1) else "hidden without CAP_SYS_ADMIN"


def _soft_dirty() -> str:
    return "" if trackers.has_soft_dirty() else "not in this kernel"


def _userfaultfd() -> str:
    number = USERFAULTFD.get(platform.machine())
    if number is None:
        return f"its number on {platform.machine()} is not known here"
    fd = ctypes.CDLL(None, use_errno=True).syscall(
        number, os.O_CLOEXEC | USER_MODE_ONLY
    )
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    os.close(fd)
    return ""


def _pagemap_scan() -> str:
    page = np.ones(2 * PAGE, np.uint8)
    start = -(-page.ctypes.data // PAGE) * PAGE
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        found = pagemap_scan.pagemap_scan(
            fd, start, start + PAGE, anyof=PageIs.PRESENT, returned=PageIs.PRESENT
        )
    finally:
        os.close(fd)
    return "" if len(found) else "it does not find a page that was written"


def _program(name: str) -> str:
    if not shutil.which(name):
        return f"no {name}"
    try:
        done = subprocess.run(
            [name, "--version"], capture_output=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{name} --version does not end"
    return f"{name} --version ends with {done.returncode}" if done.returncode else ""
