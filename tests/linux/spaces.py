"""Address spaces to test: how they are made, and what is seen of them."""

import functools
from weakref import WeakSet

import numpy as np

import extmeta as em

PAGE = 4096
PMD = 512 * PAGE
A = 0x10000000  # PMD-aligned
B = 0x30000000
FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=1)
ENCODINGS = ("inpte", "adjacent", "linked", "adaptive", "wide")

_LETTERS = {63: "P", 62: "S", 61: "F", 57: "W", 56: "X", 55: "D"}


def letters(word):
    """Return a pagemap word as kernel-observed text: PX, PFW, S, SW, ..., or -."""
    return "".join(c for bit, c in _LETTERS.items() if int(word) >> bit & 1) or "-"


def shown(space, addr=A, pages=8):
    """Return the words of some pages as text, joined by blanks."""
    return " ".join(map(letters, space.pagemap(addr, pages * PAGE)))


def tidy(space):
    """Check the table underneath, and that its leaves are known."""
    space.table.check()
    return space


make = functools.partial(em.AddressSpace, FIELDS)


def unprotect(space, address):
    """Resolve a write fault as a monitor does, one page at a time."""
    space.uffd_writeprotect(address, PAGE, False)


def state(space):
    """Return all that an address space and its relatives consist of, as plain data.

    Every attribute of every object of `extmeta.linux`; an object that is met again
    is its number, so that who shares what is told too. Of the PageTable its
    entries, words and memory.
    """
    numbers = {}

    def walk(thing):
        if thing is None or isinstance(thing, (bool, int, str)):
            return thing
        if isinstance(thing, np.ndarray):
            return thing.dtype.str, thing.tobytes()
        if isinstance(thing, dict):
            return {"dict": [(walk(k), walk(v)) for k, v in sorted(thing.items())]}
        if isinstance(thing, (set, frozenset)):
            return {"set": sorted(map(walk, thing))}
        if isinstance(thing, WeakSet):
            # One that has exited stays until the garbage collector comes.
            return [walk(one) for one in sorted(thing, key=id) if list(one.vmas)]
        if isinstance(thing, (list, tuple)):
            return [walk(one) for one in thing]
        if id(thing) in numbers:
            return numbers[id(thing)]
        numbers[id(thing)] = len(numbers)
        if isinstance(thing, em.PageTable):
            return _table(thing)
        if type(thing).__module__.startswith("extmeta.linux") and hasattr(
            thing, "__dict__"
        ):
            return type(thing).__name__, walk(vars(thing))
        return id(thing)  # what nothing changes: an encoding, a handler

    return walk(space)


def _table(table):
    """Return the entries of a table, their words, and what they take."""
    entries = []
    for base in table.table_vpns().tolist():
        ptes = table.table_at(base)
        vpns = base + np.flatnonzero(ptes)
        words = table.load(vpns) if len(vpns) else ()
        entries.append((base, ptes.tobytes(), np.asarray(words).tobytes()))
    return entries, len(table), str(table.memory())
