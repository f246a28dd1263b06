"""Check the vpns and words that callers pass, and convert them for C."""
from libc.stdint cimport uint64_t

import numpy as np

from extmeta.integers import is_whole, lanes_of, uint64s, whole


def row(name, values):
    """Return ``values`` as a contiguous one-dimensional uint64 array."""
    values = uint64s(name, values)
    if values.ndim != 1:
        raise ValueError(f"{name}: an array of shape {values.shape}; one dimension "
                         "is needed")
    return values


def one_each(name, values, Vpns v, limit):
    """Return one value for each vpn as a uint64 array, all below ``limit``.

    Raises
    ------
    TypeError
        If a value is no integer.
    ValueError
        If there are more or fewer than vpns, or one is outside [0, limit).
    """
    if is_whole(values):
        return np.full(v.span.n, whole(name, values, limit), np.uint64)
    values = row(name, values)
    if len(values) != v.span.n:
        raise ValueError(f"{len(values)} {name} for {v.span.n} vpns")
    if values.size and int(high := values.max()) >= limit:
        raise ValueError(f"{name}: {int(high):#x} is not below {limit:#x}")
    return values


def as_slice(first, count):
    """Return [first, first + count) as a slice's text, for messages."""
    try:
        return f"slice({whole('vpn', first):#x}, {first + whole('count', count):#x})"
    except (TypeError, ValueError):
        return "slice(first, stop)"


def as_words(name, words, Vpns v, bits, lanes):
    """Return words of ``bits`` bits as lanes of 64.

    Parameters
    ----------
    name : str
        What they are, for messages.
    words : int or array_like of int
        One for all, or one for each vpn: n ints, or (n, lanes) if lanes > 1.
    bits, lanes : int

    Returns
    -------
    flat : (k * lanes,) uint64 ndarray
    step : int
        `lanes`, or 0 if one word is for all.

    Raises
    ------
    TypeError
        If a word is no integer.
    ValueError
        If the shape is another, or a word is wider than ``bits``.
    """
    if is_whole(words):
        word = whole(name, words, 1 << 64 * max(lanes, 8))
        if word >> bits:
            raise ValueError(f"{name}: {word:#x} is wider than {bits} bits")
        return np.array([word >> 64 * lane & 0xffffffffffffffff
                         for lane in range(lanes)], np.uint64), 0
    if v.single and lanes > 1 and np.shape(words) == (lanes,):
        words = [words]
    array = lanes_of(name, words, lanes) if lanes > 1 else uint64s(name, words)
    shape = (v.span.n,) if lanes == 1 else (v.span.n, lanes)
    if array.shape != shape:
        raise ValueError(f"{name} of shape {array.shape} for {v.span.n} vpns; "
                         f"{shape} is needed")
    array = array.reshape(v.span.n, lanes)
    for lane in range(lanes):
        spare = max(bits - 64 * lane, 0)
        if spare < 64 and array.size and (high := int(array[:, lane].max())) >> spare:
            raise ValueError(f"{name}: {high << 64 * lane:#x} is wider than "
                             f"{bits} bits")
    return array.reshape(-1), lanes


def fields_as_words(values, Vpns v, fields, lanes):
    """Return the values of named fields as words, in which other fields are 0.

    Returns
    -------
    flat : (k * lanes,) uint64 ndarray
    step : int
        `lanes`, or 0 if one word is for all.
    mask : int
        The bits of the fields named.
    """
    mask = 0
    parts = {}
    for name, value in values.items():
        mask |= fields.mask(name)
        width = fields[name]
        parts[name] = as_words(f"field {name!r}", value, v, width, (width + 63) // 64)
    each = any(step for _flat, step in parts.values())
    n = v.span.n if each else 1
    words = np.zeros((n, lanes), np.uint64)
    for name, (flat, _step) in parts.items():
        k = (fields[name] + 63) // 64
        fields.deposit(np.broadcast_to(flat.reshape(-1, k), (n, k)), name, words)
    return words.reshape(-1), lanes if each else 0, mask


cdef class Vpns:
    """Virtual page numbers that a caller passed, all below ``limit``.

    Parameters
    ----------
    vpns : int, array_like of int, range or slice
        ``slice(first, stop)`` is a half-open range.
    limit : int
        The architecture's number of vpns.
    arch : str
        Its name, for messages.

    Raises
    ------
    TypeError, ValueError
        If a vpn is no integer, negative or not below ``limit``.
    """

    def __init__(self, vpns, limit, arch):
        cdef const uint64_t[::1] seen
        if isinstance(vpns, slice):
            if vpns.step not in (None, 1):
                raise ValueError(f"vpns: {vpns} has a step; use a range")
            if vpns.stop is None:
                raise ValueError(f"vpns: {vpns} has no end")
            self.run(0 if vpns.start is None else vpns.start, vpns.stop, limit, arch)
        elif isinstance(vpns, range) and vpns.step == 1:
            self.run(vpns.start, max(vpns.start, vpns.stop), limit, arch)
        elif is_whole(vpns):
            vpn = whole("vpn", vpns)
            self.run(vpn, vpn + 1, limit, arch)
            self.single = True
        else:
            array = row("vpns", vpns)
            if array.size and int(high := array.max()) >= limit:
                raise ValueError(f"vpn {int(high):#x} is outside {arch}'s "
                                 f"[0, {limit:#x})")
            seen = array
            self.held = array
            self.span.n = array.size
            # An empty array has no element to point at; it is an empty range.
            self.span.vpns = &seen[0] if array.size else NULL

    def run(self, first, stop, limit, arch):
        """Set the span to [first, stop)."""
        first = whole("vpns", first)
        stop = whole("vpns", stop, 2**64 + 1)
        if stop < first:
            raise ValueError(f"vpns [{first:#x}, {stop:#x}) end before they start")
        if stop > limit:
            raise ValueError(f"vpns [{first:#x}, {stop:#x}) leave {arch}'s "
                             f"[0, {limit:#x})")
        self.span.first = first
        self.span.n = stop - first
        self.span.vpns = NULL
