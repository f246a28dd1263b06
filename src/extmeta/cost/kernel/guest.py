"""Runs a program as /init of a virtual machine on a stock Debian kernel.

It has what the host's kernel may lack (soft-dirty), and counts instructions: under
``-icount shift=0`` a nanosecond of the guest's clock is one instruction, so counts
repeat from boot to boot. The kernel's package is unpacked into a cache, not installed.
"""

import contextlib
import lzma
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from extmeta.cost.kernel import timed
from extmeta.cost.kernel.costs import Calibration, cache, of_ticks, refusal
from extmeta.cost.origin import today

QEMU = "qemu-system-x86_64"
# Linux 6.12 is Debian's first kernel with MEM_SOFT_DIRTY, WP_ASYNC and PAGEMAP_SCAN.
META_PACKAGE = "linux-image-6.12-cloud-amd64"

# Pages, both in whole PTE tables. No interrupt falls into the median round.
SMALL, LARGE, ROUNDS = 512, 2560, 9

SOURCES = ("guest.c", "init.c", "timing.c")
HEADERS = ("init.h", "timing.h")
FLAGS = ("-O2", "-std=gnu11", "-static")

BOOT_SECONDS = 3600

File = tuple[str, int, bytes]


class Missing(Exception):
    """This machine lacks something; the message says how to get it."""


class GuestError(Exception):
    """The guest ended before its end."""


