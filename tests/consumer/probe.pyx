"""The allocators, which Python can't reach, driven at random."""
from libc.stdint cimport uint64_t, uintptr_t

from extmeta.memory.frames cimport (
    NO_FRAME,
    PTE,
    SIDE,
    UPPER,
    Frames,
    Kind,
    Ptdesc,
    entries,
)
from extmeta.memory.slabs cimport Slabs

import numpy as np


def frames(seed, int rounds, size_t page_bytes=4096, size_t frame_bytes=4096):
    """Allocate and free blocks; return how many frames were ever needed."""
    cdef Frames f = Frames(page_bytes, frame_bytes)
    cdef Py_ssize_t words = frame_bytes // 8
    cdef Ptdesc* d
    cdef uint64_t* page
    cdef Py_ssize_t i
    rng = np.random.default_rng(seed)
    held = []
    for round_ in range(rounds):
        if held and rng.random() < 0.48:
            d = <Ptdesc*><uintptr_t>held.pop(int(rng.integers(len(held))))
            page = entries(f, d)
            for i in range(words << d.order):
                assert page[i] == <uintptr_t>d, "a block was shared"
            f.free(d)
        else:
            order = int(rng.choice([0, 0, 0, 1, 1, 2, 5]))
            kind = [UPPER, PTE, SIDE][int(rng.integers(3))]
            d = f.alloc(order, <Kind><int>kind, True)
            page = entries(f, d)
            assert <uintptr_t>page % (frame_bytes << order) == 0, "not aligned"
            if kind != SIDE:
                for i in range(words):
                    assert page[i] == 0, "a table is not zero"
            for i in range(words << order):
                page[i] = <uintptr_t>d
            held.append(<uintptr_t>d)
        if round_ % 64 == 0:
            assert f.fault() is NULL, f.fault()
            assert f.held(UPPER) % page_bytes == 0, "a page is shared by kinds"
            assert (f.held(PTE) + f.held(SIDE)) % page_bytes == 0, "likewise"
    for address in held:
        f.free(<Ptdesc*><uintptr_t>address)
    assert f.fault() is NULL, f.fault()
    assert f.free_list[0][9] != NO_FRAME, "nothing joined to a whole block"
    assert [f.pages[i] for i in range(1, 4)] == [0, 0, 0]
    # What small blocks held can be had as one.
    before = f.committed
    assert f.alloc(9, SIDE, False) is not NULL
    assert f.committed == before
    return before


def slabs(seed, int rounds):
    """Allocate and free objects of many sizes; none may overlap."""
    cdef Slabs s = Slabs()
    cdef unsigned char* p
    cdef size_t n, i
    rng = np.random.default_rng(seed)
    held = []
    for _round in range(rounds):
        if held and rng.random() < 0.49:
            address, n, mark = held.pop(int(rng.integers(len(held))))
            p = <unsigned char*><uintptr_t>address
            for i in range(n):
                assert p[i] == <unsigned char>mark, "objects overlap"
            s.free(p)
        else:
            n = int(rng.integers(1, 4000 if rng.random() < 0.1 else 300))
            n = 32768 if rng.random() < 0.01 else n
            p = <unsigned char*>s.alloc(n)
            mark = len(held) & 255
            for i in range(n):
                p[i] = <unsigned char>mark
            held.append((<uintptr_t>p, n, mark))
        assert s.object_bytes >= sum(h[1] for h in held[:1])
        assert s.page_bytes() >= s.object_bytes
    used = s.object_bytes
    asked = sum(h[1] for h in held)
    for address, _n, _mark in held:
        s.free(<void*><uintptr_t>address)
    assert s.object_bytes == 0
    assert s.page_bytes() == 0
    return asked, used
