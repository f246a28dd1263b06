"""Programs of three CPUs whose orders `orders.explore` goes through."""

from extmeta.linux.tlb.machine import Op, Program

WRITE, OTHER = Op("write"), Op("write", (1,))

# A second or less each.
SHORT: dict[str, tuple[Program, ...]] = {
    "protect": ((Op("protect"),), (WRITE,), (WRITE,)),
    "unprotect": ((Op("unprotect"),), (WRITE,), (WRITE, WRITE)),
    "clear_refs beside protect": (
        (Op("clear_refs"),),
        (Op("protect"), WRITE),
        (WRITE, WRITE),
    ),
    "two pages": ((Op("protect", (0, 1)),), (WRITE,), (OTHER, WRITE)),
}
# Some seconds each.
LONG: dict[str, tuple[Program, ...]] = {
    "clear_refs, then write": (
        (Op("clear_refs"), WRITE),
        (Op("protect"), WRITE),
        (WRITE, WRITE),
    ),
    "two pages, two trackers": (
        (Op("clear_refs", (0, 1)), WRITE),
        (Op("protect", (0,)), OTHER),
        (WRITE, OTHER),
    ),
    "three of them": (
        (Op("protect"), Op("unprotect")),
        (Op("clear_refs"), WRITE),
        (WRITE, WRITE),
    ),
}
PROGRAMS = SHORT | LONG
