"""Address spaces to test: how they are made, and what is seen of them."""

import functools

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
