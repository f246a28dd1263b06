"""The named parts of a metadata word."""

from collections.abc import Iterator, Mapping
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from extmeta.integers import whole

MAX_BITS = 512


class Fields(Mapping[str, int]):
    """A metadata word's layout: a mapping of names to widths in bits.

    Parameters
    ----------
    **widths : int
        ``name=bits``; the first name gets the lowest bits.

    Raises
    ------
    TypeError
        If a width is not an integer.
    ValueError
        If a width is below 1, the sum is above 512, or there is no field.

    Examples
    --------
    >>> fields = Fields(uffd_wp=1, soft_dirty=1, age=8)
    >>> fields.bits, fields.shift("age"), hex(fields.mask("age"))
    (10, 2, '0x3fc')
    """

    __slots__ = ("_shifts", "_widths", "bits")

    # PageTable.store() has parameters of these names, and takes fields by keyword.
    _TAKEN = ("vpns", "words")

    bits: int
    _widths: dict[str, int]
    _shifts: dict[str, int]

    def __init__(self, **widths: int) -> None:
        if not widths:
            raise ValueError("Fields() needs a field, as in Fields(age=8)")
        shifts: dict[str, int] = {}
        self._widths = {}
        bits = 0
        for name, width in widths.items():
            if name in self._TAKEN:
                raise ValueError(f"a field can't be named {name!r}")
            if isinstance(width, int) and width < 1:
                raise ValueError(f"field {name!r}: width {width} is below 1 bit")
            self._widths[name] = whole(f"field {name!r}: width", width)
            shifts[name] = bits
            bits += self._widths[name]
        if bits > MAX_BITS:
            raise ValueError(f"fields of {bits} bits; at most {MAX_BITS} are possible")
        self._shifts = shifts
        self.bits = bits

    def __getitem__(self, name: str) -> int:
        if name not in self._widths:
            raise KeyError(f"no field named {name!r}; there are {list(self._widths)}")
        return self._widths[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._widths)

    def __len__(self) -> int:
        return len(self._widths)

    def __hash__(self) -> int:
        return hash(tuple(self._widths.items()))

    def __eq__(self, other: object) -> bool:
        # In order, unlike dicts: the order is the layout.
        if not isinstance(other, Fields):
            return NotImplemented
        return list(self.items()) == list(other.items())

    def __repr__(self) -> str:
        return f"Fields({', '.join(f'{n}={b}' for n, b in self._widths.items())})"

    def shift(self, name: str) -> int:
        """Return the number of the field's lowest bit."""
        self[name]
        return self._shifts[name]

    def mask(self, name: str) -> int:
        """Return the field's bits set, the others 0."""
        return ((1 << self[name]) - 1) << self._shifts[name]

    def pack(self, **values: SupportsIndex) -> int:
        """Return the word with these values; other fields are 0.

        Raises
        ------
        KeyError
            If there is no field of that name.
        TypeError
            If a value is not an integer.
        ValueError
            If a value does not fit its field.
        """
        word = 0
        for name, value in values.items():
            number = whole(f"field {name!r}", value, 1 << MAX_BITS)
            if number >> self[name]:
                raise ValueError(
                    f"field {name!r} of {self[name]} bits can't hold {number}"
                )
            word |= number << self._shifts[name]
        return word

    def unpack(self, word: SupportsIndex) -> dict[str, int]:
        """Return every field's value in ``word``.

        Raises
        ------
        TypeError
            If it is not an integer.
        ValueError
            If it is negative.
        """
        bits = whole("word", word, 1 << MAX_BITS)
        return {
            name: bits >> self._shifts[name] & ((1 << width) - 1)
            for name, width in self._widths.items()
        }

    def extract(self, words: NDArray[np.uint64], name: str) -> NDArray[np.uint64]:
        """Return one field of each word.

        Parameters
        ----------
        words : (n, lanes) uint64 ndarray
        name : str

        Returns
        -------
        (n,) uint64 ndarray
            Or (n, k), k = ceil(width / 64), if the field is wider than 64.
        """
        width = self[name]
        first, shift = divmod(self._shifts[name], 64)
        k = (width + 63) // 64
        values = np.zeros((len(words), k), np.uint64)
        for lane in range(k):
            values[:, lane] = words[:, first + lane] >> np.uint64(shift)
            if shift and first + lane + 1 < words.shape[1]:
                values[:, lane] |= words[:, first + lane + 1] << np.uint64(64 - shift)
        if width % 64:
            values[:, -1] &= np.uint64((1 << width % 64) - 1)
        return values if k > 1 else values[:, 0]

    def deposit(
        self, values: NDArray[np.uint64], name: str, words: NDArray[np.uint64]
    ) -> None:
        """Write one field's values into words in which it is 0.

        Parameters
        ----------
        values : (n, k) uint64 ndarray
            k = ceil(width / 64); none wider than the field.
        name : str
        words : (n, lanes) uint64 ndarray
            Changed in place.
        """
        first, shift = divmod(self._shifts[name], 64)
        for lane in range(values.shape[1]):
            words[:, first + lane] |= values[:, lane] << np.uint64(shift)
            if shift and first + lane + 1 < words.shape[1]:
                words[:, first + lane + 1] |= values[:, lane] >> np.uint64(64 - shift)
