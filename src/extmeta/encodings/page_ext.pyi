from typing import Self, final

from extmeta.table.encoding import Encoding

@final
class PageExt(Encoding): ...

@final
class Pages:
    def __new__(cls, pfn_bits: int, width: int) -> Self: ...
