"""The page of side memory, on each architecture."""

cdef enum:
    PAGE = 4096
