"""The driver as /init of a virtual machine on a stock Debian kernel.

The machine is the package's (:mod:`extmeta.cost.kernel.guest`); this adds the driver,
and the module that its swap needs.
"""

import shutil
import stat
from pathlib import Path

import native

from extmeta.cost.kernel import guest as machine
from extmeta.cost.kernel.guest import QEMU, cpio, module_text

__all__ = ["cpio", "kernel", "missing", "run"]

CACHE = Path(__file__).parents[2] / "build" / "guest"


def kernel():
    """Return the kernel image and its loop module, fetched when not yet there.

    Raises
    ------
    native.Missing
        If there is no package, or it can't be fetched.
    """
    try:
        return machine.kernel(CACHE)
    except machine.Missing as reason:
        raise native.Missing(str(reason)) from None


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


def run(text, **options):
    """Boot, run programs in text form, power off; see `boot` of the package.

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
    loop = ("loop.ko", stat.S_IFREG | 0o755, module_text(module))
    init = native.build().read_bytes()
    try:
        return machine.boot(image, init, text, more=[loop], **options)
    except machine.GuestError as failed:
        raise native.DriverError(str(failed)) from None
