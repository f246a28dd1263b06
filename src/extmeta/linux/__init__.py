"""Linux's semantics of uffd-wp and soft-dirty over any encoding.

:class:`AddressSpace` is the interface; docs/semantics.md has the rules, each with the
kernel's function. Start with `mm` (the state), `faults` (reads and writes),
`protect` (the two trackers), `move`, `reclaim`, `scan` (pagemap).
"""

from extmeta.linux.addressspace import AddressSpace
from extmeta.linux.entries import Refused
from extmeta.linux.userfault import UffdEvent, UserFault

__all__ = ["AddressSpace", "Refused", "UffdEvent", "UserFault"]
