from typing import final

from extmeta.table.encoding import Encoding

@final
class Hash(Encoding): ...
