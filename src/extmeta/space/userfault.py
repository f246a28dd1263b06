"""Who is told of writes: a userfaultfd and its features."""

from collections.abc import Callable, Iterable
from typing import Any

# include/uapi/linux/userfaultfd.h; those in the second line change nothing here:
# their events and modes are not modelled.
FEATURES = {"PAGEFAULT_FLAG_WP", "EVENT_FORK", "EVENT_REMAP"} | {
    *("WP_UNPOPULATED", "WP_ASYNC", "WP_HUGETLBFS_SHMEM"),
    *("EVENT_REMOVE", "EVENT_UNMAP", "THREAD_ID", "EXACT_ADDRESS"),
}

# Called with the address space and the address of a write to a protected page.
Handler = Callable[[Any, int], object]


class UserFault(Exception):
    """A write to a write-protected page waits for somebody to resolve it.

    Attributes
    ----------
    address : int
        Of the page, in bytes.
    """

    def __init__(self, address: int) -> None:
        super().__init__(
            f"write to {address:#x}, write-protected by a userfaultfd without WP_ASYNC"
        )
        self.address = address

    def __reduce__(self) -> tuple[type["UserFault"], tuple[int]]:
        return type(self), (self.address,)


class Userfaultfd:
    """A userfaultfd with the features it was opened with.

    Parameters
    ----------
    features : iterable of str
        UFFD_FEATURE_*, without the prefix.
    handler : callable, optional
        Called as ``handler(space, address)`` at a write to a protected page;
        expected to unprotect it.
    """

    def __init__(self, features: Iterable[str], handler: Handler | None = None) -> None:
        self.features = frozenset(features)
        self.handler = handler

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
        return Userfaultfd(self.features, self.handler)
