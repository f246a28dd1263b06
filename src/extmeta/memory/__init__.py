"""What tables and side pages are made of: frames, slabs, epochs, locks."""

from dataclasses import dataclass


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
