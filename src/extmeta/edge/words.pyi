from collections.abc import Iterator, Sequence
from typing import Any, Never, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from extmeta.edge.held import Held

# Overloads with _Several come first, since an array has __index__ too.
_Several: TypeAlias = NDArray[Any] | Sequence[SupportsIndex] | slice
# SupportsIndex covers int and numpy's integers.
_VpnsLike: TypeAlias = SupportsIndex | ArrayLike | range | slice

class WordMethods(Held):
    def store(
        self, vpns: _VpnsLike, words: ArrayLike | None = None, **values: ArrayLike
    ) -> None: ...
    def update(self, vpns: _VpnsLike, clear: int = 0, set: int = 0) -> None: ...
    @overload
    def load(  # type: ignore[overload-overlap]
        self, vpns: _Several, field: str | None = None
    ) -> NDArray[np.uint64]: ...
    @overload
    def load(self, vpns: SupportsIndex, field: str | None = None) -> int: ...
    @overload
    def snapshot(  # type: ignore[overload-overlap]
        self, vpns: _Several
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]: ...
    @overload
    def snapshot(self, vpns: SupportsIndex) -> tuple[int, int]: ...
    @overload
    def unchanged(
        self, vpns: _Several, ptes: ArrayLike, words: ArrayLike
    ) -> NDArray[np.bool_]: ...
    @overload
    def unchanged(self, vpns: SupportsIndex, ptes: int, words: int) -> bool: ...
    @overload
    def flagged(  # type: ignore[overload-overlap]
        self, vpns: _Several
    ) -> NDArray[np.bool_]: ...
    @overload
    def flagged(self, vpns: SupportsIndex) -> bool: ...
    def scan(
        self,
        vpns: range | slice,
        mask: int,
        value: int | None = None,
        clear: int = 0,
        *refused: Never,
    ) -> NDArray[np.uint64]: ...
    def scan_runs(
        self, vpns: range | slice, mask: int, value: int | None = None
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]: ...
    def scan_since(
        self, vpns: range | slice, field: str, since: int
    ) -> NDArray[np.uint64]: ...
    def vpns(self, within: range | slice | None = None) -> NDArray[np.uint64]: ...
    @overload
    def __getitem__(  # type: ignore[overload-overlap]
        self, vpns: _Several
    ) -> NDArray[np.uint64]: ...
    @overload
    def __getitem__(self, vpns: SupportsIndex) -> int: ...
    def __contains__(self, vpn: object) -> bool: ...
    def __iter__(self) -> Iterator[int]: ...
