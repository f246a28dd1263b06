from typing import Self

from extmeta.frames import Frames

class Slabs:
    def __new__(cls) -> Self: ...
    @property
    def pages(self) -> Frames: ...
    @property
    def object_bytes(self) -> int: ...
