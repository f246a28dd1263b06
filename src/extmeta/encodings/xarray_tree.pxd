"""The nodes of an XArray (include/linux/xarray.h, v6.12), and ways down the tree."""
from libc.stdint cimport uint8_t, uint64_t, uintptr_t

from extmeta.memory.sync cimport acquire, once

cdef enum:
    SLOTS = 64
    SLOT_BITS = 6
    IS_VALUE = 1          # in a slot: value << 1 | 1
    IS_NODE = 2           # a pointer to a node; a pointer to a word has neither

cdef struct Node:
    uint8_t shift         # of a slot's index in a vpn; 0: the slots are words
    uint8_t offset        # in its parent
    uint8_t count         # slots in use
    uint8_t nr_values
    Node* parent
    uint64_t[3] unused    # struct xarray *, and a list_head or rcu_head
    uint64_t[SLOTS] slots
    uint64_t[3] marks

cdef inline Node* node_in(uint64_t slot) noexcept nogil:
    """Return the node that a slot points to, or NULL."""
    return <Node*><uintptr_t>(slot - IS_NODE) if slot & 3 == IS_NODE else NULL

cdef inline uint64_t word_in(uint64_t slot) noexcept nogil:
    if slot & IS_VALUE:
        return slot >> 1
    return (<uint64_t*><uintptr_t>slot)[0] if slot else 0

cdef inline uint64_t see_word(uint64_t slot) noexcept nogil:
    """Return the word of a slot that was read once."""
    if slot & IS_VALUE:
        return slot >> 1
    return once(<const uint64_t*><uintptr_t>slot) if slot and slot & 3 == 0 else 0

cdef inline Node* find(uint64_t head, uint64_t vpn, int shift) noexcept nogil:
    """Return the node of a vpn whose slots are `shift` apart, or NULL."""
    cdef Node* node = node_in(head)
    if node is NULL or vpn >> node.shift >> SLOT_BITS:
        return NULL
    while node is not NULL and node.shift > shift:
        node = node_in(node.slots[vpn >> node.shift & (SLOTS - 1)])
    return node if node is not NULL and node.shift == shift else NULL

cdef inline uint64_t* slots_of(uint64_t* head, uint64_t vpn) noexcept nogil:
    """Return the slot of a vpn, or NULL.

    Slots up to the next multiple of 64 follow it, unless it is the head.
    """
    cdef Node* leaf = find(head[0], vpn, 0)
    if leaf is not NULL:
        return &leaf.slots[vpn & (SLOTS - 1)]
    return head if vpn == 0 and node_in(head[0]) is NULL else NULL

cdef inline const Node* see_leaf(
        const uint64_t* top, uint64_t vpn, uint64_t* head) noexcept nogil:
    """Return the leaf of a vpn, or NULL with the slot of vpn 0 in ``head``."""
    cdef uint64_t slot = acquire(top)
    cdef const Node* node = node_in(slot)
    cdef int shift
    head[0] = slot if node is NULL else 0
    if node is NULL or vpn >> node.shift >> SLOT_BITS:
        return NULL
    shift = node.shift
    while shift and node is not NULL:
        node = node_in(acquire(&node.slots[vpn >> shift & (SLOTS - 1)]))
        shift -= SLOT_BITS
    return node

cdef inline const char* fault_below(
        uint64_t slot, const Node* parent, size_t* seen) noexcept nogil:
    """Return what is wrong, or NULL; count leaves, uppers, words apart and words."""
    cdef const Node* node = node_in(slot)
    cdef const char* reason
    cdef int count = 0
    cdef int i
    if node is NULL:
        if parent is not NULL and parent.shift:
            return b"a word in an upper node"
        if slot == 0:
            return NULL
        if word_in(slot) == 0:
            return b"a word of 0 is held"
        seen[2] += slot & IS_VALUE == 0
        seen[3] += 1
        return NULL
    if node.parent is not parent:
        return b"a node has another parent"
    if parent is not NULL and (node.shift + SLOT_BITS != parent.shift or (
            parent.slots[node.offset] != slot)):
        return b"a node is elsewhere in its parent"
    if node.count == 1 and node.slots[0] and parent is NULL:
        return b"the tree is too tall"
    seen[node.shift != 0] += 1
    for i in range(SLOTS):
        if node.slots[i]:
            count += 1
            reason = fault_below(node.slots[i], node, seen)
            if reason is not NULL:
                return reason
    if count != node.count or count == 0:
        return b"count of slots in use is stale"
    return NULL
