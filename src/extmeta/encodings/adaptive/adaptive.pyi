from typing import final

from extmeta.table.encoding import Encoding

NAMES: tuple[str, ...]

@final
class Adaptive(Encoding):
    def containers(self) -> dict[str, int]: ...
