"""Table memory: frames of one reserved mapping, and a descriptor for each."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

from extmeta.memory.allowance cimport IS_DEBUG, note_locked
from extmeta.memory.epoch cimport Limbo
from extmeta.memory.sync cimport lock_count, unlock_count

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass

cdef enum:
    # Largest block handed out: 2**9 frames, 2 MiB if a frame is 4 KiB.
    MAX_ORDER = 9
    NO_FRAME = 0xffffffff

cdef enum Kind:
    FREE, UPPER, PTE, SIDE, NR_KINDS

cdef struct Ptdesc:
    # As the kernel's struct ptdesc: found from the frame's number. `link`, `flagged`
    # and `vpn` fit words of struct ptdesc that x86 leaves unused below the root
    # (__page_mapping, pt_index), so they are not counted as RAM. If several tables
    # share a page, and its struct ptdesc, they don't fit: see `Places`.
    uint64_t* parent      # the upper entry that points here
    # The encoding's word. A PMD table has its first deposited PTE table here, and a
    # deposited table has the next one.
    uintptr_t link
    uint64_t vpn          # of entry 0
    uint32_t seq          # lock and count of changes of a PTE table: see sync.pxd
    # Entries whose flag is set; in a PMD table: PTE tables below that have words; in a
    # slab: objects ever used.
    uint16_t flagged
    uint16_t used         # entries that are not none; in a slab: objects in use
    uint32_t next         # neighbours in a list of blocks. The encoding may use these
    uint32_t prev         # and `spare` during an operation on a PTE table.
    uint8_t kind
    uint8_t level         # 0: a PTE table; in a slab: size class
    uint8_t order         # frames in the block: 2**order
    uint8_t dirty         # was used before, so may not be zero
    uint8_t pool          # FREE, or the kind whose tables share this page
    uint8_t reached       # counted among its page's `users`
    uint16_t hint         # the encoding's: where to look first; any value is right
    # In a page's first frame: places of its tables, see `Places`, and how many tables
    # need one. In a slab: see Slabs.count_of.
    uintptr_t index
    uint32_t users
    uint32_t spare        # to 64 bytes, as struct page, so that a shift finds it

cdef class Frames:
    cdef readonly size_t page_bytes
    cdef readonly size_t frame_bytes
    cdef char* base
    cdef Ptdesc* desc
    cdef uint32_t reserved        # frames of address space
    cdef uint32_t committed       # frames that may be touched
    cdef uint32_t top             # frames from here on were never handed out
    cdef size_t[NR_KINDS] pages   # frames in use, by kind
    cdef size_t[NR_KINDS] idle    # free fragments of pages that have used ones
    # By pool: a block smaller than a page comes from a page of its kind.
    cdef uint32_t[NR_KINDS][MAX_ORDER + 1] free_list
    cdef int frame_shift
    cdef int page_order           # frames of a page: 2**page_order
    cdef bint huge
    cdef bint locked              # threads may allocate and free side by side
    cdef pthread_mutex_t lock
    cdef Limbo limbo              # descriptors of blocks that readers may still see
    # Blocks set aside, all of one order and kind: a list by `next`.
    cdef uint32_t aside
    cdef size_t nr_aside

    # Return the first frame's descriptor, or NULL if no memory can be had. The block is
    # aligned to its size. A block of kind PTE is a PTE table and, at order 1, its side
    # page; `zero` clears the table only.
    cdef Ptdesc* alloc(self, int order, Kind kind, bint zero) noexcept nogil
    # Free a block when no lockless reader can see it any more; or at once.
    cdef void free(self, Ptdesc* d) noexcept nogil
    cdef void free_now(self, Ptdesc* d) noexcept nogil
    # Free the blocks that no reader can see any more.
    cdef void reap(self) noexcept nogil
    # Set n blocks aside, for when no memory can be had. False if it can't be had now;
    # then as many are set aside as before. Order and kind are always the same.
    cdef bint set_aside(self, size_t n, int order, Kind kind) noexcept nogil
    cdef Ptdesc* from_aside(self, int order, Kind kind, bint zero) noexcept nogil
    cdef Ptdesc* take(self, int order, Kind kind, bint zero) noexcept nogil
    # Free the upper half of an order-1 block as `free` does; the lower half stays.
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
    # Bytes of the pages held for a kind of table; for SIDE, of its frames.
    cdef size_t held(self, Kind kind) noexcept nogil
    cdef const char* fault(self) noexcept nogil

cdef inline uint32_t frame_of(Frames f, const void* p) noexcept nogil:
    """Return the number of the frame that ``p`` points into."""
    return <uint32_t>((<char*>p - f.base) >> f.frame_shift)

cdef inline size_t page_offset(Frames f, const Ptdesc* d) noexcept nogil:
    """Return the frame's offset in the mapping, the model's physical address."""
    return <size_t>(d - f.desc) << f.frame_shift

cdef inline uint64_t* entries(Frames f, const Ptdesc* d) noexcept nogil:
    """Return the frame, by arithmetic: the descriptor's cache line is not read."""
    return <uint64_t*>(f.base + page_offset(f, d))


cdef enum:
    # Bits of an upper entry; the model uses x86's for every architecture. A frame
    # is at least 256 bytes, so they are below its address.
    TABLE_BITS = 0x67     # present, writable, user, accessed, dirty
    LEAF = 0x80           # _PAGE_PSE: maps a huge page, has no table below
    DEPOSITED = 0x08      # the model's own: a PTE table is deposited for a split
    ENTRY_BITS = 0xff


# A doubly linked list of blocks, by frame number; `head` is NO_FRAME if it is empty.
cdef inline void list_add(Ptdesc* desc, uint32_t* head, Ptdesc* d) noexcept nogil:
    d.prev = NO_FRAME
    d.next = head[0]
    head[0] = <uint32_t>(d - desc)
    if d.next != NO_FRAME:
        desc[d.next].prev = head[0]


cdef inline void list_del(Ptdesc* desc, uint32_t* head, Ptdesc* d) noexcept nogil:
    if d.next != NO_FRAME:
        desc[d.next].prev = d.prev
    if d.prev != NO_FRAME:
        desc[d.prev].next = d.next
    else:
        head[0] = d.next


cdef inline uint64_t upper_entry(Frames f, const Ptdesc* d) noexcept nogil:
    """Return the upper entry that points to the table ``d``."""
    return page_offset(f, d) | TABLE_BITS


# Around changes to the entries and words of a PTE table. Between them nothing may be
# allocated.
cdef inline void lock_table(Ptdesc* t) noexcept nogil:
    lock_count(&t.seq)
    if IS_DEBUG:
        note_locked(1)


cdef inline void unlock_table(Ptdesc* t) noexcept nogil:
    if IS_DEBUG:
        note_locked(-1)
    unlock_count(&t.seq)
