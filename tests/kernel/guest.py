"""The driver as /init of a virtual machine on a stock Debian kernel.

For what the host's kernel lacks (soft-dirty), and for counts of instructions:
under ``-icount shift=0`` a nanosecond of the guest's clock is one instruction.
The kernel's package is unpacked into a cache, not installed.
"""

import contextlib
import lzma
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import native

QEMU = "qemu-system-x86_64"
# Linux 6.12 is the first with MEM_SOFT_DIRTY, WP_ASYNC and PAGEMAP_SCAN all in
# Debian's own configuration.
META_PACKAGE = "linux-image-6.12-cloud-amd64"
CACHE = Path(__file__).parents[2] / "build" / "guest"


def package():
    """Return the name of the newest kernel package that apt knows, or None."""
    if not shutil.which("apt-cache"):
        return None
    shown = native.ask("apt-cache", "depends", META_PACKAGE)
    for line in shown.stdout.splitlines():
        word, _, name = line.strip().partition(": ")
        if word == "Depends" and name.startswith("linux-image-"):
            return name
    return None


def unpacked():
    """Return the cached kernel image and loop module, or None."""
    kernels = sorted(CACHE.glob("linux-image-*/boot/vmlinuz-*"))
    for kernel in reversed(kernels):
        modules = kernel.parents[1] / "lib/modules"
        for module in modules.glob("*/kernel/drivers/block/loop.ko*"):
            return kernel, module
    return None


def kernel():
    """Return the kernel image and its loop module, fetched when not yet there.

    Raises
    ------
    native.Missing
        If there is no package, or it can't be fetched.
    """
    if found := unpacked():
        return found
    name = package()
    if name is None:
        raise native.Missing(f"apt knows no {META_PACKAGE} (apt-get update?)")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fetched = native.ask("apt-get", "download", name, cwd=scratch)
        debs = list(Path(scratch).glob("*.deb"))
        if fetched.returncode or not debs:
            reason = (fetched.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise native.Missing(f"{name} can't be fetched: {reason}")
        tree = Path(scratch, "tree")
        subprocess.run(["dpkg-deb", "-x", debs[0], tree], check=True)
        # Last, so that what is in the cache is whole; another may have been first.
        with contextlib.suppress(OSError):
            tree.rename(CACHE / name)
    if not (found := unpacked()):
        raise native.Missing(f"{name} has no kernel with a loop module")
    return found


def missing():
    """Return why no guest can run here, or None."""
    if not shutil.which(QEMU):
        return f"{QEMU} is not installed (apt install qemu-system-x86)"
    try:
        kernel()
        native.build()
    except native.Missing as reason:
        return str(reason)
    return None


def cpio(files):
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


def module_text(path):
    """Return a module's contents, decompressed if need be."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def run(text, *, memory="768M", timeout=3600, seed=1):
    """Boot, run programs in text form, power off.

    All that is random in a boot comes of ``seed``, and its clock counts its
    instructions: the same text and seed give the same output, ticks included.

    Returns
    -------
    str
        The driver's output.

    Raises
    ------
    native.Missing
        If qemu or the kernel is not there.
    native.DriverError
        If the driver refused a line, or the guest ended without an end.
    """
    if reason := missing():
        raise native.Missing(reason)
    image, module = kernel()
    regular, directory = stat.S_IFREG | 0o755, stat.S_IFDIR | 0o755
    initramfs = cpio(
        [
            ("dev", directory, b""),
            ("init", regular, native.build().read_bytes()),
            ("loop.ko", regular, module_text(module)),
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
            *("-kernel", image, "-initrd", paths["initramfs"], "-no-reboot"),
            # Mitigations are left as they are: they are part of a stock kernel.
            *("-append", "console=ttyS1 panic=-1 quiet tsc=reliable"),
            *("-serial", f"file:{paths['answers']}"),
            *("-serial", f"file:{paths['console']}"),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as qemu:
            try:
                _, errors = qemu.communicate(timeout=timeout)
            except BaseException:
                qemu.kill()
                raise
        output = paths["answers"].read_text(errors="replace")
        if qemu.returncode or not output.endswith("bye\n"):
            said = (
                output.splitlines()[-1:]
                + paths["console"].read_text(errors="replace").splitlines()[-5:]
            )
            raise native.DriverError("\n".join([*said, errors.strip()]).strip())
    return output
