"""A migration stream of QEMU: what ``migrate exec:cat>FILE`` of QMP writes of a guest.

QEMU has no command that writes out its dirty bitmap: `query-dirty-rate` of QMP answers
with a rate. Its stream has what the bitmap said, a pass after the other. The first pass
sends all memory, each later one the pages that were written since they were sent.

All numbers are big-endian (migration/savevm.c and migration/ram.c of QEMU 7.2). The
stream begins with a magic number and a version, then the machine's name. Sections follow:
a type, the section's number, with its first one a name and two more numbers, then data,
and a footer. Memory's data is words of 64 bits, an address and flags, each before a page
or before the byte that a page is full of. It is in the sections before those of devices,
which are not read. Pages go up within a pass: one that does not begins the next pass.

The stream does not tell where its blocks of memory are. They are put one after the other
from `FIRST_VPN` on, each at a multiple of 2 MiB. Each is a VMA. Pages of zeros that were
sent once count as not mapped.
"""

import os
from array import array
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from extmeta.arrays import U64, Bools
from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.consistency import USER_VPNS
from extmeta.captures.formats.dirty_bitmap import FIRST_VPN
from extmeta.captures.formats.pages import NOT_KNOWN, captured
from extmeta.captures.formats.source import Source
from extmeta.captures.trace import MAX_WRITTEN, Trace
from extmeta.linux.pagewords import (
    LEAF_PAGES,
    PAGE_BYTES,
    PAGE_SHIFT,
    PRESENT,
    SOFT_DIRTY,
)

NAME = "a migration stream of QEMU"

MAGIC = b"QEVM\0\0\0\3"

# Types of sections.
START, PART, END, CONFIGURATION, FOOTER = 1, 2, 3, 7, 0x7E

# Flags of an address.
ZERO, SIZES, PAGE, END_OF_DATA, SAME_BLOCK = 2, 4, 8, 0x10, 0x20
FLAGS = PAGE_BYTES - 1


class Block(NamedTuple):
    """A block of the guest's memory, and where it is put."""

    name: str
    first: int
    stop: int


class Sent(NamedTuple):
    """What a stream sent.

    Attributes
    ----------
    blocks : list of Block
    vpn : (N,) uint64 ndarray
        Pages in the order of the stream.
    zero : (N,) bool ndarray
        Which of them were zeros.
    passes : (P + 1,) int64 ndarray
        Where each pass starts in `vpn`; the last element is N.
    """

    blocks: list[Block]
    vpn: U64
    zero: Bools
    passes: npt.NDArray[np.int64]


def recognises(found: Source) -> bool:
    """Tell whether this begins as a stream does."""
    return found.head.startswith(MAGIC)


def read(found: Source) -> Capture:
    """Return the capture of the pages that were sent."""
    sent = _sent(found.path)
    # The first of equal pages is the last that was sent.
    vpn, last, times = np.unique(sent.vpn[::-1], return_index=True, return_counts=True)
    mapped = ~sent.zero[::-1][last] | (times > 1)
    vpn, written = vpn[mapped], times[mapped] > 1
    entry = np.where(written, np.uint64(PRESENT | SOFT_DIRTY), np.uint64(PRESENT))
    blocks = sent.blocks
    return captured(
        vpn,
        entry,
        f"From a migration stream of QEMU, of {len(sent.passes) - 1} passes. The "
        f"{np.count_nonzero(written):,} pages that were sent again are soft-dirty. "
        f"{np.count_nonzero(~mapped):,} pages of zeros count as not mapped.",
        vma_start=np.array([b.first << PAGE_SHIFT for b in blocks], np.uint64),
        vma_end=np.array([b.stop << PAGE_SHIFT for b in blocks], np.uint64),
        vma_perms=np.full(len(blocks), "rw-p"),
        vma_flags=np.full(len(blocks), ""),
        vma_name=np.array([b.name for b in blocks], np.str_),
    )


