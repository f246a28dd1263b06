from typing import final

from extmeta.arch import Arch
from extmeta.encoding import Encoding
from extmeta.fields import Fields

def places(fields: Fields, arch: Arch) -> tuple[list[int | None], list[int | None]]: ...

@final
class InPte(Encoding): ...
