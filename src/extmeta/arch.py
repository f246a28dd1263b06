"""What an architecture's page-table entries look like and leave to software.

Facts as data: a row an architecture, bit numbers from 0, each row with its
source. Nothing here computes; :mod:`extmeta.pagetable` turns a row into masks.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SwapEntry:
    """How a non-present PTE holds a swap slot.

    Attributes
    ----------
    type_shift, type_bits : int
        The swap device's number.
    offset_shift, offset_bits : int
        The page's place on that device.
    offset_inverted : bool
        The offset is kept bit-inverted, against L1TF.
    exclusive : int
        Bit that says the page was mapped once. The model keeps there whether
        the PTE was writable, so that swap-in restores it.
    free : tuple of int
        Bits that neither hardware nor Linux uses.
    """

    type_shift: int
    type_bits: int
    offset_shift: int
    offset_bits: int
    offset_inverted: bool
    exclusive: int
    free: tuple[int, ...]


@dataclass(frozen=True)
class Arch:
    """One architecture's page-table format.

    Attributes
    ----------
    name : str
    page_shift : int
        log2 of the page size in bytes.
    level_bits : tuple of int
        Index bits of each level, the root first, the PTE table last.
    present, write, user, accessed, dirty : int
        Bit numbers in a present PTE.
    pfn_shift, pfn_bits : int
        Where the page frame number is, and how wide.
    free : tuple of int
        Software bits of a present PTE that Linux leaves unused.
    owned : dict of str to (int, int)
        Bits that Linux already gives to a tracker of that name: in a present
        PTE, in a swap entry.
    flag, swap_flag : int
        The free bits repurposed by the side encodings to say "this PTE has a
        metadata word".
    swap : SwapEntry
    source : str
    """

    name: str
    page_shift: int
    level_bits: tuple[int, ...]
    present: int
    write: int
    user: int
    accessed: int
    dirty: int
    pfn_shift: int
    pfn_bits: int
    free: tuple[int, ...]
    owned: dict[str, tuple[int, int]] = field(hash=False)
    flag: int
    swap_flag: int
    swap: SwapEntry
    source: str

    @property
    def ptrs_per_pte(self) -> int:
        """Entries in a PTE table."""
        return 1 << self.level_bits[-1]

    @property
    def nr_vpns(self) -> int:
        """How many virtual pages the table can index."""
        return 1 << sum(self.level_bits)


_X86_64 = Arch(
    name="x86_64",
    page_shift=12,
    level_bits=(9, 9, 9, 9),
    present=0,
    write=1,
    user=2,
    accessed=5,
    dirty=6,
    pfn_shift=12,
    pfn_bits=40,
    # 57 (SOFTW4) was DEVMAP until mid-2025; 52-56 never had a name in Linux.
    free=(52, 53, 54, 55, 56, 57),
    owned={"soft_dirty": (11, 1), "uffd_wp": (10, 2)},
    flag=57,
    swap_flag=4,
    # Bits 5 and 6 of a swap entry are lost to an accessed/dirty erratum, 7 and
    # 8 have to be 0.
    swap=SwapEntry(
        type_shift=59,
        type_bits=5,
        offset_shift=9,
        offset_bits=50,
        offset_inverted=True,
        exclusive=3,
        free=(4,),
    ),
    source="Linux v6.12 arch/x86/include/asm/pgtable_types.h, pgtable_64.h; "
    "Intel SDM vol. 3 table 4-19; DEVMAP gone: "
    "20260427114607.4068647-3-kas@kernel.org",
)

ARCHES: dict[str, Arch] = {
    "x86_64": _X86_64,
    "x86_64_la57": Arch(
        **{**vars(_X86_64), "name": "x86_64_la57", "level_bits": (9, 9, 9, 9, 9)}
    ),
}


def arch_named(name: str) -> Arch:
    """Return the architecture of that name.

    Raises
    ------
    KeyError
        If there is none; the message lists those there are.
    """
    if name not in ARCHES:
        raise KeyError(f"no architecture named {name!r}; there are {sorted(ARCHES)}")
    return ARCHES[name]
