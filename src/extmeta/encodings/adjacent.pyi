from typing import Literal, final

from extmeta.table.encoding import Encoding

@final
class Adjacent(Encoding):
    def __init__(self, when: Literal["always", "needed"] = "always") -> None: ...
    @property
    def when(self) -> Literal["always", "needed"]: ...
