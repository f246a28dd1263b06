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
        and on disk. Killed before, the process leaves a file beside it that is named
        ``.extmeta-*.tmp``.
    data : bytes-like

    Raises
    ------
    OSError
        No space, no permission and the like; what was there is untouched.
    """
    path = os.path.realpath(path)
    if os.path.lexists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        # A device or a pipe takes the bytes; it must not be replaced.
        with open(path, "wb") as file:
            file.write(data)
        return
    folder = os.path.dirname(path)
    draft = os.path.join(folder, f".extmeta-{secrets.token_hex(8)}.tmp")
    try:
        with open(draft, "xb") as file:
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
