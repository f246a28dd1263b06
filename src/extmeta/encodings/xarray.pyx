"""Words in an XArray by vpn, one for each address space: what kernel code reaches for.

This is a radix tree of 64 slots a node (include/linux/xarray.h, lib/xarray.c, v6.12).
It is as tall as the largest vpn with a word needs: 6 levels for x86-64's 36 bits. A
node is made with the first word under it and freed with the last. A word of vpn 0
alone is in the head, without a node. A node has 576 bytes, as the kernel's on 64 bits:
slots, a parent, counts and three marks, not all of which are used here. A page has 7
nodes, as in SLUB; the other 64 bytes count as slack. `xarray_tree.pxd` has the nodes.

The lowest nodes, whose slots are the words, are `side`; those above are `index`. So
a single word costs 576 bytes and the nodes above it; a full table's words cost 4.6
KiB. Neighbours share a node: an operation walks down once for 64 entries.

A slot has 63 bits for a word (xa_mk_value shifts it to set a bit that tells it from
a pointer). A word with its highest bit set lies in 8 bytes of its own, which count
as `side`, and the slot points to it. No PTE bit is spent. Swapping doesn't move a word.
"""
from cython cimport final
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from extmeta.table.encoding cimport COUNTED, TOGETHER, Encoding, Write
from extmeta.encodings.side cimport adds_nothing, append_vpns, nr_flagged, vpn_in
from extmeta.encodings.xarray_tree cimport (
    IS_NODE, IS_VALUE, SLOT_BITS, SLOTS, Node, fault_below, find, node_in, see_leaf,
    see_word, slots_of, word_in)
from extmeta.memory.frames cimport Ptdesc, entries
from extmeta.table.pte cimport ALL, equal
from extmeta.memory.slabs cimport Aside, Slabs
from extmeta.memory.sync cimport once, prefetch, publish
from extmeta.table.vpns cimport Run


