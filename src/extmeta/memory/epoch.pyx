"""Lockless readers, and memory that is freed when they are gone.

As the kernel frees page tables only once no lockless walker can see them
(mmu_gather's RCU table freeing, mm/mmu_gather.c, v6.12). A reader has a slot, a cache
line, with the epoch at which it came. A writer that unlinks memory frees it at once if
no slot is taken. Else it puts the memory off, with the epoch, until all readers that
came up to then are gone. That allocates nothing: the memory waits in rings of a fixed
size (`Limbo`), and a full ring makes the writer wait.

The process has one set of slots: page tables share side memory with their forks.
"""
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdlib cimport free


cdef extern from *:
    """
    #include <pthread.h>
    #include <sched.h>
    #define EXTMETA_SLOTS 64

    /* 0: free; else the epoch at which its reader came. */
    static struct { _Alignas(64) uint64_t since; } extmeta_slots[EXTMETA_SLOTS];
    /* Slots from here on were never used. */
    static _Alignas(64) uint32_t extmeta_used;
    static _Alignas(64) uint64_t extmeta_now = 1;
    static __thread int extmeta_last;
    static pthread_mutex_t extmeta_blocks = PTHREAD_MUTEX_INITIALIZER;
    #define lock_blocks() pthread_mutex_lock(&extmeta_blocks)
    #define unlock_blocks() pthread_mutex_unlock(&extmeta_blocks)

    static inline int extmeta_enter(void)
    {
        int i = extmeta_last;
        for (int turn = 1;; turn++) {
            uint64_t none = 0;
            uint64_t now = __atomic_load_n(&extmeta_now, __ATOMIC_ACQUIRE);
            uint32_t used = __atomic_load_n(&extmeta_used, __ATOMIC_ACQUIRE);
            while (used <= (uint32_t)i && !__atomic_compare_exchange_n(
                       &extmeta_used, &used, (uint32_t)i + 1, 0, __ATOMIC_SEQ_CST,
                       __ATOMIC_ACQUIRE))
                ;
            if (__atomic_compare_exchange_n(
                    &extmeta_slots[i].since, &none, now, 0, __ATOMIC_SEQ_CST,
                    __ATOMIC_RELAXED))
                break;
            i = (i + 1) % EXTMETA_SLOTS;
            if (turn % EXTMETA_SLOTS == 0)
                sched_yield();
        }
        extmeta_last = i;
    #if !defined(__x86_64__)
        /* On x86 the exchange is a full fence itself. */
        extmeta_full_fence();
    #endif
        return i;
    }

    static inline void extmeta_leave(int i)
    {
        __atomic_store_n(&extmeta_slots[i].since, 0, __ATOMIC_RELEASE);
    }

    static inline int extmeta_any_since(uint64_t most)
    {
        const uint32_t used = __atomic_load_n(&extmeta_used, __ATOMIC_ACQUIRE);
        for (uint32_t i = 0; i < used; i++) {
            const uint64_t since =
                __atomic_load_n(&extmeta_slots[i].since, __ATOMIC_ACQUIRE);
            if (since && since <= most)
                return 1;
        }
        return 0;
    }

    #define extmeta_next() \
        __atomic_fetch_add(&extmeta_now, 1, __ATOMIC_SEQ_CST)
    """
    const int SLOTS "EXTMETA_SLOTS"
    int extmeta_enter() noexcept nogil
    void extmeta_leave(int slot) noexcept nogil
    bint extmeta_any_since(uint64_t most) noexcept nogil
    uint64_t extmeta_next() noexcept nogil
    void extmeta_full_fence() noexcept nogil
    void lock_blocks() noexcept nogil
    void unlock_blocks() noexcept nogil

# malloc's blocks that readers may still see; under `lock_blocks`.
cdef Limbo blocks
blocks.first = blocks.count = 0


cdef int enter_epoch() noexcept nogil:
    return extmeta_enter()


cdef void leave_epoch(int slot) noexcept nogil:
    extmeta_leave(slot)


cdef bint any_reader() noexcept nogil:
    # Either the reader's slot is seen here, or the reader sees what was unlinked.
    extmeta_full_fence()
    return extmeta_any_since(UINT64_MAX)


cdef void forget_readers() noexcept nogil:
    cdef int slot
    for slot in range(SLOTS):
        extmeta_leave(slot)


cdef uint64_t unlinked_now() noexcept nogil:
    return extmeta_next()


cdef bint readers_gone(uint64_t since) noexcept nogil:
    return not extmeta_any_since(since)


cdef void free_unseen(void* p) noexcept nogil:
    cdef void* old
    if p is NULL:
        return
    lock_blocks()
    while (old := next_unseen(&blocks)) is not NULL:
        free(old)
    if any_reader():
        free(room_for_one(&blocks))
        put_off(&blocks, p)
    else:
        free(p)
    unlock_blocks()
