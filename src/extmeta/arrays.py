"""Array types, and read-only arrays for copies of public objects."""

from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


def restore(made: object, state: dict[str, Any]) -> None:
    """Set a frozen object's attributes, for pickle and copy. Arrays become read-only."""
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
        object.__setattr__(made, name, value)
