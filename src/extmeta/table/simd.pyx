"""Which SIMD instructions scans use; `simd.pxd` has what they do."""
from libc.stdint cimport uint64_t

import numpy as np


def instructions():
    """Return the instructions in use: "avx512", "avx2" or "none"."""
    return "avx512" if simd == AVX512 else "avx2" if simd == AVX2 else "none"


def vpns_of(words, uint64_t first=0):
    """Return the pages whose bits are set in a bitmap, ascending.

    Parameters
    ----------
    words : (N,) uint64 ndarray
        Bit b of word w is page ``first + 64 * w + b``.
    first : int, optional

    Returns
    -------
    (M,) uint64 ndarray
    """
    cdef const uint64_t[::1] bits = np.ascontiguousarray(words)
    cdef Py_ssize_t n = bits.shape[0], m = np.bitwise_count(words).sum(dtype=np.int64)
    found = np.empty(m + PAST, np.uint64)
    cdef uint64_t[::1] vpns = found
    if n:
        with nogil:
            vpns_of_bits(&vpns[0], first, &bits[0], n)
    return found[:m]
