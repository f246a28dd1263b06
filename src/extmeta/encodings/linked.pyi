from typing import final

from extmeta.table.encoding import Encoding

@final
class Linked(Encoding):
    def __init__(self, bits: int | None = None) -> None: ...
    @property
    def asked(self) -> int | None: ...
