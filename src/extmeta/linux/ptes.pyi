import numpy as np
import numpy.typing as npt

from extmeta.arch import Arch
from extmeta.arrays import U64, Bools
from extmeta.pagetable import PageTable

def raw(table: PageTable, vpns: U64 | range | slice) -> U64: ...

class Ptes:
    def __init__(
        self, arch: Arch, uffd_wp: int, soft_dirty: int, marker: int
    ) -> None: ...
    def decoded(self, ptes: U64) -> tuple[Bools, U64]: ...
    def page_alone(self, pte: int, pages: npt.NDArray[np.void]) -> int: ...
    def pagemap(
        self,
        ptes: U64,
        words: U64,
        pages: npt.NDArray[np.void],
        pfns: bool,
        out: U64,
    ) -> None: ...
    def categories(
        self,
        ptes: U64,
        words: U64,
        pages: npt.NDArray[np.void],
        of_vma: int,
        wanted: int,
    ) -> npt.NDArray[np.uint16]: ...
