"""Words in arrays by pfn: what the kernel has for more bits per page (mm/page_ext.c).

The word belongs to the page, not to the PTE, so it means something else than in the
other encodings. PTEs of the same pfn share a word. A child of fork shares it with its
parent until one of them copies the page, which the model never does (`PageTable.copy`
copies every page). A page that is swapped out has no word: a PTE with a word can't be
swapped out, and a swap entry can't get a word. The word goes with the last PTE that
maps the page.

An array has the words of a section, 2**15 pages, in 1, 2, 4 or 8 bytes each: 32 to 256
KiB. It is allocated with the first word there and freed with the last. The kernel
allocates the arrays of all memory at boot and spends 8 bytes on flags alone (struct
page_ext, include/linux/page_ext.h, v6.12), so a real array costs at least this much.
`index` has 16 bytes for each array: what CONFIG_PAGE_EXTENSION adds to a section's
struct mem_section (include/linux/mmzone.h, v6.12). A kernel counts the PTEs that map a
page in its struct page. Here the counts are in an array that is not counted as RAM.

Page tables that are forks of each other share the arrays and a lock, and the
`memory()` of each includes all arrays. No PTE bit is spent.
"""
from cython cimport final, no_gc_clear
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc
from libc.string cimport memset

from extmeta.table.encoding cimport COUNTED, WHEN_ADDING, Encoding, Write
from extmeta.encodings.packed cimport get, put, width_for
from extmeta.encodings.side cimport adds_nothing
from extmeta.memory.epoch cimport free_unseen
from extmeta.memory.allowance cimport may_allocate
from extmeta.memory.frames cimport PTE, Ptdesc, entries, pthread_mutex_t
from extmeta.memory.sync cimport acquire, once, prefetch, publish
from extmeta.table.pte cimport ALL
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
    void* words           # NULL: no page has a word
    uint32_t nr_words
    uint64_t nr_mapped    # the sum of `mapcount`
    Section* next_idle
    bint idle             # is listed for sweep()
    uint32_t[SECTION_PAGES] mapcount


cdef struct Cursor:
    # The section that the last pfn was in; ALL and NULL before the first.
    uint64_t number
    Section* section


cdef inline uint64_t word_in(
        const void* words, int width, uint64_t pfn) noexcept nogil:
    cdef Py_ssize_t i = <Py_ssize_t>(pfn & (SECTION_PAGES - 1))
    # The usual width first.
    return (<const uint8_t*>words)[i] if width == 3 else get(words, width, i)


