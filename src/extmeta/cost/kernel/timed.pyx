# distutils: sources = src/extmeta/cost/kernel/timing.c
# distutils: depends = src/extmeta/cost/kernel/timing.h
# distutils: include_dirs = src/extmeta/cost/kernel
"""timing.c, called from Python: what the kernel's operations take, in ns.

Each call measures in a child process, with memory of its own.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

cdef extern from "timing.h" nogil:
    ctypedef enum timing_clock:
        TIMING_NS
    const char* timing_operations[]
    int timing_rounds(
        const char* operation, uint64_t pages, uint64_t count, timing_clock clock,
        uint64_t* took, const char** step)


def operations() -> tuple[str, ...]:
    """Return the names of what can be timed."""
    names = []
    cdef Py_ssize_t i = 0
    while timing_operations[i] != NULL:
        names.append(timing_operations[i].decode())
        i += 1
    return tuple(names)


def rounds(str operation, Py_ssize_t pages, Py_ssize_t count) -> list[int]:
    """Time an operation on anonymous pages, each just written.

    Parameters
    ----------
    operation : str
        See `operations`.
    pages : int
    count : int
        Rounds, each with new pages.

    Returns
    -------
    list of int
        Nanoseconds of each round.

    Raises
    ------
    ValueError
        If there is no such operation, or no page or round is asked for.
    OSError
        With the errno of what failed; its ``strerror`` names the step.
    """
    if operation not in operations():
        raise ValueError(f"no operation {operation!r}; there are {operations()}")
    if not (0 < pages < 1 << 24 and 0 < count < 1 << 24):
        raise ValueError(f"{pages} pages, {count} rounds: not in [1, {1 << 24})")
    cdef bytes name = operation.encode()
    cdef const char* of = name
    cdef const char* step = NULL
    cdef int error
    cdef uint64_t* took = <uint64_t*>calloc(count, sizeof(uint64_t))
    if took == NULL:
        raise MemoryError
    try:
        # With the GIL: timing.c keeps the step in one place.
        error = timing_rounds(of, pages, count, TIMING_NS, took, &step)
        if error:
            raise OSError(error, step.decode())
        return [took[i] for i in range(count)]
    finally:
        free(took)