def ask(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command; return what it said, whatever its status."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


# -- what it takes ---------------------------------------------------------------


def package() -> str | None:
    """Return the name of the newest kernel package that apt knows, or None."""
    if not shutil.which("apt-cache"):
        return None
    shown = ask("apt-cache", "depends", META_PACKAGE)
    for line in shown.stdout.splitlines():
        word, _, name = line.strip().partition(": ")
        if word == "Depends" and name.startswith("linux-image-"):
            return name
    return None


def unpacked(folder: Path) -> tuple[Path, Path] | None:
    """Return the cached kernel image and loop module, or None."""
    kernels = sorted(folder.glob("linux-image-*/boot/vmlinuz-*"))
    for kernel in reversed(kernels):
        modules = kernel.parents[1] / "lib/modules"
        for module in modules.glob("*/kernel/drivers/block/loop.ko*"):
            return kernel, module
    return None


def kernel(folder: Path) -> tuple[Path, Path]:
    """Return the kernel image and its loop module, fetched if not cached.

    Raises Missing if there is no package, or it can't be fetched.
    """
    if found := unpacked(folder):
        return found
    name = package()
    if name is None:
        raise Missing(
            f"apt knows no {META_PACKAGE}: it is Debian 12's backports', or run "
            "apt-get update"
        )
    if not shutil.which("dpkg-deb"):
        raise Missing("no dpkg-deb to unpack the kernel with (apt install dpkg)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _fetch(name, Path(scratch), folder / name)
    except OSError as error:
        raise Missing(f"{error.filename or folder}: {error.strerror}") from None
    if not (found := unpacked(folder)):
        raise Missing(f"{name} has no kernel with a loop module")
    return found


def _fetch(name: str, scratch: Path, target: Path) -> None:
    fetched = ask("apt-get", "download", name, cwd=scratch)
    debs = list(scratch.glob("*.deb"))
    if fetched.returncode or not debs:
        raise Missing(f"{name} can't be fetched: {_last_line(fetched.stderr)}")
    tree = scratch / "tree"
    opened = ask("dpkg-deb", "-x", debs[0], tree)
    if opened.returncode:
        raise Missing(f"{name} can't be unpacked: {_last_line(opened.stderr)}")
    # Renamed last, so that the cache is complete. Another process may have been first.
    with contextlib.suppress(OSError):
        tree.rename(target)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def build(folder: Path) -> bytes:
    """Compile the package's /init; return it.

    Raises Missing if there is no compiler for x86-64, or no static C library.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if platform.machine() != "x86_64":
        raise Missing(f"/init is compiled for x86_64, not for {platform.machine()}")
    if compiler is None:
        raise Missing("no C compiler (apt install gcc libc6-dev)")
    for name in (*SOURCES, *HEADERS):
        source = resources.files("extmeta.cost.kernel") / name
        (folder / name).write_bytes(source.read_bytes())
    program = folder / "init"
    made = ask(compiler, *FLAGS, "-o", program, *(folder / name for name in SOURCES))
    if made.returncode:
        if "cannot find -lc" in made.stderr:
            raise Missing("no static C library (apt install libc6-dev)")
        raise Missing(f"{compiler} does not compile /init: {_last_line(made.stderr)}")
    return program.read_bytes()


# -- a boot ------------------------------------------------------------------------


def cpio(files: Iterable[File]) -> bytes:
    """Return an initramfs: (name, mode, contents) in the newc form.

    Format: Linux v6.12 Documentation/driver-api/early-userspace/buffer-format.rst
    """
    out = bytearray()
    entries = [*files, ("TRAILER!!!", 0, b"")]
    for inode, (name, mode, data) in enumerate(entries, 1):
        path = name.encode() + b"\0"
        # ino mode uid gid nlink mtime size, four device numbers, name's size, sum
        numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08X" % n for n in numbers)
        for part in (path, data):
            out += part + b"\0" * (-(len(out) + len(part)) % 4)
    return bytes(out)


def module_text(path: Path) -> bytes:
    """Return a module's contents, decompressed if need be."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def boot(
    image: Path,
    init: bytes,
    text: str,
    *,
    more: Sequence[File] = (),
    memory: str = "768M",
    timeout: float = BOOT_SECONDS,
    seed: int = 1,
) -> str:
    """Boot a program as /init with its input, and wait for its end.

    Everything random comes from ``seed``, and the clock counts instructions, so equal
    text and seed give equal output, ticks included.

    Parameters
    ----------
    image : Path
        The kernel's image.
    init : bytes
    text : str
        What /init reads.
    more : sequence of (str, int, bytes)
        Name, mode and contents of other files.
    memory : str
    timeout : float
    seed : int

    Returns
    -------
    str
        The program's output, whose last line is "bye".

    Raises
    ------
    GuestError
        With what the program and the kernel said last.
    """
    regular, directory = stat.S_IFREG | 0o755, stat.S_IFDIR | 0o755
    initramfs = cpio(
        [
            ("dev", directory, b""),
            ("init", regular, init),
            *more,
            ("programs", regular, text.encode()),
        ]
    )
    with tempfile.TemporaryDirectory(prefix="extmeta-guest-") as scratch:
        paths = {n: Path(scratch, n) for n in ("initramfs", "answers", "console")}
        paths["initramfs"].write_bytes(initramfs)
        command = [
            *(QEMU, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "pc", "-cpu", "max", "-smp", "1", "-m", memory),
            *("-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"),
            *("-seed", str(seed), "-rtc", "base=2026-01-01T00:00:00,clock=vm"),
            *("-kernel", str(image), "-initrd", str(paths["initramfs"]), "-no-reboot"),
            # Mitigations stay on: they are part of a stock kernel.
            *("-append", "console=ttyS1 panic=-1 quiet tsc=reliable"),
            *("-serial", f"file:{paths['answers']}"),
            *("-serial", f"file:{paths['console']}"),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as qemu:
            try:
                _, errors = qemu.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                qemu.kill()
                raise GuestError(f"no end after {timeout} s") from None
            except BaseException:
                qemu.kill()
                raise
        said = [
            paths[name].read_text(errors="replace") if paths[name].exists() else ""
            for name in ("answers", "console")
        ]
    if qemu.returncode or not said[0].endswith("bye\n"):
        last = said[0].splitlines()[-1:] + said[1].splitlines()[-5:]
        raise GuestError("\n".join([*last, errors.strip()]).strip())
    return said[0]


def measure(command: Sequence[str], folder: Path | None = None) -> Calibration:
    """Boot, and count the instructions of the kernel's operations.

    Parameters
    ----------
    command : sequence of str
        Stored with the result.
    folder : Path, optional
        Where kernels are kept; by default ``guest`` in `cache`.

    Raises
    ------
    Missing
        With what this machine lacks, and how to get it.
    GuestError
        If the guest ended before its end.
    """
    if not shutil.which(QEMU):
        raise Missing(f"no {QEMU} (apt install qemu-system-x86)")
    with tempfile.TemporaryDirectory(prefix="extmeta-init-") as scratch:
        init = build(Path(scratch))
    image, _module = kernel(folder or cache() / "guest")
    text = "".join(
        f"time {operation} {pages} {ROUNDS}\n"
        for operation in timed.operations()
        for pages in (SMALL, LARGE)
    )
    output = boot(image, init, text)
    refused = {}
    for line in output.splitlines():
        if line.startswith("- "):
            _, operation, number, step = line.split(maxsplit=3)
            refused[operation] = refusal(int(number), step)
    version = ask(QEMU, "--version").stdout.partition("\n")[0]
    return Calibration(
        unit="instructions",
        kernel=output.split()[1],
        machine="x86_64",
        cpu=f"{version}, tcg, icount",
        date=today(),
        command=shlex.join(command),
        small=SMALL,
        large=LARGE,
        rounds=ROUNDS,
        costs=tuple(of_ticks(output, SMALL, LARGE)),
        refused=refused,
    )
