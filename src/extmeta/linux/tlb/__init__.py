"""TLBs of several CPUs, and flushes that come later than the change: docs/tlb.md.

`machine` has the steps of write faults and of write-protection, `cures` what was
proposed against lost writes, `orders` every order of the steps, `timeline` a schedule
for people. `tlbs` has the TLBs of an `AddressSpace`.
"""

from extmeta.linux.tlb.cures import CURES, Cure, pte_generation
from extmeta.linux.tlb.machine import Op, Program, Setup
from extmeta.linux.tlb.orders import Found, explore, wander
from extmeta.linux.tlb.timeline import timeline

__all__ = [
    "CURES",
    "Cure",
    "Found",
    "Op",
    "Program",
    "Setup",
    "explore",
    "pte_generation",
    "timeline",
    "wander",
]
