from typing import final

from extmeta.encoding import Encoding

@final
class Adaptive(Encoding): ...
