"""A file or a directory whose format is not known yet."""

import os
import stat
from typing import NamedTuple

import numpy as np

from extmeta.arrays import U64
from extmeta.captures import npz
from extmeta.captures.capture import CaptureError

WORD_BYTES = 8

# What `recognises` sees of a file.
HEAD_BYTES = 4096

# Runs of pages take few bytes. These bound what they unfold to, at 16 bytes a page: a
# file of 10 KB may have 44 GiB of pages, and any file 4 GiB.
PAGES_PER_BYTE = 1 << 10
ALWAYS_PAGES = 1 << 20


class Source(NamedTuple):
    """What is known before a format is.

    Attributes
    ----------
    path : str
    names : tuple of str
        The names in a directory; empty for a file.
    head : bytes
        The first `HEAD_BYTES` of a file; empty for a directory.
    nbytes : int
        Size of a file; 0 for a directory.
    """

    path: str
    names: tuple[str, ...]
    head: bytes
    nbytes: int

    def beside(self, name: str) -> str:
        """Return the path of a file in this directory."""
        return os.path.join(self.path, name)


def look(path: str) -> Source:
    """Return what a path leads to.

    Raises
    ------
    CaptureError
        If it is neither a regular file nor a directory.
    OSError
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        return Source(path, tuple(sorted(os.listdir(path))), b"", 0)
    if not stat.S_ISREG(found.st_mode):
        raise CaptureError(f"{path}: neither a regular file nor a directory")
    with open(path, "rb") as file:
        return Source(path, (), file.read(HEAD_BYTES), found.st_size)


def content(path: str) -> bytes:
    """Return the bytes of a regular file of at most `npz.MAX_FILE_BYTES`."""
    check_size(path)
    with open(path, "rb") as file:
        return file.read()


def words(path: str) -> U64:
    """Return a file's little-endian 64-bit words.

    Raises CaptureError if the size is no multiple of 8.
    """
    if (nbytes := check_size(path)) % WORD_BYTES:
        raise CaptureError(
            f"{os.path.basename(path)}: {nbytes} bytes are no multiple of {WORD_BYTES}"
        )
    return np.fromfile(path, "<u8", nbytes // WORD_BYTES).astype(np.uint64, copy=False)


def check_size(path: str) -> int:
    """Return a regular file's size, or raise CaptureError if it is too large."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise CaptureError(f"{os.path.basename(path)}: not a regular file")
    if found.st_size > npz.MAX_FILE_BYTES:
        raise CaptureError(f"{found.st_size} bytes are more than {npz.MAX_FILE_BYTES}")
    return found.st_size


def unfolded(first: U64, stop: U64, nbytes: int) -> U64:
    """Return the pages of runs [first, stop), one after the other.

    Parameters
    ----------
    first, stop : (R,) uint64 ndarray
        Pages; a run that ends before it starts is refused.
    nbytes : int
        Size of the file that they are from.

    Raises
    ------
    CaptureError
        If a run is backwards, or there are too many pages for the file's size.
    """
    if len(bad := np.flatnonzero(stop < first)):
        at = bad[0]
        raise CaptureError(f"pages [{int(first[at]):#x}, {int(stop[at]):#x})")
    lengths = stop - first
    # In floats first: a sum of hostile lengths may overflow.
    most = min(ALWAYS_PAGES + PAGES_PER_BYTE * nbytes, npz.MAX_ENTRIES)
    if lengths.sum(dtype=np.float64) > most:
        raise CaptureError(
            f"{int(lengths.sum(dtype=np.float64))} pages are more than {most}, the "
            f"most of {nbytes} bytes"
        )
    # Each page is its run's first page and its place in the run.
    ends = np.cumsum(lengths)
    skipped = np.repeat(first - (ends - lengths), lengths.astype(np.int64))
    return np.asarray(skipped + np.arange(len(skipped), dtype=np.uint64))
