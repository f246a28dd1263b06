"""Every encoding shows the same after every operation, whatever the operations."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from spaces import ENCODINGS, FIELDS, PAGE, PMD, make, state

import extmeta as em

# Two places across the edge of a PTE table, and one of huge pages.
PLACES = (0x3FFFC000, 0x405FC000)
PAGES = 8
HUGE = 0x50000000

places = st.sampled_from(PLACES)
starts = st.integers(0, PAGES - 1)
counts = st.integers(1, PAGES)
ADVICE = (
    *("DONTNEED", "PAGEOUT", "POPULATE_READ", "POPULATE_WRITE", "FREE", "COLD"),
    *("REMOVE", "DONTFORK", "DOFORK", "WIPEONFORK", "KEEPONFORK"),
)
REMAPS = ("MAYMOVE|FIXED", "MAYMOVE|FIXED|DONTUNMAP", "")
FEATURES = (
    (),
    ("WP_ASYNC",),
    ("WP_UNPOPULATED",),
    ("WP_ASYNC", "EVENT_FORK", "EVENT_REMAP"),
    ("EVENT_FORK",),
)
SCANS = (
    {"return_mask": "WRITTEN|PRESENT|SWAPPED|FILE|SOFT_DIRTY|HUGE|PFNZERO"},
    {"flags": "WP_MATCHING", "category_mask": "WRITTEN", "return_mask": "WRITTEN"},
    {"flags": "WP_MATCHING", "category_anyof_mask": "WRITTEN", "vec_len": 0},
    {"category_inverted": "PRESENT", "category_mask": "PRESENT", "max_pages": 3},
    {"category_mask": "SOFT_DIRTY", "return_mask": "SOFT_DIRTY", "vec_len": 1},
    {"flags": "WP_MATCHING|CHECK_WPASYNC", "category_mask": "WRITTEN"},
)


class Alike(RuleBasedStateMachine):
    """One operation on all encodings; `inpte`, the first, is the reference."""

    def __init__(self):
        super().__init__()
        # Processes, each of them one address space an encoding.
        self.processes = [[make(name) for name in ENCODINGS]]

    def all(self, process, operation, *, whole=False):
        """Do an operation on each; all must answer alike.

        A `whole` one changes nothing when it is refused.
        """
        chosen = self.chosen(process)
        before = [state(a) for a in chosen] if whole else None
        answers = [self.answer(a, operation) for a in chosen]
        assert answers[1:] == answers[:-1]
        if whole and answers[0] is not None:
            assert [state(a) for a in chosen] == before

    def chosen(self, process):
        return self.processes[process % len(self.processes)]

    @staticmethod
    def answer(a, operation):
        try:
            found = operation(a)
        except (OSError, em.UserFault) as refused:
            return type(refused), getattr(refused, "errno", None)
        if isinstance(found, tuple):
            regions, walk_end = found
            return regions.tolist(), walk_end
        return None

    @initialize(flags=st.sampled_from(("private|anonymous", "shared|anonymous")))
    def start(self, flags):
        self.all(0, lambda a: a.mmap(PLACES[0], PAGES * PAGE, "rw", flags))
        self.all(0, lambda a: a.mmap(HUGE, 2 * PMD))
        self.all(0, lambda a: a.madvise(HUGE, 2 * PMD, "HUGEPAGE"))

    def at(self, place, start, count):
        count = min(count, PAGES - start)
        return place + start * PAGE, count * PAGE

    @rule(
        process=starts,
        place=places,
        start=starts,
        count=counts,
        prot=st.sampled_from(("rw", "r")),
        flags=st.sampled_from(
            ("private|anonymous", "shared|anonymous", "private|file")
        ),
    )
    def mmap(self, process, place, start, count, prot, flags):
        addr, length = self.at(place, start, count)
        self.all(process, lambda a: a.mmap(addr, length, prot, flags), whole=True)

    @rule(process=starts, place=places, start=starts, count=counts)
    def munmap(self, process, place, start, count):
        addr, length = self.at(place, start, count)
        self.all(process, lambda a: a.munmap(addr, length), whole=True)

    @rule(
        process=starts,
        place=places,
        start=starts,
        count=counts,
        prot=st.sampled_from(("rw", "r", "none")),
    )
    def mprotect(self, process, place, start, count, prot):
        addr, length = self.at(place, start, count)
        self.all(process, lambda a: a.mprotect(addr, length, prot))

    @rule(
        process=starts,
        place=places,
        start=starts,
        count=counts,
        how=st.sampled_from(("read", "write", "write")),
    )
    def touch(self, process, place, start, count, how):
        addr, length = self.at(place, start, count)
        self.all(process, lambda a: getattr(a, how)(addr, length))

    @rule(
        process=starts,
        place=places,
        start=starts,
        count=counts,
        advice=st.sampled_from(ADVICE),
    )
    def madvise(self, process, place, start, count, advice):
        addr, length = self.at(place, start, count)
        self.all(process, lambda a: a.madvise(addr, length, advice))

    @rule(
        process=starts,
        place=places,
        start=starts,
        count=counts,
        to=starts,
        new=counts,
        flags=st.sampled_from(REMAPS),
    )
    def mremap(self, process, place, start, count, to, new, flags):
        addr, length = self.at(place, start, count)
        dst = PLACES[place == PLACES[0]] + to * PAGE
        # If there are several VMAs, the first ones may have been moved.
        several = flags and new == count
        self.all(
            process,
            lambda a: a.mremap(addr, length, new * PAGE, dst, flags),
            whole=not several,
        )

    @precondition(lambda self: len(self.processes) < 3)
    @rule(process=starts)
    def fork(self, process):
        self.processes.append([a.fork() for a in self.chosen(process)])

    @precondition(lambda self: len(self.processes) > 1)
    @rule()
    def exit(self):
        for a in self.processes.pop():
            a.exit()
            assert len(a.table) == 0

    @rule(process=starts, place=places, features=st.sampled_from(FEATURES))
    def register(self, process, place, features):
        self.all(
            process,
            lambda a: a.uffd_register(place, PAGES * PAGE, features),
            whole=True,
        )

    @rule(process=starts, place=places, start=starts, count=counts)
    def unregister(self, process, place, start, count):
        addr, length = self.at(place, start, count)
        self.all(process, lambda a: a.uffd_unregister(addr, length), whole=True)

    @rule(process=starts, place=places, start=starts, count=counts, on=st.booleans())
    def writeprotect(self, process, place, start, count, on):
        addr, length = self.at(place, start, count)
        self.all(process, lambda a: a.uffd_writeprotect(addr, length, on))

    @rule(process=starts)
    def clear_refs(self, process):
        self.all(process, lambda a: a.clear_refs())

    @rule(
        process=starts,
        place=places,
        start=starts,
        count=counts,
        scan=st.sampled_from(SCANS),
    )
    def scan(self, process, place, start, count, scan):
        addr, length = self.at(place, start, count)
        self.all(process, lambda a: a.pagemap_scan(addr, addr + length, **scan))

    @rule(
        process=starts,
        page=st.sampled_from((0, 511, 512, 700)),
        pages=st.sampled_from((1, 3, 512, 1024)),
        operation=st.sampled_from(
            (
                *("read", "write", "register", "protect", "unprotect", "move"),
                *("DONTNEED", "PAGEOUT", "COLLAPSE", "clear", "FREE", "COLD"),
            )
        ),
    )
    def huge(self, process, page, pages, operation):
        addr = HUGE + page * PAGE
        length = min(pages, 1024 - page) * PAGE
        operate = {
            "read": lambda a: a.read(addr, length),
            "write": lambda a: a.write(addr, length),
            "register": lambda a: a.uffd_register(HUGE, 2 * PMD),
            "protect": lambda a: a.uffd_writeprotect(addr, length, True),
            "unprotect": lambda a: a.uffd_writeprotect(addr, length, False),
            "move": lambda a: a.mremap(addr, length, length, addr + 4 * PMD),
            "clear": lambda a: a.clear_refs(),
        }.get(operation, lambda a: a.madvise(addr, length, operation))
        self.all(process, operate)

    @rule(process=starts, place=places, start=starts, count=counts)
    def set_age(self, process, place, start, count):
        addr, length = self.at(place, start, count)
        vpns = slice(addr >> 12, addr + length >> 12)
        self.all(process, lambda a: a.table.update(vpns, set=FIELDS.mask("age")))

    @invariant()
    def show_the_same(self):
        for spaces in self.processes:
            for place, pages in (*((p, PAGES) for p in PLACES), (HUGE, 6 * 512)):
                words = [a.pagemap(place, pages * PAGE, pfns=True) for a in spaces]
                vpns = slice(place >> 12, (place >> 12) + pages)
                ages = [a.table.load(vpns, "age") for a in spaces]
                for i in range(1, len(spaces)):
                    assert np.array_equal(words[0], words[i])
                    assert np.array_equal(ages[0], ages[i])

    def teardown(self):
        for spaces in self.processes:
            for a in spaces:
                a.table.check()


def test_all_encodings_show_the_same():
    run_state_machine_as_test(Alike)
