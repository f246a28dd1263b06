"""The driver as /init of a virtual machine on a stock Debian kernel.

The machine is the package's (:mod:`extmeta.cost.kernel.guest`); this adds the driver,
and the module that its swap needs.
"""

import shutil
import stat
import sys
from pathlib import Path

import native

from extmeta.cost.kernel import guest as machine
from extmeta.cost.kernel.guest import QEMU, cpio, module_text

__all__ = ["cpio", "kernel", "missing", "patched_kernel", "run"]

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "guest"


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


def patched_kernel(form):
    """Return the image of the kernel in ``kernel/`` with words in this form.

    Raises
    ------
    native.Missing
        If it is not built, or something that it is made of has changed since.
    """
    sys.path.insert(0, str(ROOT / "kernel"))
    try:
        import kernels
    finally:
        sys.path.remove(str(ROOT / "kernel"))
    variant = f"oracle-{form}"
    image = kernels.built(variant)
    if image is None:
        raise native.Missing(
            f"{kernels.FOLDER} has no kernel {variant} of this patch: "
            f"make kernel ARGS={variant}"
        )
    return image


def missing(patched=None):
    """Return why no guest can run here, or None."""
    if not shutil.which(QEMU):
        return f"{QEMU} is not installed (apt install qemu-system-x86)"
    try:
        patched_kernel(patched) if patched else kernel()
        native.build()
    except native.Missing as reason:
        return str(reason)
    return None


def run(text, *, patched=None, **options):
    """Boot, run programs in text form, end; see `boot` of the package.

    Parameters
    ----------
    text : str
    patched : {"linked", "adjacent"}, optional
        The form of a kernel with words; by default the kernel is Debian's.

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
    if reason := missing(patched):
        raise native.Missing(reason)
    more = []
    if patched:
        image = patched_kernel(patched)
    else:
        image, module = kernel()
        more = [("loop.ko", stat.S_IFREG | 0o755, module_text(module))]
    init = native.build().read_bytes()
    try:
        return machine.boot(image, init, text, more=more, **options)
    except machine.GuestError as failed:
        raise native.DriverError(str(failed)) from None
