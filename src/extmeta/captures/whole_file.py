"""Write a file so that it is the old one or the new one, never a part of either.

That holds also if the process is killed in the middle, the disk is full or the machine
stops. A file that is replaced keeps its mode, owner, ACL and other attributes.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator


def replace(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write a file, all of it or nothing.

    Parameters
    ----------
    path : str or path-like
        Links are followed: the link stays, its target is replaced, or made. The new
        file takes the old one's place when it is complete and on disk. If the process
        is killed before, it leaves a file beside it that is named
        ``.extmeta-*.tmp``. What is no regular file (a device, a pipe, /dev/stdout) is
        written to.
    data : bytes-like

    Raises
    ------
    OSError
        No space, no permission and the like, with the path; what was there is
        untouched.
    """
    path = os.fsdecode(path)
    with _named(path):
        try:
            # Without O_TRUNC, this asks only whether the file may be written.
            old = os.open(path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            _replace(os.path.realpath(path), data, None)
            return
        with open(old, "wb") as file:
            if stat.S_ISREG(os.fstat(old).st_mode) and not _is_descriptor(path):
                _replace(os.path.realpath(path), data, old)
            else:
                file.write(data)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Let an OSError name the file that was asked for, not the draft beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _is_descriptor(path: str) -> bool:
    """Tell whether a name is of an open file, as /dev/stdout and /dev/fd/3 are."""
    while os.path.islink(path):
        folder = os.path.realpath(os.path.dirname(path))
        if folder.startswith("/proc/"):
            return True
        path = os.path.join(folder, os.readlink(path))
    return False


def _replace(path: str, data: bytes | memoryview, old: int | None) -> None:
    folder = os.path.dirname(path)
    draft = os.path.join(folder, f".extmeta-{secrets.token_hex(8)}.tmp")
    # Nobody else may read it before it has the old one's mode.
    mode = 0o666 if old is None else 0o600
    try:
        with open(
            draft, "xb", opener=lambda name, how: os.open(name, how, mode)
        ) as new:
            new.write(data)
            new.flush()
            if old is not None:
                _copy_attributes(old, new.fileno())
            os.fsync(new.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    # The rename too has to survive a crash. Some folders can't be opened or synced.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _copy_attributes(old: int, new: int) -> None:
    """Give a file the mode, owner and extended attributes of another."""
    was = os.fstat(old)
    mode = stat.S_IMODE(was.st_mode)
    try:
        os.fchown(new, was.st_uid, was.st_gid)
    except OSError:
        try:
            os.fchown(new, -1, was.st_gid)
        except OSError:
            # Another group must not get what the old one had.
            mode &= ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
    os.fchmod(new, mode)
    with contextlib.suppress(OSError):
        for name in os.listxattr(old):
            with contextlib.suppress(OSError):
                os.setxattr(new, name, os.getxattr(old, name))
