from typing import final

from extmeta.encoding import Encoding

@final
class PageExt(Encoding): ...

@final
class Pages:
    def __init__(self, pfn_bits: int, width: int) -> None: ...
