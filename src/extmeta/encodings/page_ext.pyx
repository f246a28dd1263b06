"""Words in arrays by pfn: what the kernel has for more bits per page (mm/page_ext.c).

The word belongs to the page, not to the PTE, and so means something else than in
the other encodings. PTEs of the same pfn share a word. A child of fork shares it
with its parent until one of them has a copy of the page, which the model never
makes (`PageTable.copy` gives each page one). A page that is swapped out has none:
a PTE with a word can't be swapped out, nor a swap entry be given a word. The word
goes with the last PTE that maps the page.

An array has the words of a section, 2**15 pages, in 1, 2, 4 or 8 bytes each, and is
allocated with the first word there and freed with the last: 32 to 256 KiB. The
kernel allocates the arrays of all memory at boot and spends 8 bytes on flags alone
(struct page_ext, include/linux/page_ext.h, v6.12), so this is the least that such an
array can cost. `index` has 16 bytes for each array: what CONFIG_PAGE_EXTENSION adds
to a section's struct mem_section (include/linux/mmzone.h, v6.12). How many PTEs map
a page stands in its struct page in a kernel; here it is kept beside, not counted.

Page tables that are forks of each other share the arrays, and each one's `memory()`
has them whole; they share a lock, too. No PTE bit is spent.
"""
from cython cimport final, no_gc_clear
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc
from libc.string cimport memset

from extmeta.table.encoding cimport COUNTED, WHEN_ADDING, Encoding, Write
from extmeta.encodings.side cimport adds_nothing
from extmeta.memory.epoch cimport free_unseen
from extmeta.memory.allowance cimport may_allocate
from extmeta.memory.frames cimport PTE, Ptdesc, entries, pthread_mutex_t
from extmeta.memory.sync cimport acquire, once, publish
from extmeta.encodings.vpnhash cimport VpnHash, find, key_of
from extmeta.table.vpns cimport Run, entry_at

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutexattr_t:
        pass
    const int PTHREAD_MUTEX_RECURSIVE
    int pthread_mutexattr_init(pthread_mutexattr_t*)
    int pthread_mutexattr_settype(pthread_mutexattr_t*, int)
    int pthread_mutexattr_destroy(pthread_mutexattr_t*)
    int pthread_mutex_init(pthread_mutex_t*, pthread_mutexattr_t*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_trylock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)

cdef enum:
    # SECTION_SIZE_BITS 27 of x86-64, less 12 bits of a page.
    SECTION_BITS = 15
    SECTION_PAGES = 1 << SECTION_BITS
    MEM_SECTION_BYTES = 16

cdef struct Section:
    uint64_t number
    uint8_t* words        # NULL: there is none
    uint32_t nr_words
    uint64_t nr_mapped    # the sum of `mapcount`
    Section* next_idle
    bint idle             # is among those that may have lost something
    uint32_t[SECTION_PAGES] mapcount


cdef inline uint64_t get_in(
        const uint8_t* words, int width, uint64_t pfn) noexcept nogil:
    cdef uint64_t i = pfn & (SECTION_PAGES - 1)
    if width == 1:
        return words[i]
    if width == 2:
        return (<const uint16_t*>words)[i]
    if width == 4:
        return (<const uint32_t*>words)[i]
    return (<const uint64_t*>words)[i]


cdef inline uint64_t get(const Section* s, int width, uint64_t pfn) noexcept nogil:
    return get_in(s.words, width, pfn)


cdef inline void put(Section* s, int width, uint64_t pfn, uint64_t word) noexcept nogil:
    cdef uint64_t i = pfn & (SECTION_PAGES - 1)
    if width == 1:
        s.words[i] = <uint8_t>word
    elif width == 2:
        (<uint16_t*>s.words)[i] = <uint16_t>word
    elif width == 4:
        (<uint32_t*>s.words)[i] = <uint32_t>word
    else:
        (<uint64_t*>s.words)[i] = word


