"""A userfaultfd: its features and events."""

from collections.abc import Callable, Iterable
from enum import IntFlag
from typing import Any, NamedTuple

# include/uapi/linux/userfaultfd.h, with the first release of those newer than the
# oldest that can be chosen. Those in the last line change nothing here.
FEATURES = {
    **dict.fromkeys(("PAGEFAULT_FLAG_WP", "SIGBUS", "MISSING_SHMEM"), (0, 0)),
    **dict.fromkeys(("EVENT_FORK", "EVENT_REMAP"), (0, 0)),
    **dict.fromkeys(("EVENT_REMOVE", "EVENT_UNMAP"), (0, 0)),
    "WP_UNPOPULATED": (6, 4),
    "WP_ASYNC": (6, 7),
    "MOVE": (6, 8),
    **dict.fromkeys(("THREAD_ID", "EXACT_ADDRESS", "WP_HUGETLBFS_SHMEM"), (0, 0)),
}


class Mode(IntFlag):
    """UFFDIO_REGISTER_MODE_*: the faults that a userfaultfd handles."""

    NONE = 0
    MISSING = 1
    WP = 2


class UffdEvent(NamedTuple):
    """An event other than a fault: struct uffd_msg.

    Attributes
    ----------
    kind : str
        FORK, REMAP, REMOVE or UNMAP.
    start, end : int
        The range in bytes, before a REMAP; 0 for FORK.
    to : int
        The new address for REMAP, else 0.
    child : AddressSpace or None
        The child for FORK; its VMAs have a userfaultfd of their own.
    """

    kind: str
    start: int = 0
    end: int = 0
    to: int = 0
    child: Any = None


# Called with the address space and the address of a page whose access waits.
Handler = Callable[[Any, int], object]
Listener = Callable[[Any, UffdEvent], object]


class UserFault(Exception):
    """An access to a page waits for a userfaultfd, and nothing resolved it.

    Attributes
    ----------
    address : int
        Address of the page, in bytes.
    missing : bool
        The page is missing; else it is write-protected.
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
        Called as ``handler(space, address)`` at a write to a protected page, or at an
        access to a missing one, to resolve it.
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
        """Whether a write clears the protection without waiting."""
        return "WP_ASYNC" in self.features

    @property
    def unpopulated(self) -> bool:
        """Whether missing pages can be protected; WP_ASYNC implies it."""
        return self.asynchronous or "WP_UNPOPULATED" in self.features
