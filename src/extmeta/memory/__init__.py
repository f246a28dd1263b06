"""Memory of tables and words: frames, slabs, epochs, locks."""

from dataclasses import dataclass

from extmeta.notebook import table_html


@dataclass(frozen=True)
class Memory:
    """Bytes that a page table holds now, counted where they are allocated.

    Attributes
    ----------
    upper : int
        Pages of tables above the PTE tables, the root included.
    pte : int
        Pages of PTE tables; a page that several tables share is counted once.
    side : int
        Memory for metadata words beside the PTE tables, rounded up to the sizes that
        are allocated. Words inside PTE tables are not counted.
    index : int
        Memory that finds the words, if the page table does not.
    slack : int
        Room for further objects in the pages of `side` and `index`; not in `total`,
        since the next objects use it. Page tables of a family, which are forks of each
        other, share it.

    Notes
    -----
    A table's link and count of flags are not counted: they fit words of the kernel's
    struct ptdesc that a PTE table leaves unused. If several tables share one (ppc64
    with 64K pages), they are in `index`. The model leaves out struct page itself,
    memory cgroup accounting and per-CPU lists.
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

    @property
    def pages(self) -> int:
        """Whole pages that all of this lies in: `total` and `slack`."""
        return self.total + self.slack

    def _repr_html_(self) -> str:
        parts = ("upper", "pte", "side", "index", "total", "slack", "pages")
        return table_html(
            "Memory, bytes", {name: getattr(self, name) for name in parts}
        )
