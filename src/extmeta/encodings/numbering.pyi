from typing import final

from extmeta.arch import Arch
from extmeta.encodings.constraints import Group
from extmeta.encodings.plan import Plan
from extmeta.fields import Fields

@final
class Book:
    def __init__(self, found: Plan) -> None: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def choices(self) -> list[Group]: ...
    @property
    def all_legal(self) -> bool: ...

@final
class Spans:
    def __init__(self, starts: list[int], choices: list[int]) -> None: ...
    @property
    def starts(self) -> list[int]: ...
    @property
    def choices(self) -> list[int]: ...
    def choice(self, vpn: int) -> int: ...

def book_of(
    fields: Fields,
    arch: Arch,
    excludes: tuple[Group, ...],
    implies: tuple[Group, ...],
    per_vma: tuple[Group, ...],
) -> Book: ...
