"""Where captures come from: files, directories, tars and fsspec URLs.

No capture is copied to disk. One inside a tar or behind a URL is read into memory, and
given to the reader as a file of its own.
"""

import contextlib
import functools
import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from extmeta.captures.capture import Capture, CaptureError, load_capture
from extmeta.captures.npz import MAX_FILE_BYTES

# What a file of a directory, a tar or a URL has to end in; a file that is named itself
# may have any name.
SUFFIX = ".npz"


class Source(NamedTuple):
    """One capture.

    Attributes
    ----------
    name : str
        Its path below the directory, tar or URL that was given.
    kind : {"file", "tar", "url"}
    given : str
        The file, the tar, or the URL.
    machine : str
        The folder that it lies in; "" if there is none.
    """

    name: str
    kind: str
    given: str
    machine: str


def _source(name: str, kind: str, given: str) -> Source:
    return Source(name, kind, given, os.path.dirname(name))


def sources(given: str) -> list[Source]:
    """Return the captures of a file, directory, tar or URL, by name.

    Raises
    ------
    OSError
        If it does not exist or can't be read.
    ImportError
        If it is a URL, and fsspec is missing.
    """
    if "://" in given:
        return sorted(_of_url(given))
    if os.path.isdir(given):
        return sorted(_of_folder(given))
    if tarfile.is_tarfile(given):
        names = (name for name in _members(given) if name.endswith(SUFFIX))
        return sorted(_source(name, "tar", given) for name in names)
    return [_source(os.path.basename(given), "file", given)]


def _of_folder(given: str) -> Iterator[Source]:
    for folder, _folders, names in os.walk(given, onerror=_raise):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(SUFFIX):
                yield _source(os.path.relpath(path, given), "file", path)


def _raise(error: OSError) -> None:
    raise error


def _of_url(given: str) -> Iterator[Source]:
    files, root = _files(given)
    for path in files.find(root):
        if path.endswith(SUFFIX):
            name = os.path.relpath(path, root) if path != root else ""
            full = files.unstrip_protocol(path)
            yield _source(name or os.path.basename(path), "url", full)


def _files(url: str) -> tuple[Any, str]:
    import fsspec

    files, root = fsspec.core.url_to_fs(url)
    return files, str(root)


@functools.lru_cache(maxsize=8)
def _members(path: str) -> dict[str, tarfile.TarInfo]:
    """Return the regular files of a tar; of two with one name, the last."""
    with tarfile.open(path) as tar:
        return {os.path.normpath(each.name): each for each in tar if each.isreg()}


def load(source: Source) -> Capture:
    """Read a capture.

    Raises
    ------
    CaptureError
        If it is damaged, or too large.
    OSError
        If it can't be read.
    """
    if source.kind == "file":
        return load_capture(source.given)
    descriptor = os.memfd_create("extmeta")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(_data(source))
        path = f"/proc/self/fd/{descriptor}"
        try:
            return load_capture(path)
        except CaptureError as error:
            raise CaptureError(str(error).replace(path, source.name)) from None
    finally:
        os.close(descriptor)


def _data(source: Source) -> bytes:
    with contextlib.ExitStack() as stack:
        if source.kind == "url":
            files, path = _files(source.given)
            file = stack.enter_context(files.open(path, "rb"))
        else:
            tar = stack.enter_context(tarfile.open(source.given))
            file = tar.extractfile(_members(source.given)[source.name])
        data = bytes(file.read(MAX_FILE_BYTES + 1))
    if len(data) > MAX_FILE_BYTES:
        raise CaptureError(f"{source.name}: more than {MAX_FILE_BYTES} bytes")
    return data


def unique(found: Sequence[Source]) -> list[Source]:
    """Return sources by name; ValueError if two have one name."""
    by_name = {source.name: source for source in found}
    if len(by_name) < len(found):
        for source in found:
            if by_name[source.name] is not source:
                raise ValueError(f"{source.name}: two captures have this name")
    return sorted(by_name.values())


def nameless(found: Sequence[Source]) -> list[Source]:
    """Return sources with numbers for the names of machines."""
    machines = sorted({source.machine for source in found})
    number = {name: f"machine {i}" for i, name in enumerate(machines)}
    return [source._replace(machine=number[source.machine]) for source in found]
