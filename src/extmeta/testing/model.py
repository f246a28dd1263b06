"""The model of a page table: a dict of PTEs."""

from dataclasses import dataclass


@dataclass
class Pte:
    """A mapped or swapped entry and its word."""

    pfn: int | None
    slot: int | None
    writable: bool
    word: int = 0


class Model:
    """What each operation does, on a dict of vpns."""

    def __init__(self, fields):
        self.fields = fields
        self.ptes = {}

    def fork(self):
        child = Model(self.fields)
        child.ptes = {vpn: Pte(**vars(pte)) for vpn, pte in self.ptes.items()}
        return child

    def map(self, vpns, pfns, writable):
        for vpn, pfn in zip(vpns, pfns, strict=True):
            self.ptes[vpn] = Pte(pfn, None, writable)

    def unmap(self, first, count):
        for vpn in [v for v in self.ptes if first <= v < first + count]:
            del self.ptes[vpn]

    def store(self, vpns, words):
        for vpn, word in zip(vpns, words, strict=True):
            self.ptes[vpn].word = word

    def store_field(self, vpns, name, values):
        mask = self.fields.mask(name)
        for vpn, value in zip(vpns, values, strict=True):
            kept = self.ptes[vpn].word & ~mask
            self.ptes[vpn].word = kept | value << self.fields.shift(name)

    def update(self, vpns, clear, set_):
        for vpn in vpns:
            if vpn in self.ptes:
                self.ptes[vpn].word = self.ptes[vpn].word & ~clear | set_

    def load(self, vpn):
        return self.ptes[vpn].word if vpn in self.ptes else 0

    def scan(self, first, stop, mask, value):
        return sorted(
            vpn
            for vpn, pte in self.ptes.items()
            if first <= vpn < stop and pte.word & mask == value
        )

    def scan_runs(self, first, stop, mask, value):
        runs = []
        for vpn in self.scan(first, stop, mask, value):
            if runs and runs[-1][1] == vpn:
                runs[-1] = (runs[-1][0], vpn + 1)
            else:
                runs.append((vpn, vpn + 1))
        return runs

    def move(self, src, dst, count):
        moved = {v: p for v, p in self.ptes.items() if src <= v < src + count}
        for vpn in moved:
            del self.ptes[vpn]
        self.ptes |= {vpn - src + dst: pte for vpn, pte in moved.items()}

    def swap_out(self, vpns, slots):
        for vpn, slot in zip(vpns, slots, strict=True):
            self.ptes[vpn].slot, self.ptes[vpn].pfn = slot, None

    def swap_in(self, vpns, pfns):
        for vpn, pfn in zip(vpns, pfns, strict=True):
            self.ptes[vpn].slot, self.ptes[vpn].pfn = None, pfn
