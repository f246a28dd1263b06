"""Read an address space from a file of any known format.

The formats are asked in turn, by content. The one that takes the most files is last.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Protocol

from extmeta.captures.capture import Capture, CaptureError, load_capture
from extmeta.captures.formats import (
    criu,
    damo,
    dirty_bitmap,
    page_types,
    qemu_migration,
    saved_proc,
    scan_regions,
    vmcore,
)
from extmeta.captures.formats.source import Source, look
from extmeta.captures.trace import Trace


class Format(Protocol):
    """What a module of `formats` has."""

    NAME: str

    def recognises(self, found: Source) -> bool:
        """Tell whether a file or a directory is of this format."""

    def read(self, found: Source) -> Capture:
        """Return its capture."""


FORMATS: tuple[Format, ...] = (
    *(saved_proc, criu, page_types, damo, qemu_migration, vmcore, scan_regions),
    dirty_bitmap,
)

OWN = "a capture of extmeta (.npz)"
ZIP = b"PK\3\4"


def read(
    path: str | os.PathLike[str],
    pid: int | None = None,
    vmlinux: str | os.PathLike[str] | None = None,
) -> Capture:
    """Read a capture, or what another program saved of an address space.

    The format is found by content, not by name: see :mod:`extmeta.captures.formats`.

    Parameters
    ----------
    path : path-like
        A file or a directory, which need not be trusted. If there is none of this name,
        the name of a capture in `shipped`.
    pid : int, optional
        Of a dump of a kernel's memory: the process to read. By default the only one.
    vmlinux : path-like, optional
        Of a dump of a kernel's memory: the file with the kernel's debug information. By
        default drgn looks for it where distributions put it.

    Returns
    -------
    Capture
        Its `about` says what the format does not tell.

    Raises
    ------
    CaptureError
        If no format is recognised, or the file is damaged, hostile, too large or
        inconsistent: one line with the file and the wrong value.
    OSError
        If it can't be read; FileNotFoundError if it does not exist.
    """
    path = os.fsdecode(path)
    if not os.path.exists(path):
        return load_capture(path)
    with _named(path):
        found = look(path)
        form = _format_of(found)
        if form is vmcore:
            return vmcore.read(found, pid, vmlinux)
        if pid is not None or vmlinux is not None:
            raise CaptureError(f"not {vmcore.NAME}, so it has no pid and no vmlinux")
        if found.head.startswith(ZIP):
            return load_capture(path)
        if form:
            return form.read(found)
    tried = ", ".join([OWN, *(form.NAME for form in FORMATS)])
    raise CaptureError(f"{path}: of no known format; tried: {tried}")


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Let each CaptureError begin with the file's name."""
    try:
        yield
    except CaptureError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise CaptureError(f"{path}: {error}") from None


def _format_of(found: Source) -> Format | None:
    return next((form for form in FORMATS if form.recognises(found)), None)


def read_writes(
    paths: Iterable[str | os.PathLike[str]], interval: float = 1.0
) -> Trace:
    """Read which pages were written or accessed, as a trace.

    Parameters
    ----------
    paths : iterable of path-like
        Dirty bitmaps of one slot as KVM_GET_DIRTY_LOG gives them, from the first on:
        each has the pages that were written since the one before. Or one migration
        stream of QEMU, or one record of damo, which has the pages accessed.
    interval : float, optional
        Seconds from one bitmap, or pass of the migration, to the next. A record of damo
        tells its own.

    Returns
    -------
    Trace
        A round for each bitmap, for each pass but the first, which sends all memory, or
        for each snapshot.

    Raises
    ------
    CaptureError
        If there is none, one is neither or has another size, or there are more writes
        than a trace holds.
    OSError
        If one can't be read.
    """
    series = [look(os.fsdecode(path)) for path in paths]
    if not series:
        raise CaptureError("no dirty bitmap")
    if len(series) == 1:
        with _named(series[0].path):
            form = _format_of(series[0])
            if form is qemu_migration:
                return qemu_migration.trace(series[0], interval)
            if form is damo:
                return damo.trace(series[0])
    for found in series:
        if _format_of(found) is not dirty_bitmap:
            raise CaptureError(f"{found.path}: not {dirty_bitmap.NAME}")
    return dirty_bitmap.trace(series, interval)
