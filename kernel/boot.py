"""Boots a kernel with our /init: under icount to count instructions, or on two processors.

Needs qemu and a static C library. The initramfs is made here, so no cpio(1) is needed.
"""

import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kernels import HERE, Failed, run

from extmeta.cost.kernel.guest import cpio

QEMU = "qemu-system-x86_64"
# The guest's clocks count its instructions, and begin at the same time in each boot.
ICOUNT = (
    *("-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"),
    *("-rtc", "base=2026-01-01T00:00:00,clock=vm"),
)
# Two sockets: without ACPI, Linux finds in SeaBIOS's table one processor a socket.
TWO = ("-accel", "tcg,thread=multi", "-smp", "2,sockets=2")
CFLAGS = ("-O2", "-Wall", "-Wextra", "-Wno-sign-compare", "-static", "-pthread")
SECONDS = 3600

DIRECTORY, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755

# What a kernel prints when it finds a bug in itself.
REPORT = re.compile(
    r"BUG:|WARNING:|KASAN|Oops|kernel BUG|unreferenced object|INFO: .*(lock|stall|hung)"
    r"|possible (circular|recursive|irq)|general protection|Bad page|bad rss|Call Trace:"
)


def init(scratch: Path) -> bytes:
    """Compile /init."""
    program = scratch / "init"
    sources = sorted((HERE / "guest").glob("*.c"))
    run("gcc", *CFLAGS, f"-I{HERE}", "-o", program, *sources)
    return program.read_bytes()


def plugin(scratch: Path) -> Path:
    """Compile the cache model for qemu."""
    target = scratch / "cachesim.so"
    run("gcc", "-O2", "-shared", "-fPIC", "-w", "-o", target, HERE / "cachesim.c")
    return target


def boot(
    kernel: Path,
    line: str,
    *,
    machine: Sequence[str] = ICOUNT,
    memory: str = "2G",
    more: Sequence[str] = (),
    files: Sequence[tuple[str, int, bytes]] = (),
) -> str:
    """Boot a kernel; return what it and /init printed.

    Parameters
    ----------
    kernel : Path
        A vmlinux, or a bzImage.
    line : str
        Added to the kernel's command line; says what /init does.
    machine : sequence of str
        `ICOUNT` or `TWO`.
    memory : str
    more : sequence of str
        Other arguments of qemu.
    files : sequence of (str, int, bytes)
        Name, mode and contents of other files in the initramfs.

    Raises
    ------
    Failed
        If the kernel or /init did not get to its end.
    """
    if not shutil.which(QEMU):
        raise Failed(f"no {QEMU} (apt install qemu-system-x86)")
    with tempfile.TemporaryDirectory(prefix="extmeta-boot-") as name:
        scratch = Path(name)
        folders = [(folder, DIRECTORY, b"") for folder in ("dev", "proc", "sys", "tmp")]
        initrd = scratch / "initrd"
        initrd.write_bytes(cpio([*folders, ("init", FILE, init(scratch)), *files]))
        command = (
            *("nice", "-n", "19", QEMU, *machine, "-cpu", "max", "-m", memory),
            *("-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"),
            *("-kernel", str(kernel), "-initrd", str(initrd)),
            *("-append", f"console=ttyS0 panic=-1 {line}", *more),
        )
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{kernel} with {line!r}: no end after {SECONDS} s") from None
    if "\nDONE" not in done.stdout.replace("\r", ""):
        last = "\n".join(done.stdout.splitlines()[-25:])
        raise Failed(f"{kernel} with {line!r} did not end:\n{last}\n{done.stderr}")
    return done.stdout.replace("\r", "")


def reports(output: str) -> list[str]:
    """Return the lines by which a kernel reports a bug in itself."""
    return [line for line in output.splitlines() if REPORT.search(line)]