# Else the collector would take `sections` away before the pages are let go.
@no_gc_clear
@final
cdef class Pages:
    """The pages that a family of page tables maps, and their words."""

    cdef pthread_mutex_t lock
    cdef VpnHash sections             # number -> Section*
    cdef Section* idle
    cdef int width                    # of a word, in bytes
    cdef size_t arrays
    cdef uint64_t nr_words
    cdef uint64_t next_pfn

    def __cinit__(self, int pfn_bits, int width):
        cdef pthread_mutexattr_t kind
        # The collector may free one of the family inside a call on another.
        pthread_mutexattr_init(&kind)
        pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE)
        pthread_mutex_init(&self.lock, &kind)
        pthread_mutexattr_destroy(&kind)
        self.sections = VpnHash(max(pfn_bits - SECTION_BITS, 2), 64)
        self.width = width

    def __dealloc__(self):
        # Empty: those that mapped pages are gone, and have let go of them.
        pthread_mutex_destroy(&self.lock)

    cdef inline Section* section(self, uint64_t pfn) noexcept nogil:
        if self.sections.table.words == 0:
            return NULL
        return <Section*><uintptr_t>find(
            &self.sections.table, key_of(&self.sections.table, pfn >> SECTION_BITS))

    cdef int admit(self, uint64_t pfn) noexcept nogil:
        """Make the section of a pfn; -1 if no memory can be had."""
        cdef Section* s = self.section(pfn)
        if s is not NULL:
            return 0
        if self.sections.reserve(1) or not may_allocate():
            return -1
        s = <Section*>calloc(1, sizeof(Section))
        if s is NULL:
            return -1
        s.number = pfn >> SECTION_BITS
        self.sections.put(s.number, 0, <uintptr_t>s)
        # Freed by sweep(), unless it is mapped by then.
        self.list_idle(s)
        return 0

    cdef void list_idle(self, Section* s) noexcept nogil:
        if not s.idle:
            s.idle = True
            s.next_idle = self.idle
            self.idle = s

    cdef int make_words(self, Section* s) noexcept nogil:
        cdef void* words = NULL
        if s.words is not NULL:
            return 0
        if may_allocate():
            words = calloc(SECTION_PAGES, <size_t>self.width)
        if words is NULL:
            return -1
        publish(<uint64_t*>&s.words, <uintptr_t>words)
        self.arrays += 1
        self.list_idle(s)
        return 0

    cdef void set_word(self, Section* s, uint64_t pfn, uint64_t word) noexcept nogil:
        """Set a word in a section that has an array."""
        cdef bint had = get(s, self.width, pfn) != 0
        put(s, self.width, pfn, word)
        s.nr_words += <uint32_t>((word != 0) - had)
        self.nr_words += <uint64_t>((word != 0) - had)
        if s.nr_words == 0:
            self.list_idle(s)

    cdef void map(self, uint64_t pfn) noexcept nogil:
        """Count one more PTE of an admitted pfn."""
        self.map_in(self.section(pfn), pfn)

    cdef inline void map_in(self, Section* s, uint64_t pfn) noexcept nogil:
        s.mapcount[pfn & (SECTION_PAGES - 1)] += 1
        s.nr_mapped += 1

    cdef void unmap(self, uint64_t pfn) noexcept nogil:
        """Count one less; the word goes with the last."""
        self.unmap_in(self.section(pfn), pfn)

    cdef inline void unmap_in(self, Section* s, uint64_t pfn) noexcept nogil:
        cdef uint64_t i = pfn & (SECTION_PAGES - 1)
        # Not there: of a copy that ran out of memory.
        if s is NULL or s.mapcount[i] == 0:
            return
        s.mapcount[i] -= 1
        s.nr_mapped -= 1
        if s.mapcount[i] == 0 and s.nr_words and get(s, self.width, pfn):
            self.set_word(s, pfn, 0)
        if s.nr_mapped == 0:
            self.list_idle(s)

    cdef void sweep(self) noexcept nogil:
        """Free arrays without a word and sections without a page."""
        cdef Section* s
        cdef uint8_t* words
        while self.idle is not NULL:
            s = self.idle
            self.idle = s.next_idle
            s.idle = False
            if s.nr_words == 0 and s.words is not NULL:
                words = s.words
                publish(<uint64_t*>&s.words, 0)
                free_unseen(words)
                self.arrays -= 1
            if s.nr_mapped == 0:
                self.sections.put(s.number, 0, 0)
                free_unseen(s)
        self.sections.settle()


