from typing import Any, final

from extmeta.arch import Arch
from extmeta.encodings.constraints import Group, Groups
from extmeta.encodings.plan import Plan
from extmeta.fields import Fields
from extmeta.table.encoding import Encoding

def of_table(
    config: dict[str, Any],
    fields: Fields,
    arch: Arch,
    spans: tuple[list[int], list[int]],
) -> Compact: ...

@final
class Compact(Encoding):
    def __init__(
        self, excludes: Groups = (), implies: Groups = (), per_vma: Groups = ()
    ) -> None: ...
    @property
    def excludes(self) -> tuple[Group, ...]: ...
    @property
    def implies(self) -> tuple[Group, ...]: ...
    @property
    def per_vma(self) -> tuple[Group, ...]: ...
    @property
    def plan(self) -> Plan | None: ...
    def choose(self, first: int, stop: int, name: str) -> None: ...
    def chosen(self, vpn: int) -> Group: ...