@final
cdef class XArray(Encoding):
    """Keep all words in a radix tree by vpn."""

    cdef uint64_t head
    cdef Slabs slabs                  # of nodes, and of words that a slot can't hold
    cdef size_t leaves
    cdef size_t uppers
    cdef size_t apart                 # words that a slot can't hold
    # Memory for more of these words in this operation. Each piece points to the next.
    cdef uint64_t* spare
    # Nodes and words set aside for when allocation fails.
    cdef Aside spare_nodes
    cdef Aside spare_words

    def configure(self):
        self.reserves = True
        self.uses_descriptor = False
        self.refuse_above(64)
        self.reading = COUNTED
        self.slabs = Slabs(own_class=sizeof(Node))

    # -- nodes --------------------------------------------------------------

    cdef Node* new_node(self, int shift, Node* parent, int offset) noexcept nogil:
        """Return a node with free slots, or NULL if there is no memory."""
        cdef Node* node = <Node*>self.slabs.alloc_or(&self.spare_nodes, sizeof(Node))
        if node is NULL:
            return NULL
        memset(node, 0, sizeof(Node))
        node.shift = <uint8_t>shift
        node.offset = <uint8_t>offset
        node.parent = parent
        if shift:
            self.uppers += 1
        else:
            self.leaves += 1
        return node

    cdef void free_node(self, Node* node) noexcept nogil:
        """Free a node that nothing points to."""
        if node.shift:
            self.uppers -= 1
        else:
            self.leaves -= 1
        self.slabs.free(node)

    cdef void reap(self) noexcept nogil:
        self.slabs.reap()

    cdef Node* make(self, uint64_t vpn) noexcept nogil:
        """Return the leaf of a vpn, or NULL; make it and the nodes above it.

        A word of vpn 0 gets a leaf too. `settle` moves it to the head.
        """
        cdef Node* node = node_in(self.head)
        cdef Node* child
        cdef int shift = 0
        cdef int offset
        if node is NULL:
            while self.head == 0 and vpn >> shift >> SLOT_BITS:
                shift += SLOT_BITS
            node = self.new_node(shift, NULL, 0)
            if node is NULL:
                return NULL
            node.slots[0] = self.head
            node.count = self.head != 0
            publish(&self.head, <uintptr_t>node | IS_NODE)
        while vpn >> node.shift >> SLOT_BITS:
            child = node
            node = self.new_node(child.shift + SLOT_BITS, NULL, 0)
            if node is NULL:
                self.prune(child)
                return NULL
            node.slots[0] = self.head
            node.count = 1
            child.parent = node
            publish(&self.head, <uintptr_t>node | IS_NODE)
        while node.shift:
            offset = <int>(vpn >> node.shift & (SLOTS - 1))
            child = node_in(node.slots[offset])
            if child is NULL:
                child = self.new_node(node.shift - SLOT_BITS, node, offset)
                if child is NULL:
                    self.prune(node)
                    return NULL
                publish(&node.slots[offset], <uintptr_t>child | IS_NODE)
                node.count += 1
            node = child
        return node

    cdef void prune(self, Node* node) noexcept nogil:
        """Free a node and those above it if they are empty; lower the tree."""
        cdef Node* parent
        while node is not NULL and node.count == 0:
            parent = node.parent
            if parent is NULL:
                publish(&self.head, 0)
            else:
                publish(&parent.slots[node.offset], 0)
                parent.count -= 1
            self.free_node(node)
            node = parent
        node = node_in(self.head)
        while node is not NULL and node.count == 1 and node.slots[0]:
            # A reader in the freed node still gets there.
            publish(&self.head, node.slots[0])
            self.free_node(node)
            node = node_in(self.head)
            if node is not NULL:
                node.parent = NULL

    # -- words --------------------------------------------------------------

    cdef bint set_word(self, uint64_t* slot, uint64_t word) noexcept nogil:
        """Set a slot's word; return whether it had none."""
        cdef uint64_t old = slot[0]
        cdef uint64_t* apart
        cdef bint was_apart = old != 0 and old & IS_VALUE == 0
        if word >> 63:
            if was_apart:
                (<uint64_t*><uintptr_t>old)[0] = word
                return False
            apart = self.spare
            self.spare = <uint64_t*><uintptr_t>apart[0]
            self.apart += 1
            apart[0] = word
            publish(slot, <uintptr_t>apart)
            return old == 0
        publish(slot, word << 1 | IS_VALUE if word else 0)
        if was_apart:
            self.slabs.free(<void*><uintptr_t>old)
            self.apart -= 1
        return old == 0

    cdef Ptdesc* prepare(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t made = ALL
        cdef uint64_t vpn, add
        cdef uint64_t* slot
        cdef uint64_t* word
        cdef Py_ssize_t i
        if adds_nothing(w, 1):
            return t
        if t.vpn == 0:
            # A node made for vpn 0 goes again if it holds no other word.
            t.next = 1
        for i in range(r.n):
            add = w.add[i * w.step]
            if add == 0:
                continue
            vpn = vpn_in(t, r, i)
            if vpn >> SLOT_BITS == made and add >> 63 == 0:
                continue
            # One word for all goes to mapped entries only. A word of its own may be
            # for an entry that moves here after this.
            if w.step == 0 and entry[vpn - t.vpn] == self.pte.none:
                continue
            if vpn >> SLOT_BITS != made:
                if self.make(vpn) is NULL:
                    self.settle(t)
                    return NULL
                made = vpn >> SLOT_BITS
            if add >> 63:
                slot = slots_of(&self.head, vpn)
                # A run with vpns may name an entry twice: the first word may free what
                # the entry has, so the second needs its own.
                if r.vpns is NULL and slot[0] and slot[0] & IS_VALUE == 0:
                    continue
                word = <uint64_t*>self.slabs.alloc_or(
                    &self.spare_words, sizeof(uint64_t))
                if word is NULL:
                    self.settle(t)
                    return NULL
                word[0] = <uintptr_t>self.spare
                self.spare = word
        return t

    cdef bint set_aside(self, size_t n) noexcept nogil:
        cdef size_t before = self.spare_nodes.n
        # A table's leaves, and a path of nodes from the head to them.
        cdef size_t nodes = self.entries // SLOTS + self.entries // (SLOTS * SLOTS)
        nodes += (64 + SLOT_BITS - 1) // SLOT_BITS
        if not self.slabs.set_aside(&self.spare_nodes, n * nodes, sizeof(Node)):
            return False
        if self.slabs.set_aside(
                &self.spare_words, n * self.entries if self.bits == 64 else 0,
                sizeof(uint64_t)):
            return True
        self.slabs.set_aside(&self.spare_nodes, before, sizeof(Node))
        return False

    cdef size_t aside_bytes(self) noexcept nogil:
        return (self.spare_nodes.n * sizeof(Node)
                + self.spare_words.n * sizeof(uint64_t))

    cdef void end(self) noexcept nogil:
        cdef uint64_t* word
        while self.spare is not NULL:
            word = self.spare
            self.spare = <uint64_t*><uintptr_t>word[0]
            self.slabs.free(word)

    cdef void settle(self, Ptdesc* t) noexcept nogil:
        cdef uint64_t size = <uint64_t>self.entries
        cdef uint64_t at = 0
        t.next = 0
        while at < size:
            self.settle_near(t.vpn + at, min(<uint64_t>(SLOTS * SLOTS), size))
            at += SLOTS * SLOTS

    cdef void settle_near(self, uint64_t first, uint64_t n) noexcept nogil:
        """Free empty leaves among n vpns below one node."""
        cdef Node* above
        cdef Node* leaf
        cdef uint64_t vpn = first
        if node_in(self.head) is NULL:
            return
        above = find(self.head, first, SLOT_BITS)
        if above is NULL:
            # The tree is one leaf, or has nothing near this table.
            leaf = find(self.head, first, 0)
            if leaf is not NULL:
                self.prune(leaf)
            return
        while above is not NULL and vpn < first + n:
            leaf = node_in(above.slots[vpn >> SLOT_BITS & (SLOTS - 1)])
            if leaf is not NULL and leaf.count == 0:
                self.prune(leaf)
                above = find(self.head, first, SLOT_BITS)
            vpn += SLOTS
        # Nodes may have been made and not used, and the tree may be lower now.
        self.prune(find(self.head, first, SLOT_BITS))

    cdef int copy_all(self, Encoding parent) noexcept nogil:
        cdef uint64_t head = (<XArray>parent).head
        cdef uint64_t* word
        if node_in(head) is not NULL:
            return self.copy(node_in(head), NULL, &self.head)
        if head and head & IS_VALUE == 0:
            word = self.word_apart(word_in(head))
            head = <uintptr_t>word
            if word is NULL:
                return -1
        self.head = head
        return 0

    cdef uint64_t* word_apart(self, uint64_t word) noexcept nogil:
        cdef uint64_t* p = <uint64_t*>self.slabs.alloc(sizeof(uint64_t))
        if p is not NULL:
            p[0] = word
            self.apart += 1
        return p

    cdef int copy(self, const Node* of, Node* parent, uint64_t* slot) noexcept nogil:
        """Point a slot to a copy of a node and of all nodes below it."""
        cdef Node* node = self.new_node(of.shift, parent, of.offset)
        cdef uint64_t* word
        cdef int i
        if node is NULL:
            return -1
        slot[0] = <uintptr_t>node | IS_NODE
        node.count = of.count
        if node.shift == 0:
            memcpy(node.slots, of.slots, sizeof(node.slots))
            for i in range(SLOTS if self.bits == 64 else 0):
                if of.slots[i] and of.slots[i] & IS_VALUE == 0:
                    word = self.word_apart(word_in(of.slots[i]))
                    node.slots[i] = <uintptr_t>word
                    if word is NULL:
                        return -1
            return 0
        for i in range(SLOTS):
            if of.slots[i] and self.copy(node_in(of.slots[i]), node, &node.slots[i]):
                return -1
        return 0

    cdef int fork(self, Encoding parent, const Ptdesc* t, Ptdesc* child) noexcept nogil:
        child.flagged = t.flagged
        return 0

    cdef void load(self, const Ptdesc* t, const Run* r, uint64_t* words) noexcept nogil:
        cdef uint64_t vpn
        cdef const uint64_t* slot
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t n, i
        if self.head == 0 or (r.n > SLOTS and t.flagged == 0):
            memset(words, 0, r.n * sizeof(uint64_t))
            return
        if r.vpns:
            self.load_each(r, words)
            return
        while at < r.n:
            vpn = t.vpn + <uint64_t>(r.first + at)
            slot = slots_of(&self.head, vpn)
            n = min(r.n - at, SLOTS - <Py_ssize_t>(vpn & (SLOTS - 1)))
            if slot is NULL:
                memset(words + at, 0, n * sizeof(uint64_t))
            elif slot is &self.head:
                memset(words + at, 0, n * sizeof(uint64_t))
                words[at] = word_in(slot[0])
            elif self.apart == 0:
                # A free slot is 0, and so is its word.
                for i in range(n):
                    words[at + i] = slot[i] >> 1
            else:
                for i in range(n):
                    words[at + i] = word_in(slot[i])
            at += n

    cdef void fetch(
            self, Ptdesc** tables, const uint64_t* vpns, Py_ssize_t n) noexcept nogil:
        cdef const uint64_t* slots[TOGETHER]
        cdef const Node* leaf
        cdef uint64_t slot
        cdef Py_ssize_t i
        for i in range(n):
            leaf = see_leaf(&self.head, vpns[i], &slot)
            slots[i] = NULL
            if leaf is not NULL:
                slots[i] = &leaf.slots[vpns[i] & (SLOTS - 1)]
                prefetch(slots[i])
        for i in range(n if self.bits == 64 else 0):
            if slots[i] is not NULL:
                # The word lies apart if it is as wide as the slot.
                prefetch(<const void*><uintptr_t>once(slots[i]))

    # The tree may change while a reader walks down. Each slot is read once, and a node
    # taken out keeps its slots. A word changes under its PTE table's lock only.

    cdef bint see(
            self, const Ptdesc* t, const Run* r, const uint64_t* ptes,
            uint64_t* words) noexcept nogil:
        cdef uint64_t group = ALL
        cdef const Node* leaf = NULL
        cdef uint64_t slot = 0
        cdef uint64_t vpn
        cdef uint64_t none = self.pte.none
        cdef const uint64_t* slots
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t k, n
        if t.flagged == 0:
            memset(words, 0, r.n * sizeof(uint64_t))
            return True
        while i < r.n:
            vpn = vpn_in(t, r, i)
            if vpn >> SLOT_BITS != group:
                group = vpn >> SLOT_BITS
                leaf = see_leaf(&self.head, vpn, &slot)
                n = min(r.n - i, SLOTS - <Py_ssize_t>(vpn & (SLOTS - 1)))
                if leaf is not NULL and r.vpns is NULL and self.bits < 64:
                    # No word of these lies apart.
                    slots = &leaf.slots[vpn & (SLOTS - 1)]
                    for k in range(n):
                        words[i + k] = slots[k] >> 1
                    i += n
                    continue
            if leaf is not NULL:
                slot = once(&leaf.slots[vpn & (SLOTS - 1)])
            words[i] = see_word(slot) if ptes[i] != none and (
                leaf is not NULL or vpn == 0) else 0
            i += 1
        return True

    cdef void load_each(self, const Run* r, uint64_t* words) noexcept nogil:
        cdef uint64_t group = ALL
        cdef const uint64_t* slots = NULL
        cdef Node* leaf
        cdef Py_ssize_t i
        for i in range(r.n):
            if r.vpns[i] >> SLOT_BITS != group:
                group = r.vpns[i] >> SLOT_BITS
                leaf = find(self.head, r.vpns[i], 0)
                slots = leaf.slots if leaf is not NULL else NULL
            if slots is not NULL:
                words[i] = word_in(slots[r.vpns[i] & (SLOTS - 1)])
            else:
                words[i] = word_in(self.head) if (
                    r.vpns[i] == 0 and node_in(self.head) is NULL) else 0

    cdef void store(self, Ptdesc* t, const Run* r, const Write* w) noexcept nogil:
        cdef uint64_t none = self.pte.none
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef uint64_t keep = w.keep[0]
        cdef uint64_t group = ALL
        cdef Node* leaf = NULL
        cdef uint64_t* slot
        cdef uint64_t vpn, word
        cdef Py_ssize_t i = 0
        cdef bint clearing = adds_nothing(w, 1)
        if clearing and t.flagged == 0:
            return
        while i < r.n:
            vpn = vpn_in(t, r, i)
            if vpn >> SLOT_BITS != group:
                group = vpn >> SLOT_BITS
                leaf = find(self.head, vpn, 0)
            if leaf is NULL and r.vpns is NULL and vpn:
                # There is no word, and `prepare` saw that none comes.
                i += SLOTS - <Py_ssize_t>(vpn & (SLOTS - 1))
                continue
            slot = &leaf.slots[vpn & (SLOTS - 1)] if leaf is not NULL else (
                &self.head if vpn == 0 and node_in(self.head) is NULL else NULL)
            if slot is not NULL and entry[vpn - t.vpn] != none:
                word = word_in(slot[0]) & keep | w.add[i * w.step]
                if word != 0 or slot[0]:
                    if self.set_word(slot, word):
                        t.flagged += 1
                        if leaf is not NULL:
                            leaf.count += 1
                    elif word == 0:
                        t.flagged -= 1
                        if leaf is not NULL:
                            leaf.count -= 1
                            if leaf.count == 0:
                                t.next = 1
            i += 1

    cdef Py_ssize_t scan(
            self, const Ptdesc* t, Py_ssize_t first, Py_ssize_t last,
            const uint64_t* mask, const uint64_t* value, uint64_t* vpns) noexcept nogil:
        cdef uint64_t[SLOTS] words
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef const uint64_t* slot
        cdef uint64_t matches
        cdef Py_ssize_t found = 0
        cdef Py_ssize_t at = first
        cdef Py_ssize_t n
        cdef Run r = Run(0, 0, NULL)
        if value[0] and t.flagged == 0:
            return 0
        while at < last:
            n = min(last - at, SLOTS - (at & (SLOTS - 1)))
            matches = ALL >> (64 - n)
            slot = slots_of(&self.head, t.vpn + <uint64_t>at) if t.flagged else NULL
            if slot is not NULL and self.apart == 0 and slot is not &self.head:
                # No word has its highest bit.
                matches = 0
                if value[0] >> 63 == 0:
                    matches = equal(slot, n, mask[0] << 1, value[0] << 1)
            elif slot is not NULL:
                r.first = at
                r.n = n
                self.load(t, &r, words)
                matches = equal(words, n, mask[0], value[0])
            elif value[0]:
                matches = 0
            if value[0] == 0:
                matches &= ~equal(entry + at, n, ALL, self.pte.none)
            found = append_vpns(vpns, found, t.vpn + <uint64_t>at, matches)
            at += n
        return found

    cdef uint64_t carry(self, uint64_t pte, uint64_t to) noexcept nogil:
        return to

    cdef size_t side_bytes(self) noexcept nogil:
        return (self.leaves * sizeof(Node) + self.apart * sizeof(uint64_t)
                + self.aside_bytes())

    cdef size_t index_bytes(self) noexcept nogil:
        return self.uppers * sizeof(Node)

    cdef size_t held_bytes(self) noexcept nogil:
        return self.slabs.page_bytes() - self.index_bytes()

    cdef const char* fault(self, const Ptdesc* t) noexcept nogil:
        cdef const uint64_t* entry = entries(self.frames, t)
        cdef size_t[4] seen
        cdef uint64_t flagged = 0
        cdef const char* reason
        cdef const uint64_t* slot
        cdef Py_ssize_t i
        for i in range(self.entries):
            slot = slots_of(&self.head, t.vpn + <uint64_t>i)
            if slot is not NULL and slot[0]:
                flagged += 1
                if entry[i] == self.pte.none:
                    return b"a word of a PTE that isn't mapped"
        if flagged != t.flagged:
            return b"count of words is stale"
        if self.spare is not NULL:
            return b"an operation isn't over"
        memset(seen, 0, sizeof(seen))
        reason = fault_below(self.head, NULL, seen)
        if reason is not NULL:
            return reason
        if seen[0] != self.leaves or seen[1] != self.uppers:
            return b"count of nodes is stale"
        if seen[2] != self.apart:
            return b"count of words apart is stale"
        if self.slabs.limbo.count == 0 and (
                self.slabs.object_bytes != self.side_bytes() + self.index_bytes()):
            return b"memory without a node or word"
        if nr_flagged(self.frames) != seen[3]:
            return b"words of no PTE table"
        return NULL
