"""Array types; arrays of public objects, which stay read-only if these are copied."""

from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


def restore(made: object, state: dict[str, Any]) -> None:
    """Give a frozen object its attributes, after pickle or copy has made it.

    Parameters
    ----------
    made : object
    state : dict
        Its attributes by name. Arrays become read-only.
    """
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
        object.__setattr__(made, name, value)
