"""An encoding written in Python: a few methods over numpy arrays.

What a first version is written in. RAM can be compared this way; times can't, they
are Python's.
"""

from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from extmeta.encodings.python_calls import PythonCalls

U64 = npt.NDArray[np.uint64]


class PythonEncoding(PythonCalls):
    """Keep words in whatever a subclass has.

    A subclass defines `load`, `store` and `side_bytes`; the other methods may stay
    as they are. ``vpns`` are ascending, each there once, all mapped. ``words`` go
    with them: (n,) uint64, or (n, lanes) where words are wider than 64 bits. If it
    takes arguments, it has a property `config` too, a dict of them: every page
    table makes an instance of its own.

    What a method raises reaches the caller of the page table's method. Methods run
    under the table's lock, so they can't use the table.

    Attributes
    ----------
    uses_flag : bool, default True
        Whether a PTE with a word has its flag set. Then only flagged PTEs are
        asked for; without it all that are mapped, and the bit stays free.
    max_bits : int, default 64
        The widest word that can be held.

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
        """Refuse fields that this encoding can't hold, and size what holds them.

        Called once; ``fields``, ``bits``, ``lanes`` and ``arch`` are known then.

        Raises
        ------
        ValueError
            See `refuse_above`.
        """
        self.refuse_above(self.max_bits)

    def load(self, vpns: U64) -> npt.ArrayLike:
        """Return words; 0 where there is none.

        Parameters
        ----------
        vpns : (n,) uint64 ndarray

        Returns
        -------
        (n,) or (n, lanes) array_like of int
        """
        raise NotImplementedError(f"{type(self).__name__}.load")

    def store(self, vpns: U64, words: U64) -> None:
        """Keep words. It must not fail: what could belongs in `prepare`.

        Where it fails all the same, the caller has the exception, but what was
        stored before stays stored.

        Parameters
        ----------
        vpns : (n,) uint64 ndarray
        words : (n,) or (n, lanes) uint64 ndarray
            0: drop the word there is.
        """
        raise NotImplementedError(f"{type(self).__name__}.store")

    def side_bytes(self) -> int:
        """Return the bytes that the words take, as an implementation in C would."""
        raise NotImplementedError(f"{type(self).__name__}.side_bytes")

    def index_bytes(self) -> int:
        """Return the bytes of what finds the words."""
        return 0

    def prepare(self, vpns: U64, words: U64) -> None:
        """Refuse words, or make room for them, before anything is changed.

        An operation that gives PTEs words calls it for each run of them, perhaps
        several of one PTE table, before the first `store`.

        Parameters
        ----------
        vpns : (n,) uint64 ndarray
            Of PTEs that are moved here: not mapped yet.
        words : (n,) or (n, lanes) uint64 ndarray
            None of them 0.

        Raises
        ------
        MemoryError, ValueError
        """

    def settle(self, vpns: range) -> None:
        """Give back what a PTE table no longer needs; ``vpns`` are all of it.

        An operation is through with it, or failed: no `store` follows that room was
        made for.
        """

    def unmap(self, vpns: range) -> None:
        """Drop the words of vpns in one PTE table. It must not fail.

        By default they are stored as 0.
        """
        raise NotImplementedError(f"{type(self).__name__}.unmap")

    def copy_from(self, parent: Self) -> None:
        """Take all words of ``parent``, to be changed apart from then on: a fork.

        By default they are loaded, prepared and stored, table by table.
        """
        raise NotImplementedError(f"{type(self).__name__}.copy_from")

    def scan(self, vpns: range, mask: int, value: int) -> npt.ArrayLike:
        """Return those of some vpns, ascending, where word & mask == value.

        By default they are loaded.

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
        """Tell whether the class has its own version of a method."""
        return getattr(type(self), method) is not getattr(PythonEncoding, method)
