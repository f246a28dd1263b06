# cython: language_level=3
"""Read words from Cython, without a call of Python for each."""
from extmeta.pagetable cimport PageTable

import numpy as np


def histogram(PageTable table, unsigned long long first, Py_ssize_t pages, int bits):
    """Return how many pages have each word from 0 to 2**bits - 1.

    Words are of one lane: up to 64 bits. No other thread may use the table.
    """
    counts = np.zeros(1 << bits, np.int64)
    cdef long long[::1] seen = counts
    cdef unsigned long long limit = 1 << bits
    cdef unsigned long long word
    cdef Py_ssize_t page
    for page in range(pages):
        word = table.read_word(first + page)
        if word < limit:
            seen[word] += 1
    return counts
