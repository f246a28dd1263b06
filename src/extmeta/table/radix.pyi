from extmeta.arch import Arch

class Radix:
    @property
    def arch(self) -> Arch: ...
