"""An encoding written in Python: a few methods over numpy arrays.

A first version is written so. Its RAM can be compared; its times are Python's.
"""

from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from extmeta.encodings.python_calls import PythonCalls

U64 = npt.NDArray[np.uint64]


class PythonEncoding(PythonCalls):
    """Base class of encodings written in Python.

    A subclass must define `load`, `store` and `side_bytes`. ``vpns`` are ascending,
    unique and mapped. ``words`` has a word for each: (n,) uint64, or (n, lanes) if
    words are wider than 64 bits. If the constructor takes arguments, the property
    `config` must return them as a dict: every page table makes its own instance.

    An exception reaches the caller of the page table's method. Methods run under the
    table's lock, so they can't use the table.

    Attributes
    ----------
    uses_flag : bool, default True
        Whether a PTE with a word has its flag set. If so, `load` is asked for flagged
        PTEs only; else for all mapped PTEs, and the flag's bit stays free.
    max_bits : int, default 64
        The widest word that the encoding can hold.

    Examples
    --------
    >>> import extmeta as em
    >>> class InDict(em.PythonEncoding):
    ...     def __init__(self):
    ...         self.words = {}
    ...
    ...     def load(self, vpns):
    ...         return [self.words.get(vpn, 0) for vpn in vpns.tolist()]
    ...
    ...     def store(self, vpns, words):
    ...         self.words |= dict(zip(vpns.tolist(), words.tolist()))
    ...         self.words = {vpn: word for vpn, word in self.words.items() if word}
    ...
    ...     def side_bytes(self):
    ...         return 16 * len(self.words)
    >>> t = em.PageTable(InDict())
    >>> t.map(range(10))
    >>> t.store([3, 5], [7, 8])
    >>> t.load([2, 3]), t.memory().side
    (array([0, 7], dtype=uint64), 32)
    """

    uses_flag: ClassVar[bool] = True
    max_bits: ClassVar[int] = 64

    def configure(self) -> None:
        """Refuse fields that this encoding can't hold, and prepare for the others.

        Called once, when ``fields``, ``bits``, ``lanes`` and ``arch`` are known.

        Raises
        ------
        ValueError
            See `refuse_above`.
        """
        self.refuse_above(self.max_bits)

    def load(self, vpns: U64) -> npt.ArrayLike:
        """Return the words of vpns, 0 for a vpn without one.

        Parameters
        ----------
        vpns : (n,) uint64 ndarray

        Returns
        -------
        (n,) or (n, lanes) array_like of int
        """
        raise NotImplementedError(f"{type(self).__name__}.load")

    def store(self, vpns: U64, words: U64) -> None:
        """Keep words. This must not fail: `prepare` does whatever can fail.

        If it fails nevertheless, the caller gets the exception, and words stored
        before stay stored.

        Parameters
        ----------
        vpns : (n,) uint64 ndarray
        words : (n,) or (n, lanes) uint64 ndarray
            0 removes a word.
        """
        raise NotImplementedError(f"{type(self).__name__}.store")

    def side_bytes(self) -> int:
        """Return the bytes that the words would take in C."""
        raise NotImplementedError(f"{type(self).__name__}.side_bytes")

    def index_bytes(self) -> int:
        """Return the bytes of the structure that finds the words."""
        return 0

    def prepare(self, vpns: U64, words: U64) -> None:
        """Refuse words, or make room for them, before anything is changed.

        An operation calls this for every run of PTEs that gets words, before its first
        `store`. A PTE table may have several runs.

        Parameters
        ----------
        vpns : (n,) uint64 ndarray
            A PTE that moves here is not mapped yet.
        words : (n,) or (n, lanes) uint64 ndarray
            None of them 0.

        Raises
        ------
        MemoryError, ValueError
        """

    def settle(self, vpns: range) -> None:
        """Free what a PTE table no longer needs; ``vpns`` are all of the table.

        The operation is done or has failed, so no `store` needs the room made for it.
        """

    def unmap(self, vpns: range) -> None:
        """Remove the words of vpns in one PTE table. This must not fail.

        By default, `store` writes 0.
        """
        raise NotImplementedError(f"{type(self).__name__}.unmap")

    def copy_from(self, parent: Self) -> None:
        """Copy all words of ``parent`` for a fork. Later changes are independent.

        By default, words are loaded, prepared and stored, table by table.
        """
        raise NotImplementedError(f"{type(self).__name__}.copy_from")

    def scan(self, vpns: range, mask: int, value: int) -> npt.ArrayLike:
        """Return the vpns with word & mask == value, ascending.

        By default, all words are loaded and compared.

        Parameters
        ----------
        vpns : range
            In one PTE table.
        mask, value : int
            ``value`` is not 0.
        """
        raise NotImplementedError(f"{type(self).__name__}.scan")

    def check(self) -> None:
        """Raise AssertionError with the reason if an invariant is broken."""

    def defines(self, method: str) -> bool:
        """Return whether the class overrides a method."""
        return getattr(type(self), method) is not getattr(PythonEncoding, method)