# Else the collector would take `frames` and `pages` away before they are asked.
@no_gc_clear
@final
cdef class PageExt(Encoding):
    """Keep the words of pages in arrays by pfn."""

    cdef Pages pages
    cdef uint64_t pfn_mask

    def configure(self):
        self.uses_descriptor = False
        self.refuse_above(64)
        self.reading = COUNTED
        self.by_page = True
        # The kernel has arrays for all pages from boot on. Here an operation may need
        # one for each page.
        self.asks = WHEN_ADDING
        self.pfn_mask = ((<uint64_t>1) << self.pte.pfn_bits) - 1
        self.join(Pages(self.pte.pfn_bits, 1 if self.bits <= 8 else
                        2 if self.bits <= 16 else 4 if self.bits <= 32 else 8))

    cdef void join(self, Pages pages) noexcept:
        self.pages = pages
        self.family = &pages.lock

    def __dealloc__(self):
        if self.pages is None or self.frames is None:
            return
        if pthread_mutex_trylock(&self.pages.lock):
            # Whoever has it may need the GIL.
            with nogil:
                pthread_mutex_lock(&self.pages.lock)
        with nogil:
            self.let_go()
        pthread_mutex_unlock(&self.pages.lock)

    cdef void let_go(self) noexcept nogil:
        """Unmap all that the page table, which is gone, still maps."""
        cdef uint32_t frame
        if self.pages.sections.table.words:
            for frame in range(self.frames.top):
                if self.frames.desc[frame].kind == PTE:
                    self.zap(&self.frames.desc[frame], 0, self.entries)
        self.pages.sweep()

    cdef uint64_t pfn_of(self, uint64_t pte) noexcept nogil:
        return pte >> self.pte.pfn_shift & self.pfn_mask

    cdef int admit(
            self, const uint64_t* pfns, uint64_t first, Py_ssize_t n) noexcept nogil:
        cdef uint64_t pfn
        cdef uint64_t number = ~<uint64_t>0
        cdef Py_ssize_t i
        for i in range(n):
            pfn = pfns[i] if pfns else first + <uint64_t>i & self.pfn_mask
            if pfn >> SECTION_BITS != number:
                number = pfn >> SECTION_BITS
                if self.pages.admit(pfn):
                    return -1
        return 0

    cdef uint64_t fresh_pfns(self, uint64_t next_, uint64_t n) noexcept nogil:
        cdef uint64_t first = max(next_, self.pages.next_pfn)
        self.pages.next_pfn = first + n
        return first

    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil:
        if to & self.pte.present:
            self.pages.map(self.pfn_of(to))
        if pte & self.pte.present:
            self.pages.unmap(self.pfn_of(pte))
        return to

    cdef void end(self) noexcept nogil:
        self.pages.sweep()

    cdef int begin_fork(self, Encoding parent, bint shared) except -1:
        if shared:
            self.join((<PageExt>parent).pages)
        return 0

    def unfit(self, vpn, word, swapped):
        if not swapped or not word:
            return None
        return f"no place for bits {word:#x} of word {word:#x} in a swap entry"

    cdef Py_ssize_t first_unfit(
            self, const Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t word, pte
        cdef Py_ssize_t i
        cdef Run one
        one.n = 1
        one.vpns = NULL
        for i in range(r.n):
            one.first = entry_at(r, i, self.entries - 1)
            pte = entry[one.first]
            if w is NULL:
                self.load(t, &one, &word)
            else:
                word = w.add[i * w.step] if pte & self.pte.present == 0 else 0
            if word and pte != self.pte.none:
                return i
        return -1

    cdef int fork(
            self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, child)
        cdef uint64_t[64] words
        cdef uint64_t number = ~<uint64_t>0
        cdef uint64_t pfn
        cdef Py_ssize_t i
        cdef Section* s = NULL
        cdef Run r
        if self.family is parent.family:
            for i in range(self.entries):
                if entry[i] & self.pte.present == 0:
                    continue
                pfn = self.pfn_of(entry[i])
                if pfn >> SECTION_BITS != number:
                    number = pfn >> SECTION_BITS
                    s = self.pages.section(pfn)
                self.pages.map_in(s, pfn)
            return 0
        r.vpns = NULL
        for i in range(self.entries):
            if i & 63 == 0:
                r.first = i
                r.n = min(64, self.entries - i)
                parent.load(t, &r, words)
            if entry[i] & self.pte.present == 0:
                continue
            pfn = self.pfn_of(entry[i])
            if self.pages.admit(pfn):
                return -1
            self.pages.map(pfn)
            if words[i & 63]:
                s = self.pages.section(pfn)
                if self.pages.make_words(s):
                    return -1
                self.pages.set_word(s, pfn, words[i & 63])
        return 0

    cdef Ptdesc* prepare(
            self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef uint64_t number = ~<uint64_t>0
        cdef uint64_t pte, pfn
        cdef Py_ssize_t i
        if adds_nothing(w, 1):
            return t
        for i in range(r.n):
            pte = entry[entry_at(r, i, last_entry)]
            # Not present: what is moved here comes with its page's word.
            if pte & self.pte.present == 0 or w.add[i * w.step] == 0:
                continue
            pfn = self.pfn_of(pte)
            if pfn >> SECTION_BITS != number:
                number = pfn >> SECTION_BITS
                if self.pages.make_words(self.pages.section(pfn)):
                    return NULL
        return t

    cdef void load(
            self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef int width = self.pages.width
        cdef uint64_t number = ~<uint64_t>0
        cdef const Section* s = NULL
        cdef uint64_t pte, pfn
        cdef Py_ssize_t i
        if self.pages.nr_words == 0:
            memset(words, 0, r.n * sizeof(uint64_t))
            return
        for i in range(r.n):
            pte = entry[entry_at(r, i, last_entry)]
            words[i] = 0
            if pte & self.pte.present:
                pfn = self.pfn_of(pte)
                if pfn >> SECTION_BITS != number:
                    number = pfn >> SECTION_BITS
                    s = self.pages.section(pfn)
                if s.words is not NULL:
                    words[i] = get(s, width, pfn)

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        cdef int width = self.pages.width
        cdef uint64_t number = ~<uint64_t>0
        cdef const uint8_t* array = NULL
        cdef uint64_t pfn, section
        cdef Py_ssize_t i
        if once(&self.pages.nr_words) == 0:
            memset(words, 0, r.n * sizeof(uint64_t))
            return True
        for i in range(r.n):
            words[i] = 0
            if ptes[i] & self.pte.present == 0:
                continue
            pfn = self.pfn_of(ptes[i])
            if pfn >> SECTION_BITS != number:
                number = pfn >> SECTION_BITS
                if not self.pages.sections.see_all(NULL, number, 1, &section):
                    return False
                array = NULL
                if section:
                    array = <const uint8_t*><uintptr_t>acquire(
                        <const uint64_t*>&(<const Section*><uintptr_t>section).words)
            if array is not NULL:
                words[i] = get_in(array, width, pfn)
        return True

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef int width = self.pages.width
        cdef uint64_t keep = w.keep[0]
        cdef uint64_t number = ~<uint64_t>0
        cdef Section* s = NULL
        cdef uint64_t pte, pfn, old, word
        cdef Py_ssize_t i
        if self.pages.nr_words == 0 and adds_nothing(w, 1):
            return
        for i in range(r.n):
            pte = entry[entry_at(r, i, last_entry)]
            if pte & self.pte.present == 0:
                continue
            pfn = self.pfn_of(pte)
            if pfn >> SECTION_BITS != number:
                number = pfn >> SECTION_BITS
                s = self.pages.section(pfn)
            if s.words is NULL:
                continue
            old = get(s, width, pfn)
            word = old & keep | w.add[i * w.step]
            if word != old:
                self.pages.set_word(s, pfn, word)

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value,
            uint64_t* vpns) noexcept nogil:
        if value[0] and self.pages.nr_words == 0:
            return 0
        return Encoding.scan(self, t, first, last, mask, value, vpns)

    cdef void zap(
            self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t number = ~<uint64_t>0
        cdef uint64_t pfn
        cdef Py_ssize_t i
        # It stays until end(), though it may have no page any more.
        cdef Section* s = NULL
        for i in range(first, last):
            if entry[i] & self.pte.present == 0:
                continue
            pfn = self.pfn_of(entry[i])
            if pfn >> SECTION_BITS != number:
                number = pfn >> SECTION_BITS
                s = self.pages.section(pfn)
            self.pages.unmap_in(s, pfn)

    cdef size_t side_bytes(self) noexcept nogil:
        return self.pages.arrays * SECTION_PAGES * <size_t>self.pages.width

    cdef size_t index_bytes(self) noexcept nogil:
        return self.pages.arrays * MEM_SECTION_BYTES

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef const Section* s = NULL
        cdef uint64_t number = ~<uint64_t>0
        cdef uint64_t words, mapped, pfn
        cdef Py_ssize_t i, k
        if self.pages.idle is not NULL:
            return b"an operation isn't over"
        for i in range(self.entries):
            if entry[i] & self.pte.present == 0:
                continue
            pfn = self.pfn_of(entry[i])
            if pfn >> SECTION_BITS != number:
                number = pfn >> SECTION_BITS
                s = self.pages.section(pfn)
                if s is NULL or s.number != number:
                    return b"a page of no section"
                words = mapped = 0
                for k in range(SECTION_PAGES):
                    mapped += s.mapcount[k]
                    if s.words is not NULL and get(s, self.pages.width, k):
                        words += 1
                        if s.mapcount[k] == 0:
                            return b"a word of a page that isn't mapped"
                if words != s.nr_words or mapped != s.nr_mapped:
                    return b"a section's counts are stale"
                if words == 0 and s.words is not NULL:
                    return b"an array without a word"
            if s.mapcount[pfn & (SECTION_PAGES - 1)] == 0:
                return b"a page is mapped and not counted"
        return self.pages.sections.fault()
