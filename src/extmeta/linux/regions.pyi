import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64

class Regions:
    wants_output: bool
    walk_end: int | None
    def __init__(
        self,
        category_inverted: int,
        category_mask: int,
        category_anyof_mask: int,
        return_mask: int,
        max_pages: int,
        vec_len: int,
    ) -> None: ...
    def matches(self, categories: int) -> bool: ...
    def add(self, categories: int, first: int, stop: int) -> tuple[int, bool]: ...
    def add_pages(
        self, first: int, categories: npt.NDArray[np.uint16]
    ) -> tuple[int, bool]: ...
    def written(
        self,
        first: int,
        categories: npt.NDArray[np.uint16],
        stop: int,
        matching: bool,
    ) -> U64: ...
    def back_out(self) -> None: ...
    def flush(self) -> None: ...
    @property
    def over(self) -> bool: ...
    def result(self) -> U64: ...
