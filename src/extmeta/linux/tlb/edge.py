"""What an `AddressSpace` tells of its CPUs' TLBs."""

from contextlib import AbstractContextManager
from typing import Any

from extmeta.integers import whole
from extmeta.linux import faults
from extmeta.linux.edge import Edge
from extmeta.linux.tlb.tlbs import TlbEntry, Tlbs


class TlbEdge(Edge):
    """Several CPUs, each with a TLB: a part of `AddressSpace`."""

    # None with one CPU, whose TLB would change nothing.
    _tlbs: Tlbs | None
    _event: faults.Event

    def _of_cpu(self, cpu: int) -> Tlbs:
        cpus = 1 if self._tlbs is None else len(self._tlbs.entries)
        if not 0 <= whole("cpu", cpu) < cpus:
            raise ValueError(f"cpu: {cpu} is not in [0, {cpus})")
        if self._tlbs is None:
            raise ValueError("no TLB is modelled with cpus=1")
        return self._tlbs

    def _access_by(self, cpu: int, addrs: Any, length: int, *, write: bool) -> None:
        """Access each page of some ranges through a CPU's TLB, or fault."""
        tlbs, mm = self._of_cpu(cpu), self._mm
        for at in addrs:
            for vpn in range(at >> self._shift, -(-(at + length) >> self._shift)):
                if not tlbs.hit(mm, cpu, vpn, write=write):
                    faults.access(mm, vpn, vpn + 1, self._event, write=write)
                    tlbs.fill(mm, cpu, vpn, write=write)

    def deferred_flush(self) -> AbstractContextManager[None]:
        """Let `uffd_writeprotect` flush the TLBs at the end of a ``with`` block only.

        Until then other CPUs may write through entries of their TLBs, as in Linux between
        the change of the PTEs and the flush. Other operations flush before they release
        the lock that keeps faults out.

        Raises
        ------
        ValueError
            With cpus=1.
        """
        return self._of_cpu(0).deferred(self._mm)

    def tlb(self, cpu: int) -> dict[int, TlbEntry]:
        """Return the entries of a CPU's TLB by vpn, the one used last at the end.

        Raises
        ------
        ValueError
            If there is no such CPU, or with cpus=1.
        """
        tlbs = self._of_cpu(cpu)
        tlbs.flush(self._mm)
        return dict(tlbs.entries[cpu])

    def writes(self, addr: int) -> int:
        """Return how many writes reached the page at an address.

        A copy of a page has those of its source, and a page that is swapped in has those
        from before. Where no page is mapped there are none.

        Raises
        ------
        ValueError
            With cpus=1.
        """
        self._of_cpu(0)
        return Tlbs.writes(self._mm, whole("addr", addr) >> self._shift)
