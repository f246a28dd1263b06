"""Who is told of faults and of changes: a userfaultfd, its features, its events."""

from collections.abc import Callable, Iterable
from enum import IntFlag
from typing import Any, NamedTuple

# include/uapi/linux/userfaultfd.h, with the release that each came in, if it is one
# of those that can be chosen. Those in the last line change nothing here.
FEATURES = {
    **dict.fromkeys(("PAGEFAULT_FLAG_WP", "SIGBUS", "MISSING_SHMEM"), (0, 0)),
    **dict.fromkeys(("EVENT_FORK", "EVENT_REMAP"), (0, 0)),
    **dict.fromkeys(("EVENT_REMOVE", "EVENT_UNMAP"), (0, 0)),
    "WP_UNPOPULATED": (6, 4),
    "WP_ASYNC": (6, 7),
    "MOVE": (6, 8),
    **dict.fromkeys(("THREAD_ID", "EXACT_ADDRESS", "WP_HUGETLBFS_SHMEM"), (0, 0)),
}

# UFFDIO_MOVE, the call and the feature.
HAS_MOVE = FEATURES["MOVE"]


class Mode(IntFlag):
    """UFFDIO_REGISTER_MODE_*: which faults a userfaultfd is told of."""

    NONE = 0
    MISSING = 1
    WP = 2


class UffdEvent(NamedTuple):
    """What a userfaultfd is told besides faults: struct uffd_msg.

    Attributes
    ----------
    kind : str
        FORK, REMAP, REMOVE or UNMAP.
    start, end : int
        Bytes. Of REMAP: what was moved. Of FORK: 0.
    to : int
        Where REMAP moved it to, else 0.
    child : AddressSpace or None
        The one that FORK made; its VMAs have a userfaultfd of their own.
    """

    kind: str
    start: int = 0
    end: int = 0
    to: int = 0
    child: Any = None


# Called with the address space and the address of a page whose access waits.
Handler = Callable[[Any, int], object]
# Called with the address space and what happened to it.
Listener = Callable[[Any, UffdEvent], object]


class UserFault(Exception):
    """An access to a page waits for somebody to resolve it.

    Attributes
    ----------
    address : int
        Address of the page, in bytes.
    missing : bool
        The page is not there; else it is write-protected.
    """

    def __init__(self, address: int, missing: bool = False) -> None:
        what = (
            "missing, and a userfaultfd is to bring it"
            if missing
            else "write-protected by a userfaultfd without WP_ASYNC"
        )
        super().__init__(f"the page at {address:#x} is {what}")
        self.address = address
        self.missing = missing

    def __reduce__(self) -> tuple[type["UserFault"], tuple[int, bool]]:
        return type(self), (self.address, self.missing)


class Userfaultfd:
    """A userfaultfd with the features it was opened with.

    Parameters
    ----------
    features : iterable of str
        UFFD_FEATURE_*, without the prefix.

    Attributes
    ----------
    handler, missing_handler : callable or None
        Called as ``handler(space, address)`` at a write to a protected page, and at
        an access to a missing one; expected to resolve it.
    listener : callable or None
        Called as ``listener(space, event)``.
    """

    def __init__(self, features: Iterable[str]) -> None:
        self.features = frozenset(features)
        self.handler: Handler | None = None
        self.missing_handler: Handler | None = None
        self.listener: Listener | None = None

    @property
    def asynchronous(self) -> bool:
        """A write takes the protection off by itself."""
        return "WP_ASYNC" in self.features

    @property
    def unpopulated(self) -> bool:
        """Pages not there are protected too; WP_ASYNC implies it."""
        return self.asynchronous or "WP_UNPOPULATED" in self.features

    def copy(self) -> "Userfaultfd":
        """Return the child's, which a fork with EVENT_FORK makes."""
        child = Userfaultfd(self.features)
        child.handler, child.missing_handler = self.handler, self.missing_handler
        child.listener = self.listener
        return child
