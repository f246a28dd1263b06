from typing import final

from extmeta.encoding import Encoding

@final
class Wide(Encoding): ...
