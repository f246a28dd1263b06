"""Linux's semantics of uffd-wp and soft-dirty over any encoding.

:class:`AddressSpace` is the whole of it; docs/semantics.md has the rules, each with
the kernel's function. Read on from `mm` (what there is), `faults` (reads and writes),
`protect` (the two trackers), `move`, `reclaim`, `scan` (what is shown).
"""

from extmeta.linux.addressspace import AddressSpace
from extmeta.linux.entries import Refused
from extmeta.linux.userfault import UffdEvent, UserFault

__all__ = ["AddressSpace", "Refused", "UffdEvent", "UserFault"]
