from extmeta.fields import Fields
from extmeta.table.encoding import Encoding
from extmeta.table.radix import Radix

class Locking(Radix):
    @property
    def encoding(self) -> Encoding: ...
    @property
    def fields(self) -> Fields: ...
