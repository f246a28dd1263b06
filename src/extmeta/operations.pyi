from extmeta.encoding import Encoding
from extmeta.fields import Fields
from extmeta.radix import Radix

class Operations(Radix):
    @property
    def encoding(self) -> Encoding: ...
    @property
    def fields(self) -> Fields: ...
