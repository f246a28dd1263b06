"""Loops that do what memory allows and nothing else.

`machine` times them. Reads are numpy's max(), copies its copyto().
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

import cython

# Chains that `follow_together` has in flight: as many as a lookup in groups, which is
# compared with it, may have misses.
cdef enum:
    TOGETHER = 16

CHAINS = TOGETHER


def fill(uint64_t[::1] words, int byte):
    """Write every byte of ``words``."""
    with nogil:
        memset(&words[0], byte, words.shape[0] * sizeof(uint64_t))


@cython.boundscheck(False)
def follow(const uint64_t[::1] chain, uint64_t[::1] at, uint64_t steps):
    """Go ``steps`` steps along a chain, each of which needs the one before.

    Parameters
    ----------
    chain : (n,) uint64 buffer
        At each index that is reached, the next index, below n.
    at : (1,) uint64 buffer
        The first index; the last afterwards.
    steps : int
    """
    cdef uint64_t here = at[0], _step
    with nogil:
        for _step in range(steps):
            here = chain[here]
    at[0] = here


@cython.boundscheck(False)
def follow_together(const uint64_t[::1] chain, uint64_t[::1] at, uint64_t steps):
    """Go ``steps`` steps from each of `CHAINS` indices, by turns, as `follow` does."""
    cdef uint64_t here[TOGETHER]
    cdef uint64_t _step
    cdef int i
    if at.shape[0] != TOGETHER:
        raise ValueError(f"{at.shape[0]} chains, not {TOGETHER}")
    for i in range(TOGETHER):
        here[i] = at[i]
    with nogil:
        for _step in range(steps):
            for i in range(TOGETHER):
                here[i] = chain[here[i]]
    for i in range(TOGETHER):
        at[i] = here[i]