# The collector must not clear `sections` before the pages are unmapped.
@no_gc_clear
@final
cdef class Pages:
    """The pages that a family of page tables maps, and their words."""

    cdef pthread_mutex_t lock
    cdef VpnHash sections             # number -> Section*
    cdef Section* idle
    cdef int width                    # log2 of the bits of a word, 3 to 6
    cdef size_t arrays
    cdef uint64_t nr_words
    cdef uint64_t next_pfn

    def __cinit__(self, int pfn_bits, int width):
        cdef pthread_mutexattr_t kind
        # The collector may free one page table inside a call on another that shares
        # the lock.
        pthread_mutexattr_init(&kind)
        pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE)
        pthread_mutex_init(&self.lock, &kind)
        pthread_mutexattr_destroy(&kind)
        self.sections = VpnHash(max(pfn_bits - SECTION_BITS, 2), 64)
        self.width = width

    def __dealloc__(self):
        # The page tables are gone and have unmapped all pages.
        pthread_mutex_destroy(&self.lock)

    cdef Section* section(self, uint64_t pfn) noexcept nogil:
        if self.sections.table.words == 0:
            return NULL
        return <Section*><uintptr_t>find(
            &self.sections.table, key_of(&self.sections.table, pfn >> SECTION_BITS))

    cdef inline Section* seek(self, Cursor* c, uint64_t pfn) noexcept nogil:
        """Return the section of a pfn; look it up unless it is that of the last."""
        if pfn >> SECTION_BITS != c.number:
            c.number = pfn >> SECTION_BITS
            c.section = self.section(pfn)
        return c.section

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
        # sweep() frees it if no page was mapped.
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
            words = calloc(SECTION_PAGES, <size_t>1 << (self.width - 3))
        if words is NULL:
            return -1
        publish(<uint64_t*>&s.words, <uintptr_t>words)
        self.arrays += 1
        self.list_idle(s)
        return 0

    cdef void set_word(self, Section* s, uint64_t pfn, uint64_t word) noexcept nogil:
        """Set a word in a section that has an array."""
        cdef Py_ssize_t i = pfn & (SECTION_PAGES - 1)
        cdef bint had = word_in(s.words, self.width, pfn) != 0
        if self.width == 3:
            (<uint8_t*>s.words)[i] = <uint8_t>word
        else:
            put(s.words, self.width, i, word)
        s.nr_words += <uint32_t>((word != 0) - had)
        self.nr_words += <uint64_t>((word != 0) - had)
        if s.nr_words == 0:
            self.list_idle(s)

    cdef inline void map(self, Section* s, uint64_t pfn) noexcept nogil:
        """Count one more PTE of a pfn in an admitted section."""
        s.mapcount[pfn & (SECTION_PAGES - 1)] += 1
        s.nr_mapped += 1

    cdef inline void unmap(self, Section* s, uint64_t pfn) noexcept nogil:
        """Count one PTE less; the word goes with the last."""
        cdef Py_ssize_t i = pfn & (SECTION_PAGES - 1)
        # A copy that ran out of memory did not map all of its pages.
        if s is NULL or s.mapcount[i] == 0:
            return
        s.mapcount[i] -= 1
        s.nr_mapped -= 1
        if s.mapcount[i] == 0 and s.nr_words and word_in(s.words, self.width, pfn):
            self.set_word(s, pfn, 0)
        if s.nr_mapped == 0:
            self.list_idle(s)

    cdef void sweep(self) noexcept nogil:
        """Free arrays without a word and sections without a page."""
        cdef Section* s
        cdef void* words
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


