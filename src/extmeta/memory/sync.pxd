"""Atomic loads and stores, and a table's lock: what `docs/concurrency.md` is about.

A lock is a 32-bit count of changes, odd during a change. A writer that changes it from
even to odd holds the lock. A reader compares the count before and after: if it is equal
and even, the values read are of one moment. A kernel has two words, a spinlock and a
seqcount; they are one here, so that the descriptor has room.
"""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef EXTMETA_SYNC
    #define EXTMETA_SYNC
    #include <sched.h>
    #include <stdint.h>
    #define EXTMETA_INLINE static inline __attribute__((unused))

    #if defined(__x86_64__) || defined(__i386__)
    #define extmeta_pause() __builtin_ia32_pause()
    #else
    #define extmeta_pause() __asm__ volatile("" ::: "memory")
    #endif

    #ifdef __SANITIZE_THREAD__
    /* Reads between them race by design: a count of changes checks them, as KCSAN
       treats the kernel's seqcount readers. */
    void AnnotateIgnoreReadsBegin(const char *file, int line);
    void AnnotateIgnoreReadsEnd(const char *file, int line);
    #define extmeta_begin_racy() AnnotateIgnoreReadsBegin(__FILE__, __LINE__)
    #define extmeta_end_racy() AnnotateIgnoreReadsEnd(__FILE__, __LINE__)
    /* ThreadSanitizer knows no fences: an atomic operation is the full one. */
    static uint32_t extmeta_everyone __attribute__((unused));
    #define extmeta_full_fence() \
        ((void)__atomic_fetch_add(&extmeta_everyone, 0, __ATOMIC_SEQ_CST))
    #define extmeta_load_fence() __asm__ volatile("" ::: "memory")
    #define extmeta_store_fence() __asm__ volatile("" ::: "memory")
    #else
    #define extmeta_begin_racy() ((void)0)
    #define extmeta_end_racy() ((void)0)
    #define extmeta_full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define extmeta_load_fence() __atomic_thread_fence(__ATOMIC_ACQUIRE)
    #define extmeta_store_fence() __atomic_thread_fence(__ATOMIC_RELEASE)
    #endif

    /* gcc takes a function that only prefetches for one that does nothing. */
    #define extmeta_prefetch(p) \
        __extension__ ({ __builtin_prefetch(p); __asm__ volatile(""); })
    #define extmeta_once(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define extmeta_add(p, by) ((void)__atomic_fetch_add((p), (by), __ATOMIC_RELAXED))
    #define extmeta_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define extmeta_publish(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

    /* Yield now and then: the lock's holder may have no CPU. */
    EXTMETA_INLINE void extmeta_relax(int turn)
    {
        if (turn & 63)
            extmeta_pause();
        else
            sched_yield();
    }

    #ifdef EXTMETA_UNLOCKED
    /* For benchmarks/locking.py: what locks cost one thread. */
    #define extmeta_lock(seq) ((void)(seq))
    #define extmeta_unlock(seq) ((void)(seq))
    #define extmeta_begin_change(seq) ((void)(seq))
    #else
    EXTMETA_INLINE void extmeta_lock(uint32_t *seq)
    {
        uint32_t even = extmeta_once(seq);
        for (int turn = 1; (even & 1) || !__atomic_compare_exchange_n(
                 seq, &even, even + 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
             turn++) {
            extmeta_relax(turn);
            even = extmeta_once(seq);
        }
        /* The odd count is seen before anything that changes under it. */
        extmeta_store_fence();
    }

    EXTMETA_INLINE void extmeta_unlock(uint32_t *seq)
    {
        __atomic_store_n(seq, extmeta_once(seq) + 1, __ATOMIC_RELEASE);
    }

    /* As extmeta_lock(), for a count whose writers hold another lock. */
    EXTMETA_INLINE void extmeta_begin_change(uint32_t *seq)
    {
        __atomic_store_n(seq, extmeta_once(seq) + 1, __ATOMIC_RELAXED);
        extmeta_store_fence();
    }
    #endif

    EXTMETA_INLINE int extmeta_try(uint32_t *taken)
    {
        uint32_t no = 0;
        return __atomic_compare_exchange_n(
            taken, &no, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
    }
    #define extmeta_give_back(taken) __atomic_store_n((taken), 0, __ATOMIC_RELEASE)

    /* Count down, unless it is 0; below 0 there is no limit. */
    EXTMETA_INLINE int extmeta_one_of(int64_t *left)
    {
        int64_t n = extmeta_once(left);
        while (n > 0 && !__atomic_compare_exchange_n(
                 left, &n, n - 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            ;
        return n != 0;
    }

    EXTMETA_INLINE int extmeta_same(const uint32_t *seq, uint32_t before)
    {
        extmeta_load_fence();
        return extmeta_once(seq) == before;
    }

    /* Readers must not see half an entry: memset() may store less than 8 bytes. */
    __attribute__((unused, noinline, optimize("no-tree-loop-distribute-patterns")))
    static void extmeta_fill_each(uint64_t *to, ptrdiff_t n, uint64_t value)
    {
    #pragma GCC unroll 4
        for (ptrdiff_t i = 0; i < n; i++)
            to[i] = value;
    }
    #endif
    """
    # Ask for a cache line that is read soon.
    void prefetch "extmeta_prefetch"(const void* p) noexcept nogil
    # READ_ONCE(), smp_load_acquire(), smp_store_release(), and a release fence.
    uint64_t once "extmeta_once"(const uint64_t* p) noexcept nogil
    uint64_t acquire "extmeta_acquire"(const uint64_t* p) noexcept nogil
    void publish "extmeta_publish"(uint64_t* p, uint64_t v) noexcept nogil
    # A count that threads change side by side.
    uint16_t count_once "extmeta_once"(const uint16_t* p) noexcept nogil
    void add_once "extmeta_add"(uint16_t* p, int by) noexcept nogil
    void release_fence "extmeta_store_fence"() noexcept nogil
    void relax "extmeta_relax"(int turn) noexcept nogil
    void fill_each "extmeta_fill_each"(
        uint64_t* to, Py_ssize_t n, uint64_t value) noexcept nogil

    void lock_count "extmeta_lock"(uint32_t* seq) noexcept nogil
    void unlock_count "extmeta_unlock"(uint32_t* seq) noexcept nogil
    void begin_change "extmeta_begin_change"(uint32_t* seq) noexcept nogil
    void end_change "extmeta_unlock"(uint32_t* seq) noexcept nogil
    # A trylock; False if it is taken.
    bint try_take "extmeta_try"(uint32_t* taken) noexcept nogil
    void give_back "extmeta_give_back"(uint32_t* taken) noexcept nogil
    # Count down for all threads; False if it is 0. Below 0 there is no limit.
    bint one_of "extmeta_one_of"(int64_t* left) noexcept nogil
    # As raw_read_seqcount(), whose count is odd during a change, and as
    # !read_seqcount_retry().
    uint32_t count_of_changes "extmeta_acquire"(const uint32_t* seq) noexcept nogil
    bint unchanged_since "extmeta_same"(
        const uint32_t* seq, uint32_t before) noexcept nogil

    # Around reads that race by design, for ThreadSanitizer.
    void begin_racy "extmeta_begin_racy"() noexcept nogil
    void end_racy "extmeta_end_racy"() noexcept nogil
