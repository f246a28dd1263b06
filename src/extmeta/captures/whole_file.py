"""Write a file so that it has either its old or its new content, never a mixture.

This holds even if the process is killed, the disk is full or the machine stops. A file
that is replaced keeps its mode, owner, ACL and other attributes.
"""

import contextlib
import os
import stat


def replace(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write a file, all of it or nothing.

    Parameters
    ----------
    path : str or path-like
        A link stays, and its target is replaced or created. The new file takes the old
        one's place when it is complete and on disk. If the process is killed before, a
        file ``.extmeta-*.tmp`` is left beside it. A file that is not regular (a device,
        a pipe, /dev/stdout) is written to.
    data : bytes-like

    Raises
    ------
    OSError
        For example no space or no permission; it has the path. The old file is
        untouched.
    """
    path = os.fsdecode(path)
    try:
        try:
            # Without O_TRUNC, this only checks that the file may be written.
            old = os.open(path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            _replace(os.path.realpath(path), data, None)
            return
        with open(old, "wb") as file:
            if stat.S_ISREG(os.fstat(old).st_mode) and not _is_descriptor(path):
                _replace(os.path.realpath(path), data, old)
            else:
                file.write(data)
    except OSError as error:
        # It may name the draft beside the file.
        raise OSError(error.errno, error.strerror, path) from None


def _is_descriptor(path: str) -> bool:
    """Tell whether a path leads to an open file, as /dev/stdout and /dev/fd/3 do."""
    while os.path.islink(path):
        folder = os.path.realpath(os.path.dirname(path))
        if folder.startswith("/proc/"):
            return True
        path = os.path.join(folder, os.readlink(path))
    return False


def _replace(path: str, data: bytes | memoryview, old: int | None) -> None:
    folder = os.path.dirname(path)
    draft = os.path.join(folder, f".extmeta-{os.urandom(8).hex()}.tmp")
    # No other user may read it before it has the old file's mode.
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
    # The rename has to survive a crash too. Some folders can't be opened or synced.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _copy_attributes(old: int, new: int) -> None:
    """Copy mode, owner and extended attributes."""
    was = os.fstat(old)
    mode = stat.S_IMODE(was.st_mode)
    try:
        os.fchown(new, was.st_uid, was.st_gid)
    except OSError:
        try:
            os.fchown(new, -1, was.st_gid)
        except OSError:
            # The new file's group must not get the permissions of the old one's.
            mode &= ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
    os.fchmod(new, mode)
    with contextlib.suppress(OSError):
        for name in os.listxattr(old):
            with contextlib.suppress(OSError):
                os.setxattr(new, name, os.getxattr(old, name))
