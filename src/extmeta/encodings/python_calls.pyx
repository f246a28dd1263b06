"""The interface of an encoding, implemented by calls of Python methods.

This takes the GIL once for each run of a PTE table. It does what all encodings in
Python need: it reads, changes and writes words, sets and clears flags of PTEs, and
passes exceptions on. :mod:`extmeta.encodings.python` has the methods that it calls.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memset

import numpy as np

from extmeta.table.encoding cimport Encoding, Write
from extmeta.memory.allowance cimport may_allocate
from extmeta.memory.frames cimport Frames, Ptdesc, entries
from extmeta.table.vpns cimport Run, entry_at


cdef class PythonCalls(Encoding):
    """Base class of :class:`PythonEncoding`; calls its methods."""

    cdef bint by_flag
    # Which optional methods the class defines.
    cdef bint takes_all
    cdef bint unmaps
    cdef bint scans
    cdef bint settles
    cdef bint taken               # copy_from() was called
    cdef bytes reason             # keeps the string that fault() returned

    def bind(self, fields, arch, Frames frames not None):
        cdef PythonCalls bound = Encoding.bind(self, fields, arch, frames)
        bound.calls_python = True
        bound.by_flag = bound.uses_descriptor = bound.uses_flag
        bound.takes_all = bound.defines("copy_from")
        bound.unmaps = bound.defines("unmap")
        bound.scans = bound.defines("scan")
        bound.settles = bound.defines("settle")
        return bound

    cdef Ptdesc* prepare(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        with gil:
            try:
                if self.pending is not None:
                    return NULL
                # A word of its own may be for an entry that moves here after this.
                index, words, _old = self.written(t, r, w, w.step != 0)
                some = words.any(axis=1)
                if some.any():
                    if not may_allocate():
                        return NULL
                    self.give("prepare", index[some] + <object>t.vpn, words[some])
                return t
            except BaseException as error:
                self.fail(error)
                return NULL

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        child.flagged = t.flagged
        with gil:
            try:
                return self.take(<PythonCalls>parent, t)
            except BaseException as error:
                # The caller operates on the parent.
                (<PythonCalls>parent).fail(error)
                return -1

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        memset(words, 0, r.n * self.lanes * sizeof(uint64_t))
        if self.by_flag and t.flagged == 0:
            return
        with gil:
            try:
                # load() gets each vpn once.
                index, back = np.unique(self.indices(r), return_inverse=True)
                numbers(words, r.n * self.lanes)[:] = (
                    self.words_at(t, index)[back].reshape(-1))
            except BaseException as error:
                self.fail(error)

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        with gil:
            try:
                self.put(t, r, w)
            except BaseException as error:
                self.fail(error)

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil:
        with gil:
            try:
                found = self.matching(t, first, last, mask, value)
                numbers(vpns, self.entries)[:len(found)] = found
                return len(found)
            except BaseException as error:
                self.fail(error)
                return 0

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        if self.by_flag and t.flagged == 0:
            return
        with gil:
            try:
                self.drop(t, np.arange(first, last, dtype=np.uint64))
            except BaseException as error:
                self.fail(error)

    cdef void settle(self, Ptdesc* t) noexcept nogil:
        if self.settles:
            with gil:
                try:
                    (<object>self).settle(
                        range(<object>t.vpn, <object>t.vpn + self.entries))
                except BaseException as error:
                    self.fail(error)

    cdef size_t side_bytes(self) noexcept nogil:
        with gil:
            try:
                return (<object>self).side_bytes()
            except BaseException as error:
                self.fail(error)
                return 0

    cdef size_t index_bytes(self) noexcept nogil:
        with gil:
            try:
                return (<object>self).index_bytes()
            except BaseException as error:
                self.fail(error)
                return 0

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        with gil:
            try:
                flagged = self.flagged_in(self.view(t))
                if flagged.sum() != t.flagged:
                    return b"count of flagged entries is stale"
                index = np.flatnonzero(flagged).astype(np.uint64)
                if not self.words_at(t, index).any(axis=1).all():
                    return b"flag set, but no word"
                (<object>self).check()
                return NULL
            except BaseException as error:
                kind = type(error).__name__
                self.reason = (
                    str(error) if kind == "AssertionError" else f"{kind}: {error}"
                ).encode()
                return self.reason

    # -- words, as numpy has them ---------------------------------------------

    cdef object view(self, const Ptdesc* t):
        """Return the live entries of a table."""
        return numbers(entries(self.frames, t), self.entries)

    cdef object indices(self, const Run* r):
        """Return the indices of a run's entries, in its order."""
        cdef Py_ssize_t i
        cdef uint64_t[::1] at
        if r.vpns is NULL:
            return np.arange(r.first, r.first + r.n, dtype=np.uint64)
        index = np.empty(r.n, np.uint64)
        at = index
        for i in range(r.n):
            at[i] = <uint64_t>entry_at(r, i, self.entries - 1)
        return index

    cdef object flags_of(self, entry):
        """Return the mask of each entry's flag."""
        present = (entry & <object>self.pte.present) != 0
        return np.where(
            present, np.uint64(self.pte.flag), np.uint64(self.pte.swap_flag))

    cdef object flagged_in(self, entry):
        """Return whether each entry has its flag set."""
        if not self.by_flag:
            return np.zeros(len(entry), np.bool_)
        return (self.flags_of(entry) & entry) != 0

    cdef object may_have(self, entry):
        """Return whether each entry may have a word."""
        if self.by_flag:
            return self.flagged_in(entry)
        return entry != <object>self.pte.none

    cdef object words_at(self, const Ptdesc* t, index):
        """Return the words of ascending indices, as (n, lanes)."""
        some = self.may_have(self.view(t)[index])
        words = np.zeros((len(index), self.lanes), np.uint64)
        if some.any():
            words[some] = self.checked(index[some] + <object>t.vpn)
        return words

    cdef object checked(self, vpns):
        """Return the result of load(), checked, as (n, lanes) uint64."""
        words = (<object>self).load(vpns)
        if isinstance(words, np.ndarray) and words.dtype.kind not in "uib":
            raise TypeError(f"{self!r}.load() gave words of {words.dtype}")
        words = np.asarray(words, np.uint64)
        if words.shape not in ((len(vpns),), (len(vpns), self.lanes)):
            raise ValueError(f"{self!r}.load() gave words of shape {words.shape} for "
                             f"{len(vpns)} vpns")
        return words.reshape(len(vpns), self.lanes)

    cdef object give(self, method, vpns, words):
        """Call prepare() or store(); words of one lane are passed as (n,)."""
        getattr(self, method)(vpns, words if self.lanes > 1 else words.reshape(-1))

    cdef object written(
            self, const Ptdesc* t, const Run* r, const Write* w, bint with_none):
        """Return the ascending indices of a write, and their new and old words.

        Entries that are none are left out unless ``with_none``.
        """
        cdef Py_ssize_t lanes = self.lanes
        index = self.indices(r)
        keep = numbers(w.keep, lanes)
        add = numbers(w.add, lanes * (r.n if w.step else 1)).reshape(-1, lanes)
        add = np.broadcast_to(add, (r.n, lanes))
        if r.vpns is not NULL:
            # The last of duplicates wins.
            index, at = np.unique(index[::-1], return_index=True)
            add = add[::-1][at]
        if not with_none:
            held = self.view(t)[index] != <object>self.pte.none
            index, add = index[held], add[held]
        old = self.words_at(t, index)
        return index, old & keep | add, old

    cdef int put(self, Ptdesc* t, const Run* r, const Write* w) except -1:
        """Store the words that change; set and clear flags."""
        index, words, old = self.written(t, r, w, False)
        changed = (words != old).any(axis=1)
        index, words = index[changed], words[changed]
        if not len(index):
            return 0
        if self.pending is None:
            try:
                self.give("store", index + <object>t.vpn, words)
            except BaseException as error:
                self.fail(error)
        if not self.by_flag:
            return 0
        some = words.any(axis=1)
        if self.pending is not None:
            # Even after an error, a move relies on cleared flags at the source.
            index, some = index[~some], some[~some]
        view = self.view(t)
        entry = view[index]
        flags = self.flags_of(entry)
        t.flagged += <unsigned int>some.sum()
        t.flagged -= <unsigned int>self.flagged_in(entry).sum()
        view[index] = np.where(some, entry | flags, entry & ~flags)
        return 0

    cdef int drop(self, Ptdesc* t, index) except -1:
        """Forget the words of a range of entries, which are cleared next."""
        index = index[self.may_have(self.view(t)[index])]
        if self.by_flag:
            # The entries go even if an error leaves their words.
            t.flagged -= <unsigned int>len(index)
        else:
            index = index[self.words_at(t, index).any(axis=1)]
        if not len(index):
            return 0
        vpns = index + <object>t.vpn
        if self.unmaps:
            (<object>self).unmap(range(int(vpns[0]), int(vpns[len(vpns) - 1]) + 1))
        else:
            self.give("store", vpns, np.zeros((len(vpns), self.lanes), np.uint64))
        return 0

    cdef int take(self, PythonCalls parent, const Ptdesc* t) except -2:
        """Copy the words of a table of ``parent``; -1 if allocation is refused."""
        if self.takes_all:
            if not self.taken:
                if not may_allocate():
                    return -1
                (<object>self).copy_from(parent)
                self.taken = True
            return 0
        index = np.arange(self.entries, dtype=np.uint64)
        words = parent.words_at(t, index)
        some = words.any(axis=1)
        if not some.any():
            return 0
        if not may_allocate():
            return -1
        vpns = index[some] + <object>t.vpn
        self.give("prepare", vpns, words[some])
        self.give("store", vpns, words[some])
        return 0

    cdef object matching(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value):
        """Return the vpns of a table's entries that match."""
        bits, wanted = numbers(mask, self.lanes), numbers(value, self.lanes)
        index = np.arange(first, last, dtype=np.uint64)
        if wanted.any():
            if self.by_flag and t.flagged == 0:
                return index[:0]
            if self.scans:
                return self.scanned(
                    <object>t.vpn + first, <object>t.vpn + last, bits, wanted)
        held = self.view(t)[index] != <object>self.pte.none
        match = (self.words_at(t, index) & bits == wanted).all(axis=1)
        return index[held & match] + <object>t.vpn

    cdef object scanned(self, first, stop, mask, value):
        """Return the result of scan(), checked, as uint64."""
        vpns = (<object>self).scan(range(first, stop), as_int(mask), as_int(value))
        vpns = np.asarray(vpns, np.uint64)
        if vpns.ndim != 1 or len(vpns) and not (
                first <= vpns[0] and vpns[len(vpns) - 1] < stop
                and (vpns[1:] > vpns[:len(vpns) - 1]).all()):
            raise ValueError(f"{self!r}.scan(range({first:#x}, {stop:#x})) gave "
                             f"vpns that are outside or not ascending: {vpns}")
        return vpns

    cdef int fail(self, error) except -1:
        """Keep the first error of an operation for its caller."""
        if self.pending is None:
            self.pending = error
        return 0


cdef object numbers(const uint64_t* first, Py_ssize_t n):
    """Return n uint64s as an array, without a copy."""
    return np.asarray(<uint64_t[:n]><uint64_t*>first)


cdef object as_int(lanes):
    return int.from_bytes(lanes.astype("<u8").tobytes(), "little")