# The collector must not clear `frames` and `pages` before __dealloc__ uses them.
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
        # The kernel has all arrays from boot on. Here an operation may need an array
        # for each page.
        self.asks = WHEN_ADDING
        self.pfn_mask = ((<uint64_t>1) << self.pte.pfn_bits) - 1
        self.join(Pages(self.pte.pfn_bits, max(width_for(ALL >> (64 - self.bits)), 3)))

    cdef void join(self, Pages pages) noexcept:
        self.pages = pages
        self.family = &pages.lock

    def __dealloc__(self):
        if self.pages is None or self.frames is None:
            return
        if pthread_mutex_trylock(&self.pages.lock):
            # The thread that has the lock may need the GIL.
            with nogil:
                pthread_mutex_lock(&self.pages.lock)
        with nogil:
            self.unmap_all()
        pthread_mutex_unlock(&self.pages.lock)

    cdef void unmap_all(self) noexcept nogil:
        """Unmap the pages that the page table still maps when it dies."""
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
        cdef uint64_t number = ALL
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
        cdef uint64_t new = self.pfn_of(to)
        cdef uint64_t old = self.pfn_of(pte)
        if to & self.pte.present:
            self.pages.map(self.pages.section(new), new)
        if pte & self.pte.present:
            self.pages.unmap(self.pages.section(old), old)
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
        cdef Run one = Run(0, 1, NULL)
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

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, child)
        cdef Cursor at = Cursor(ALL, NULL)
        cdef uint64_t[64] words
        cdef uint64_t pfn
        cdef Py_ssize_t i
        cdef Section* s
        cdef Run r = Run(0, 0, NULL)
        if self.family is parent.family:
            for i in range(self.entries):
                if entry[i] & self.pte.present:
                    pfn = self.pfn_of(entry[i])
                    self.pages.map(self.pages.seek(&at, pfn), pfn)
            return 0
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
            s = self.pages.section(pfn)
            self.pages.map(s, pfn)
            if words[i & 63]:
                if self.pages.make_words(s):
                    return -1
                self.pages.set_word(s, pfn, words[i & 63])
        return 0

    cdef Ptdesc* prepare(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef Cursor at = Cursor(ALL, NULL)
        cdef Section* s
        cdef uint64_t pte
        cdef Py_ssize_t i
        if adds_nothing(w, 1):
            return t
        for i in range(r.n):
            pte = entry[entry_at(r, i, last_entry)]
            # A PTE that moves here, which is not present yet, has its page's word.
            if pte & self.pte.present == 0 or w.add[i * w.step] == 0:
                continue
            s = self.pages.seek(&at, self.pfn_of(pte))
            if s.words is NULL and self.pages.make_words(s):
                return NULL
        return t

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef int width = self.pages.width
        cdef Cursor at = Cursor(ALL, NULL)
        cdef const Section* s
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
                s = self.pages.seek(&at, pfn)
                if s.words is not NULL:
                    words[i] = word_in(s.words, width, pfn)

    cdef void fetch(
            self, Ptdesc** tables, const uint64_t* vpns, Py_ssize_t n) noexcept nogil:
        cdef uint64_t pte, pfn, section
        cdef const char* array
        cdef Py_ssize_t i
        for i in range(n if once(&self.pages.nr_words) else 0):
            if tables[i] is NULL:
                continue
            pte = once(entries(self.frames, tables[i]) + (
                vpns[i] & <uint64_t>(self.entries - 1)))
            pfn = self.pfn_of(pte)
            if pte & self.pte.present and self.pages.sections.see_all(
                    NULL, pfn >> SECTION_BITS, 1, &section) and section:
                array = <const char*><uintptr_t>once(
                    <const uint64_t*>&(<const Section*><uintptr_t>section).words)
                prefetch(array + ((pfn & (SECTION_PAGES - 1)) << self.pages.width >> 3))

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        cdef int width = self.pages.width
        cdef uint64_t number = ALL
        cdef const void* array = NULL
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
                    array = <const void*><uintptr_t>acquire(
                        <const uint64_t*>&(<const Section*><uintptr_t>section).words)
            if array is not NULL:
                words[i] = word_in(array, width, pfn)
        return True

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef Py_ssize_t last_entry = self.entries - 1
        cdef int width = self.pages.width
        cdef uint64_t keep = w.keep[0]
        cdef Cursor at = Cursor(ALL, NULL)
        cdef Section* s
        cdef uint64_t pte, pfn, old, word
        cdef Py_ssize_t i
        if self.pages.nr_words == 0 and adds_nothing(w, 1):
            return
        for i in range(r.n):
            pte = entry[entry_at(r, i, last_entry)]
            if pte & self.pte.present == 0:
                continue
            pfn = self.pfn_of(pte)
            s = self.pages.seek(&at, pfn)
            if s.words is NULL:
                continue
            old = word_in(s.words, width, pfn)
            word = old & keep | w.add[i * w.step]
            if word != old:
                self.pages.set_word(s, pfn, word)

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil:
        if value[0] and self.pages.nr_words == 0:
            return 0
        return Encoding.scan(self, t, first, last, mask, value, vpns)

    cdef void zap(self, Ptdesc* t, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        # A section without pages stays until end().
        cdef Cursor at = Cursor(ALL, NULL)
        cdef uint64_t pfn
        cdef Py_ssize_t i
        for i in range(first, last):
            if entry[i] & self.pte.present:
                pfn = self.pfn_of(entry[i])
                self.pages.unmap(self.pages.seek(&at, pfn), pfn)

    cdef size_t side_bytes(self) noexcept nogil:
        return self.pages.arrays * SECTION_PAGES << (self.pages.width - 3)

    cdef size_t index_bytes(self) noexcept nogil:
        return self.pages.arrays * MEM_SECTION_BYTES

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef const Section* s = NULL
        cdef uint64_t number = ALL
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
                    if s.words is not NULL and get(s.words, self.pages.width, k):
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
