from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64

MARKS: dict[str, int]
ARRAY_NAMES: list[str]
WALK_NAMES: list[str]

def runs(
    vpns: U64, marks: npt.NDArray[np.uint8], level_bits: Sequence[int]
) -> npt.NDArray[np.float64]: ...
def tables(
    vpns: U64,
    marks: npt.NDArray[np.uint8],
    leaves: U64,
    nr_deposited: int,
    level_bits: Sequence[int],
) -> npt.NDArray[np.float64]: ...
