"""The ioctls of a userfaultfd, with checks of their arguments."""

import errno
from collections.abc import Iterable

from extmeta.linux import faults, fill, protect, uffd_move
from extmeta.linux.edge import bits_of, names_of
from extmeta.linux.tlb.edge import TlbEdge
from extmeta.linux.userfault import (
    FEATURES,
    Handler,
    Listener,
    Mode,
    UffdEvent,
    UserFault,
    Userfaultfd,
)
from extmeta.linux.vma import Vma

Modes = str | Iterable[str]


def _flags(mode: Modes, known: set[str]) -> set[str]:
    """Return the names in a call's mode, all of which must be `known`."""
    names = names_of("mode", mode) - {"", "-"}
    if unknown := names - known:
        raise ValueError(f"mode: {sorted(map(str, unknown))} unknown; {sorted(known)}")
    return names


class Uffdio(TlbEdge):
    """The monitor's side of a userfaultfd: a part of `AddressSpace`."""

    def uffd_register(
        self,
        addr: int,
        length: int,
        features: Iterable[str] = ("WP_ASYNC", "WP_UNPOPULATED"),
        *,
        mode: str | Iterable[str] = "WP",
        handler: Handler | None = None,
        missing_handler: Handler | None = None,
        listener: Listener | None = None,
    ) -> None:
        """Register a range with a userfaultfd: UFFDIO_REGISTER.

        There is one userfaultfd for each set of features. `uffd_unregister` uses the
        one registered last.

        Parameters
        ----------
        features : iterable of str
            UFFD_FEATURE_* without the prefix, or text joined by "|".
        mode : str or iterable of str
            WP: track writes. MISSING: the userfaultfd brings missing pages.
        handler : callable, optional
            ``handler(space, address)`` is called at a write to a protected page
            without WP_ASYNC, and should unprotect it.
        missing_handler : callable, optional
            ``missing_handler(space, address)`` is called at an access to a missing
            page and should bring it, by `uffd_copy` for example.
        listener : callable, optional
            ``listener(space, event)`` is called with a :class:`UffdEvent` for each
            event of the features EVENT_*: for REMOVE before pages are unmapped, for
            others at the end of the call.

        Raises
        ------
        OSError
            EINVAL: no mode, not whole pages, nothing mapped, a feature that this
            release does not have, or WP without a field `uffd_wp`. EBUSY: the range
            has another userfaultfd.
        Refused
            The two trackers share one bit by VMA, and `soft_dirty` has it since
            clear_refs.
        """
        names = frozenset(names_of("features", features))
        if unknown := names - FEATURES.keys():
            raise ValueError(f"features: {sorted(unknown)} are not modelled")
        callbacks = {
            "handler": handler,
            "missing_handler": missing_handler,
            "listener": listener,
        }
        for name, called in callbacks.items():
            if called is not None and not callable(called):
                raise TypeError(f"{name}: {called!r} can't be called")
        modes = Mode(bits_of("mode", names_of("mode", mode), Mode))
        for name in sorted(names):
            if self._mm.release < FEATURES[name]:
                raise OSError(errno.EINVAL, f"no {name} in {self._mm.release}")
        if not modes:
            raise OSError(errno.EINVAL, f"mode {mode!r}: none")
        same = (one for one in self._uffds if one.features == names)
        uffd = next(same, None) or Userfaultfd(names)
        protect.register(self._mm, uffd, modes, *self._uffd_range(addr, length))
        self._uffds = [one for one in self._uffds if one is not uffd] + [uffd]
        for name, called in callbacks.items():
            if called is not None:
                setattr(uffd, name, called)

    def uffd_unregister(self, addr: int, length: int) -> None:
        """Clear protection and stop tracking: UFFDIO_UNREGISTER.

        Raises
        ------
        OSError
            EINVAL: not whole pages, nothing mapped, or registered with a userfaultfd
            other than the one registered last.
        """
        uffd = self._uffds[-1] if self._uffds else None
        first, stop = self._uffd_range(addr, length)
        protect.unregister(self._mm, uffd, first, stop)
        self._wake(first, stop)

    def uffd_writeprotect(self, addr: int, length: int, on: bool | int) -> None:
        """Protect pages, or clear protection: UFFDIO_WRITEPROTECT.

        Raises
        ------
        OSError
            EINVAL: not whole pages. ENOENT: a part is not tracked, or nothing is
            mapped; pages before it have been changed.
        """
        first, stop = self._uffd_range(addr, length)
        protect.writeprotect(self._mm, first, stop, on=bool(on))
        if self._tlbs is not None:
            self._tlbs.protected(first, stop)
        if not on:
            self._wake(first, stop)

    def uffd_copy(self, addr: int, length: int, mode: Modes = "") -> int:
        """Bring missing pages with the monitor's content: UFFDIO_COPY.

        The monitor's memory that it copies from is not modelled: it is always readable.

        Parameters
        ----------
        addr, length : int
            Bytes, whole pages.
        mode : str or iterable of str
            WP: the pages come write-protected. DONTWAKE: accesses that wait for them
            go on waiting until `uffd_wake`.

        Returns
        -------
        int
            `length`, the bytes copied.

        Raises
        ------
        OSError
            EINVAL: not whole pages, or WP in a VMA whose writes are not tracked.
            ENOENT: not in one VMA that has a userfaultfd. EEXIST: the first page is
            present or in the backing of shared memory. EFAULT: it is past the end of
            the backing.
        BlockingIOError
            EAGAIN: a page after the first can't be brought. `characters_written` is
            the number of bytes copied, as in the kernel's field `copy`.
        """
        names = _flags(mode, {"WP", "DONTWAKE"})
        first, stop = self._uffd_range(addr, length)
        done = fill.fill(self._mm, first, stop, zeros=False, protect="WP" in names)
        return self._result(first, done, "DONTWAKE" in names)

    def uffd_zeropage(self, addr: int, length: int, mode: Modes = "") -> int:
        """Bring missing pages that are all zeros: UFFDIO_ZEROPAGE.

        As `uffd_copy`, but the only mode is DONTWAKE, and private memory gets the page
        of zeros, which is not soft-dirty. EEXIST also for a marker in private memory.
        """
        names = _flags(mode, {"DONTWAKE"})
        first, stop = self._uffd_range(addr, length)
        done = fill.fill(self._mm, first, stop, zeros=True, protect=False)
        return self._result(first, done, "DONTWAKE" in names)

    def uffd_move(self, dst: int, src: int, length: int, mode: Modes = "") -> int:
        """Bring missing pages by moving others: UFFDIO_MOVE.

        An ioctl of the userfaultfd that was registered last.

        Parameters
        ----------
        dst, src, length : int
            Bytes, whole pages.
        mode : str or iterable of str
            ALLOW_SRC_HOLES: skip missing pages. DONTWAKE.

        Returns
        -------
        int
            `length`, the bytes moved.

        Raises
        ------
        OSError
            EINVAL: not whole pages; a range is not in one private, anonymous and
            writable VMA; the destination does not have that userfaultfd; before 6.8.
            ENOENT: nothing is mapped, or the first page is missing. EEXIST: the
            destination has a page or a marker. EBUSY: the page is shared, or was
            shared since its last write. EFAULT: it is a marker.
        BlockingIOError
            As `uffd_copy`.
        """
        names = _flags(mode, {"ALLOW_SRC_HOLES", "DONTWAKE"})
        if self._mm.release < FEATURES["MOVE"]:
            raise OSError(errno.EINVAL, f"no UFFDIO_MOVE in {self._mm.release}")
        to, _ = self._uffd_range(dst, length)
        first, stop = self._uffd_range(src, length)
        uffd = self._uffds[-1] if self._uffds else None
        holes = "ALLOW_SRC_HOLES" in names
        done = uffd_move.move(self._mm, uffd, to, first, stop - first, holes=holes)
        return self._result(to, done, "DONTWAKE" in names)

    def uffd_wake(self, addr: int, length: int) -> None:
        """Wake accesses that wait for pages: UFFDIO_WAKE, needed after DONTWAKE.

        Raises
        ------
        OSError
            EINVAL: not whole pages.
        """
        self._wake(*self._uffd_range(addr, length))

    def _result(self, first: int, done: tuple[int, int], asleep: bool) -> int:
        """Wake accesses to the pages done; return the bytes, or raise."""
        pages, error = done
        if not asleep:
            self._wake(first, first + pages)
        if not error:
            return pages << self._shift
        at = f"at {first + pages << self._shift:#x}"
        if not pages:
            raise OSError(error, at)
        reason = f"{errno.errorcode[error]} {at}"
        raise BlockingIOError(errno.EAGAIN, reason, pages << self._shift)

    # -- faults and events --------------------------------------------------

    def _wake(self, first: int, stop: int) -> None:
        self._asleep -= {vpn for vpn in self._asleep if first <= vpn < stop}

    def _event(self, vma: Vma, vpn: int, missing: bool) -> None:
        """Have a handler resolve a fault: handle_userfault()."""
        address = vpn << self._shift
        uffd = vma.uffd or Userfaultfd(())
        if "SIGBUS" in uffd.features:
            raise OSError(errno.EFAULT, f"SIGBUS at {address:#x}: UFFD_FEATURE_SIGBUS")
        handler = uffd.missing_handler if missing else uffd.handler
        asleep = False
        if handler is not None:
            self._asleep.add(vpn)
            handler(self, address)
            asleep = vpn in self._asleep
            self._asleep.discard(vpn)
        if asleep or self._waits(vpn, missing):
            raise UserFault(address, missing)

    def _waits(self, vpn: int, missing: bool) -> bool:
        """Tell whether an access to a page still has to wait."""
        mm, vma = self._mm, self._mm.vmas.find(vpn)
        if vma is None:
            return False
        if missing:
            return faults.is_missing(mm, vma, vpn)
        if not vma.wp or vma.asynchronous:
            return False
        leaf = mm.leaves.get(mm.leaf_of(vpn))
        word = leaf.word if leaf is not None else mm.table.load(vpn)
        return bool(word & mm.uffd_wp)

    def _tell(self, uffd: Userfaultfd, kind: str, vpns: tuple[int, ...]) -> None:
        """Call a userfaultfd's listener with an event, in bytes."""
        if uffd.listener is not None:
            event = UffdEvent(kind, *(vpn << self._shift for vpn in vpns))
            uffd.listener(self, event)
