from typing import final

from extmeta.arch import Arch
from extmeta.fields import Fields
from extmeta.table.encoding import Encoding

def places(fields: Fields, arch: Arch) -> tuple[list[int | None], list[int | None]]: ...

@final
class InPte(Encoding): ...
