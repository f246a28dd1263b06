"""The PTE tables of a page table as numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from extmeta.pagetable import PageTable


class Tables(Mapping[int, NDArray[np.uint64]]):
    """The PTE tables of a page table, by the first vpn of each.

    See :attr:`PageTable.tables`.
    """

    def __init__(self, table: PageTable) -> None:
        self._table = table

    def __getitem__(self, vpn: int) -> NDArray[np.uint64]:
        view = self._table.table_at(vpn)
        if view is None:
            raise KeyError(f"no PTE table starts at vpn {vpn!r}")
        return view

    def __iter__(self) -> Iterator[int]:
        return iter(self._table.table_vpns().tolist())

    def __len__(self) -> int:
        return len(self._table.table_vpns())