def trace(found: Source, interval: float) -> Trace:
    """Return the writes, a round for each pass but the first; see `read_writes`."""
    sent = _sent(found.path)
    if len(sent.passes) < 3:
        raise CaptureError("no page was sent a second time")
    first = sent.passes[1]
    if (written := len(sent.vpn) - int(first)) > MAX_WRITTEN:
        raise CaptureError(f"{written} pages written are more than {MAX_WRITTEN}")
    return Trace(
        vpns=sent.vpn[first:],
        rounds=sent.passes[1:] - first,
        vmas=np.array([(b.first, b.stop) for b in sent.blocks], np.uint64),
        interval=interval,
        comm=NOT_KNOWN,
        release=NOT_KNOWN,
        how="QEMU migration",
    )


def _sent(path: str) -> Sent:
    vpns, zeros = array("Q"), bytearray()
    with open(path, "rb") as file:
        stream = _Stream(file)
        for vpn, zero in stream.sends():
            vpns.append(vpn)
            zeros.append(zero)
    sent = np.frombuffer(vpns, np.uint64)
    falls = np.flatnonzero(sent[1:] <= sent[:-1]) + 1
    return Sent(
        blocks=[*stream.blocks.values()],
        vpn=sent,
        zero=np.frombuffer(zeros, np.bool_),
        passes=np.array([0, *falls.tolist(), len(sent)], np.int64),
    )


class _Stream:
    """A stream that is read once, up to the end of the memory's sections."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.blocks: dict[str, Block] = {}
        self.block: Block | None = None
        self.skip(len(MAGIC))

    def skip(self, nbytes: int) -> None:
        """Leave out bytes. If they are not there, the next `number` says so."""
        self.file.seek(nbytes, os.SEEK_CUR)

    def number(self, nbytes: int) -> int:
        """Return the number in the next bytes."""
        return int.from_bytes(self.take(nbytes), "big")

    def take(self, nbytes: int) -> bytes:
        """Return the next bytes."""
        if len(data := self.file.read(nbytes)) < nbytes:
            raise CaptureError("the stream ends within its memory")
        return data

    def name(self) -> str:
        """Return the next name."""
        return self.take(self.number(1)).decode("utf-8", "backslashreplace")

    def sends(self) -> Iterator[tuple[int, bool]]:
        """Yield each page of memory, and whether it was zeros."""
        ram = None
        while True:
            kind = self.number(1)
            if kind == CONFIGURATION:
                self.skip(self.number(4))
                continue
            if kind not in (START, PART, END):
                raise CaptureError(f"a section of type {kind} before the end of memory")
            section = self.number(4)
            if kind == START:
                if (name := self.name()) != "ram":
                    raise CaptureError(f"section {name!r} before the end of memory")
                self.skip(8)
                ram = section
            if section != ram:
                raise CaptureError(f"section {section} before the end of memory")
            yield from self._data()
            if (self.number(1), self.number(4)) != (FOOTER, section):
                raise CaptureError(f"section {section} has no footer")
            if kind == END:
                return

    def _data(self) -> Iterator[tuple[int, bool]]:
        while (word := self.number(8)) & FLAGS != END_OF_DATA:
            flags = word & FLAGS
            if flags == SIZES:
                self._sizes(word - flags)
                continue
            what = flags & ~SAME_BLOCK
            if what not in (ZERO, PAGE):
                raise CaptureError(
                    f"a page with flags {flags:#x}: neither whole nor zeros; migrate "
                    "without compression"
                )
            if what == flags:
                name = self.name()
                if (block := self.blocks.get(name)) is None:
                    raise CaptureError(f"no memory block {name!r}")
                self.block = block
            if self.block is None:
                raise CaptureError("the first page is of no memory block")
            vpn = self.block.first + (word >> PAGE_SHIFT)
            if vpn >= self.block.stop:
                raise CaptureError(
                    f"address {word - flags:#x} is not in {self.block.name!r}"
                )
            self.skip(PAGE_BYTES if what == PAGE else 1)
            yield vpn, what == ZERO

    def _sizes(self, left: int) -> None:
        """Read names and sizes of the blocks, of so many bytes in all."""
        first = FIRST_VPN
        while left > 0:
            name, nbytes = self.name(), self.number(8)
            stop = first + nbytes // PAGE_BYTES
            if not nbytes or nbytes % PAGE_BYTES or stop > USER_VPNS:
                raise CaptureError(f"memory block {name!r} of {nbytes} bytes")
            self.blocks[name] = Block(name, first, stop)
            first = -(-stop // LEAF_PAGES) * LEAF_PAGES
            left -= nbytes
