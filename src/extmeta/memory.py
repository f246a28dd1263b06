"""What a page table holds in memory, and what it may still ask for."""

import resource
from dataclasses import dataclass

from extmeta import limits


@dataclass(frozen=True)
class Memory:
    """Bytes that a page table holds now, counted where they are allocated.

    Attributes
    ----------
    upper : int
        Pages of tables above the PTE tables, the root included.
    pte : int
        Pages of PTE tables; one that several share is counted once.
    side : int
        Memory that holds metadata words beside the PTE tables, as rounded up to
        the sizes that are allocated. What PTE tables hold anyway is not counted.
    index : int
        Memory that finds the words, where the page table does not.
    slack : int
        Room for further objects in the pages that `side` lies in; not in
        `total`, since it serves what is allocated next.

    Notes
    -----
    A table's descriptor (link, count of flags) is not counted: it fits words of
    the kernel's struct ptdesc that a PTE table leaves unused. Where several tables
    share one (ppc64 with 64K pages), theirs are in `index`. The model leaves
    out struct page itself, memory cgroup accounting and per-CPU lists.
    """

    upper: int
    pte: int
    side: int
    index: int
    slack: int = 0

    @property
    def total(self) -> int:
        """upper + pte + side + index."""
        return self.upper + self.pte + self.side + self.index


def available_bytes() -> int | None:
    """Return what this process can still get, or None if nothing tells.

    The least of what the machine has (MemAvailable of /proc/meminfo), what its
    cgroups leave, and what RLIMIT_AS and RLIMIT_DATA leave (man 2 getrlimit).
    """
    found = [limits.available_now()]
    for limit, key in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        most, _hard = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            # Pages of address space, and of data and stack (man 5 proc_pid_statm).
            with open("/proc/self/statm", "rb") as file:
                pages = int(file.read().split()[key])
            found.append(max(0, most - pages * resource.getpagesize()))
    return min((n for n in found if n is not None), default=None)


def refuse_hopeless(nbytes: int, what: str) -> None:
    """Raise MemoryError if there is not so much memory.

    Linux grants memory before it has it and kills whoever then uses it.

    Parameters
    ----------
    nbytes : int
    what : str
        What it is needed for, for the message.
    """
    have = available_bytes()
    if have is not None and nbytes > have:
        raise MemoryError(f"{nbytes} bytes for {what}; {have} bytes are available")
