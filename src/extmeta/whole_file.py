"""Write a file so that it is the old one or the new one, never a part of either.

Also if the process is killed in the middle, the disk is full or the machine stops.
"""

import contextlib
import os
import secrets
import stat


def replace(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write a file, all of it or nothing.

    Parameters
    ----------
    path : str or path-like
        A link is followed. What was there is replaced when the new file is complete
        and on disk, and keeps its mode and, if that is permitted, its owner. A device,
        a pipe, and what /dev and /proc name (/dev/stdout) is written to instead. Killed
        before, the process leaves a file beside it that is named ``.extmeta-*.tmp``.
    data : bytes-like

    Raises
    ------
    OSError
        No space, no permission and the like; what was there is untouched.
    """
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    named = os.path.abspath(os.fsdecode(path))
    if (old and not stat.S_ISREG(old.st_mode)) or named.startswith(("/dev/", "/proc/")):
        with open(path, "wb") as file:
            file.write(data)
        return
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    draft = os.path.join(folder, f".extmeta-{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        # Nobody else reads it before it has the old one's mode.
        descriptor = os.open(draft, flags, 0o600 if old else 0o666)
        with open(descriptor, "wb") as file:
            if old:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    # The rename too has to survive a crash.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
