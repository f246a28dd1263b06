"""What was proposed against writes that a deferred flush loses, as data."""

from dataclasses import dataclass, replace

# A table's generation has a word of its own, so its width is that of a long.
LONG = 64


@dataclass(frozen=True)
class Cure:
    """How protection and write faults keep out of each other's way.

    Attributes
    ----------
    name, source : str
    exclusive : bool
        Protection holds mmap_lock for writing until the flush is done.
    asks : {"", "mm", "table", "pte", "pte, unwrapped"}
        What a write fault asks for pending flushes: nothing, a count of the mm, the
        generation of the PTE's table, or that in the PTE's word.
    then : {"", "flush", "wait", "copy"}
        What the fault does if a flush is pending.
    copies : bool
        A page that only this PTE maps may be copied.
    bits : int
        Of a generation.
    mended : bool
        No write should be lost.
    """

    name: str
    source: str
    exclusive: bool = False
    asks: str = ""
    then: str = ""
    copies: bool = True
    bits: int = LONG
    mended: bool = True


_ASKING_PTE = Cure("pte generation", "this project", asks="pte", then="flush")


def pte_generation(bits: int) -> Cure:
    """Return the cure with a generation of some bits in each PTE's word.

    Raises
    ------
    ValueError
        If there is no bit, or more than 64.
    """
    if not 1 <= bits <= LONG:
        raise ValueError(f"bits of a generation: {bits} is not in [1, {LONG}]")
    return replace(_ASKING_PTE, name=f"pte generation, {bits} bits", bits=bits)


CURES: dict[str, Cure] = {
    "none": Cure("none", "Linux 5.7 to 5.11", mended=False),
    "mmap_write_lock": Cure(
        "mmap_write_lock",
        "20201219043006.2206347-1-namit@vmware.com; clear_refs: 29a951dfb3c3, 5.11",
        exclusive=True,
    ),
    "flush in fault": Cure(
        "flush in fault", "6ce64428d620, 5.12", asks="mm", then="flush"
    ),
    "wait in fault": Cure(
        "wait in fault", "X+ORz1CVIhzKvunq@redhat.com, 1)", asks="mm", then="wait"
    ),
    "no reuse": Cure("no reuse", "a mistake", asks="mm", then="copy", mended=False),
    "exclusive pages": Cure("exclusive pages", "6c287605fd56, 5.19", copies=False),
    "table generation": Cure(
        "table generation",
        "20210131001132.3368247-17-namit@vmware.com",
        asks="table",
        then="flush",
    ),
    "pte generation": pte_generation(8),
    "pte generation, unwrapped": Cure(
        "pte generation, unwrapped",
        "a mistake",
        asks="pte, unwrapped",
        then="flush",
        bits=2,
        mended=False,
    ),
}
