"""Table memory: frames of one reserved mapping, and a descriptor for each."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

from extmeta.memory.allowance cimport IS_DEBUG, note_locked
from extmeta.memory.epoch cimport Limbo
from extmeta.memory.sync cimport lock_count, unlock_count

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass

cdef enum:
    # Largest block handed out: 2**9 frames, 2 MiB where a frame is 4 KiB.
    MAX_ORDER = 9
    NO_FRAME = 0xffffffff

cdef enum Kind:
    FREE, UPPER, PTE, SIDE, NR_KINDS

cdef struct Ptdesc:
    # As the kernel's struct ptdesc: found from the frame's number. `link`,
    # `flagged` and `vpn` fit words that struct ptdesc has and x86 leaves unused
    # below the root (__page_mapping, pt_index), so they are not counted as RAM.
    # Where several tables share a page, and its struct ptdesc, they don't fit:
    # see Encoding.reach. `link` of a PMD table starts its list of deposited PTE tables,
    # and `link` of a deposited table is the next one.
    uint64_t* parent      # the upper entry that points here
    uintptr_t link        # the word that belongs to the encoding
    uint64_t vpn          # of entry 0
    uint32_t seq          # lock and count of changes of a PTE table: see sync.pxd
    uint16_t flagged      # entries whose flag is set
    uint16_t used         # entries that are not none
    uint32_t next         # neighbours in a list of blocks; the encoding's, like
    uint32_t prev         # `spare`, while an operation is at work on a PTE table
    uint8_t kind
    uint8_t level         # 0: a PTE table
    uint8_t order         # frames in the block: 2**order
    uint8_t dirty         # has been used before, so is not known to be zero
    uint8_t pool          # FREE, or the kind whose tables share this page
    uint8_t reached       # counted among its page's `users`
    # In a page's first frame: links and counts of the tables in it, and how many
    # tables need them.
    uintptr_t index
    uint32_t users
    uint32_t spare        # to 64 bytes, as struct page: a shift finds it

cdef class Frames:
    cdef readonly size_t page_bytes
    cdef readonly size_t frame_bytes
    cdef char* base
    cdef Ptdesc* desc
    cdef uint32_t reserved        # frames of address space
    cdef uint32_t committed       # frames that may be touched
    cdef uint32_t top             # frames from here on were never handed out
    cdef size_t[NR_KINDS] pages   # frames in use, by kind
    cdef size_t[NR_KINDS] idle    # not in use, in pages that have others of a kind
    # A smaller block than a page is taken from pages of its kind, on a list of
    # its own.
    cdef uint32_t[NR_KINDS][MAX_ORDER + 1] free_list
    cdef int frame_shift
    cdef int page_order           # frames of a page: 2**page_order
    cdef bint huge
    # Operations on tables that are not neighbours allocate and free at a time.
    cdef bint locked
    cdef pthread_mutex_t lock
    cdef Limbo limbo              # descriptors of blocks that readers may still see
    # Blocks set aside, all of one order and kind, each with the next one's number.
    cdef uint32_t aside
    cdef size_t nr_aside

    # Return the first frame's descriptor, or NULL where no memory can be had.
    # The block is aligned to its size. A block of kind PTE is a PTE table and,
    # at order 1, its side page; `zero` clears the table only.
    cdef Ptdesc* alloc(self, int order, Kind kind, bint zero) noexcept nogil
    # Freed when no reader without a lock can see it any more.
    cdef void free(self, Ptdesc* d) noexcept nogil
    # Freed at once.
    cdef void free_now(self, Ptdesc* d) noexcept nogil
    # Free what no reader can see any more.
    cdef void reap(self) noexcept nogil
    # Have n blocks set aside, for when no memory can be had; False where there is
    # none for that, and then as many as before. Always of the same order and kind.
    cdef bint set_aside(self, size_t n, int order, Kind kind) noexcept nogil
    cdef Ptdesc* from_aside(self, int order, Kind kind, bint zero) noexcept nogil
    cdef Ptdesc* take(self, int order, Kind kind, bint zero) noexcept nogil
    # Give the upper half of an order-1 block back, likewise; the lower half stays.
    cdef void free_upper_half(self, Ptdesc* d) noexcept nogil
    cdef Ptdesc* halve(self, Ptdesc* d) noexcept nogil
    cdef bint grow(self) noexcept nogil
    cdef bint reserve_small(self) noexcept nogil
    cdef bint extend_to(self, uint32_t reserved) noexcept nogil
    cdef bint take_idle(self) noexcept nogil
    cdef bint leave_idle(self) noexcept nogil
    cdef void free_from(self, uint32_t first, uint32_t stop) noexcept nogil
    cdef void push(self, uint32_t frame, int order, int pool) noexcept nogil
    cdef void unlink(self, uint32_t frame) noexcept nogil
    cdef void give_back(self, uint32_t frame, int order, int pool) noexcept nogil
    cdef inline uint32_t join(
        self, uint32_t frame, int* order, int most) noexcept nogil
    cdef int pool_of(self, int order, Kind kind) noexcept nogil
    # Bytes of the pages held for a kind of table; of SIDE, of the frames.
    cdef size_t held(self, Kind kind) noexcept nogil
    cdef const char* fault(self) noexcept nogil

cdef inline uint32_t frame_of(Frames f, const void* p) noexcept nogil:
    """Return the number of the frame that ``p`` points into."""
    return <uint32_t>((<char*>p - f.base) >> f.frame_shift)

cdef inline size_t page_offset(Frames f, const Ptdesc* d) noexcept nogil:
    """Return where the frame is in the mapping: its physical address, so to speak."""
    return <size_t>(d - f.desc) << f.frame_shift


cdef inline uint64_t* entries(Frames f, const Ptdesc* d) noexcept nogil:
    """Return the frame: found by arithmetic, without reading the descriptor."""
    return <uint64_t*>(f.base + page_offset(f, d))


cdef enum:
    # Bits of an upper entry; the model uses x86's for every architecture. A frame
    # is at least 256 bytes, so they are below its address.
    TABLE_BITS = 0x67     # present, writable, user, accessed, dirty
    LEAF = 0x80           # _PAGE_PSE: maps a huge page, has no table below
    DEPOSITED = 0x08      # the model's own: a PTE table is kept for when it is split
    ENTRY_BITS = 0xff


cdef inline uint64_t upper_entry(Frames f, const Ptdesc* d) noexcept nogil:
    """Return the upper entry that points to the table ``d``."""
    return page_offset(f, d) | TABLE_BITS


# Around changes to the entries and words of a PTE table: nothing is allocated
# between them.
cdef inline void lock_table(Ptdesc* t) noexcept nogil:
    lock_count(&t.seq)
    if IS_DEBUG:
        note_locked(1)


cdef inline void unlock_table(Ptdesc* t) noexcept nogil:
    if IS_DEBUG:
        note_locked(-1)
    unlock_count(&t.seq)
