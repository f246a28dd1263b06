"""Page-table formats of architectures, and the bits that they leave to software.

Facts as data: a row for each architecture, with its source and its *unverified* facts.
Bit numbers begin with 0 at the least significant end. :mod:`extmeta.table.encoding`
turns a row into masks, and :mod:`extmeta.reports.ruler` prints it.
`tests/test_linux_source.py` compares the rows with a kernel's source.

The rows are of the default release. :func:`arch_named` makes the row of another release
from them: up to 6.16 Linux has DEVMAP in a bit that is free since.

Two tests tell the three kinds of entry apart, as in the kernel: ``pte & present`` and
``pte == none``. Both are false for a swap entry.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from extmeta.names import unknown
from extmeta.notebook import table_html
from extmeta.release import DEFAULT, release_named, release_text

# The first and the last release whose headers were read.
FIRST = (6, 12)
LAST = (7, 3)
# The first release without DEVMAP, by inference: see `_DEVMAP_GONE`.
DEVMAP_GONE = (6, 17)


@dataclass(frozen=True)
class Bits:
    """A run of an entry's bits, and its purpose.

    Attributes
    ----------
    first, last : int
        The run's lowest and highest bit.
    name : str
    by : str
        Who gives it its meaning: "hardware" or "Linux".
    """

    first: int
    last: int
    name: str
    by: str


def _hw(first: int, name: str, last: int | None = None) -> Bits:
    return Bits(first, first if last is None else last, name, "hardware")


def _sw(first: int, name: str, last: int | None = None) -> Bits:
    return Bits(first, first if last is None else last, name, "Linux")


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
        The offset is stored bit-inverted, against L1TF.
    exclusive : int
        Bit that says that the page was mapped once. The model stores there whether
        the PTE was writable, so that swap-in restores it.
    free : tuple of int
        Bits that neither hardware nor Linux uses.
    always : tuple of int
        Bits set in every swap entry.
    others : tuple of Bits
        All other bits: they are always set, or have to be 0.
    """

    type_shift: int
    type_bits: int
    offset_shift: int
    offset_bits: int
    offset_inverted: bool
    exclusive: int
    free: tuple[int, ...]
    others: tuple[Bits, ...]
    always: tuple[int, ...] = ()


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
    table_bytes : tuple of int
        What Linux allocates for a table of each level.
    rest : str
        What lies behind the entries in the memory of a PTE table: "" if they fill it,
        "idle" if it is unused, else the name of its use.
    none : int
        An entry that holds nothing.
    present, write, user, accessed, dirty : int
        Bit numbers in a present PTE; if hardware and Linux differ, Linux's. `user` is
        -1 if there is no bit.
    base, writable, readonly : tuple of int
        Bits set in every present PTE that the model makes; in a writable one
        (dirty too), in a read-only one.
    pfn_shift, pfn_bits : int
        The page frame number's lowest bit, and its width.
    free : tuple of int
        Software bits of a present PTE that Linux leaves unused.
    owned : dict of str to (int, int)
        Bits that Linux already gives to a tracker of that name: in a present
        PTE, in a swap entry.
    flag, swap_flag : int
        The bits that side encodings use to say "this PTE has a metadata word". They
        are free ones, unless `flag_from` names another owner.
    flag_from : str
        The owner of `flag`, if no bit was free: a tracker, or "DEVMAP". Side
        encodings keep its bit in the word.
    devmap : int
        The bit that Linux has for DEVMAP up to 6.16, in `free` since; -1 if none.
    cleared : tuple of int
        Bits of `free` that pte_modify() clears, as mprotect and NUMA balancing call
        it: _PAGE_CHG_MASK lacks them.
    unflushed : tuple of int
        Software bits that pte_needs_flush() ignores: if mprotect changes no others,
        the TLB is not flushed.
    unflushed_last : tuple of int
        `unflushed` in the last release that was read, if it has more there. It is not
        known since when, so only the row of that release has them.
    flush : str
        What a change of another software bit does there.
    moves_tables : bool
        Whether mremap may move a PTE table as a whole. If not, each PTE is moved,
        and becomes soft-dirty.
    contpte : int
        PTEs of a contiguous block, which Linux makes of base pages that are alike;
        0 if it makes none.
    notes : tuple of str
        What the model leaves out, in sentences.
    release : str
        The row's Linux release.
    leaf_ptes : int
        PTEs that a huge page stands for, if an encoding has changed the tables; else
        0, and the number is `ptrs_per_pte`.
    uses : tuple of Bits
        Every other bit of a present PTE.
    swap : SwapEntry
    source : str
    unverified : str
        Facts of the row that rest on memory or inference.
    entry_bytes : int
    """

    name: str
    page_shift: int
    level_bits: tuple[int, ...]
    table_bytes: tuple[int, ...]
    present: int
    write: int
    user: int
    accessed: int
    dirty: int
    base: tuple[int, ...]
    writable: tuple[int, ...]
    readonly: tuple[int, ...]
    pfn_shift: int
    pfn_bits: int
    free: tuple[int, ...]
    owned: dict[str, tuple[int, int]] = field(hash=False)
    flag: int
    swap_flag: int
    uses: tuple[Bits, ...]
    swap: SwapEntry
    source: str
    unverified: str = ""
    rest: str = ""
    none: int = 0
    flag_from: str = ""
    entry_bytes: int = 8
    devmap: int = -1
    cleared: tuple[int, ...] = ()
    unflushed: tuple[int, ...] = ()
    unflushed_last: tuple[int, ...] = ()
    flush: str = "flushes the TLB, as any change does"
    moves_tables: bool = True
    contpte: int = 0
    notes: tuple[str, ...] = ()
    release: str = DEFAULT
    leaf_ptes: int = 0

    def __repr__(self) -> str:
        return (
            f"<Arch {self.name}, Linux {self.release}: {self.page_bytes // 1024} KiB "
            f"pages, {self.ptrs_per_pte} PTEs a table, free bits "
            f"{bit_ranges(self.free) or 'none'}, flag in bit {self.flag}>"
        )

    def _repr_html_(self) -> str:
        owned = (f"{name}: bit {bits[0]}" for name, bits in self.owned.items())
        return table_html(
            f"{self.name}, Linux {self.release}",
            {
                "bytes of a page": self.page_bytes,
                "PTEs of a table": self.ptrs_per_pte,
                "levels": len(self.level_bits),
                "free bits of a present PTE": bit_ranges(self.free) or "none",
                "bits of trackers": ", ".join(owned) or "none",
                "flag": f"bit {self.flag}, of a swap entry bit {self.swap_flag}",
                "bits that mprotect clears": bit_ranges(self.cleared) or "none",
                "source": self.source,
            },
        )

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return 1 << self.page_shift

    @property
    def frame_bytes(self) -> int:
        """Bytes that Linux allocates for a PTE table."""
        return self.table_bytes[-1]

    @property
    def ptrs_per_pte(self) -> int:
        """Entries in a PTE table."""
        return 1 << self.level_bits[-1]

    @property
    def nr_vpns(self) -> int:
        """Virtual pages that the page table can map."""
        return 1 << sum(self.level_bits)

    @property
    def nr_slots(self) -> int:
        """Swap slots that an entry can name."""
        return 1 << self.swap.type_bits + self.swap.offset_bits

    @property
    def first_slot(self) -> int:
        """1 if the entry of slot 0 would be `none`, else 0.

        The first page of a swap device holds its header, so Linux never makes
        that entry.
        """
        return int(not (self.swap.always or self.swap.offset_inverted))


_DEVMAP_GONE = "that DEVMAP went in 6.17: 6.12 has it, 7.3 has not"


def _with_levels(arch: Arch, name: str, levels: int) -> Arch:
    """Return ``arch`` with this number of levels of 512 entries."""
    return replace(
        arch, name=name, level_bits=(9,) * levels, table_bytes=(4096,) * levels
    )


# -- x86-64 -------------------------------------------------------------------

_PTI = (
    "The root takes 8 KiB with page-table isolation: by the kernel's configuration in "
    "6.12 (pgalloc.h:37-46), only on CPUs that need it in 7.3 (pgalloc.h:34-44). `upper` "
    "is 4 KiB low there for each address space; VmPTE does not count the root."
)

_X86_64 = Arch(
    name="x86_64",
    page_shift=12,
    level_bits=(9, 9, 9, 9),
    table_bytes=(4096,) * 4,
    present=0,
    write=1,
    user=2,
    accessed=5,
    dirty=6,
    base=(0, 2, 5),
    writable=(1, 6),
    readonly=(),
    pfn_shift=12,
    pfn_bits=40,
    # 57 is SOFTW4; 52-56 never had a name in Linux.
    free=(52, 53, 54, 55, 56, 57),
    devmap=57,
    cleared=(52, 53, 54, 55, 56, 57),
    unflushed=(9, 10, 11, 57, 58),
    flush="flushes nothing, but warns and flushes with CONFIG_DEBUG_VM",
    owned={"soft_dirty": (11, 1), "uffd_wp": (10, 2)},
    flag=57,
    swap_flag=4,
    uses=(
        _hw(0, "P"),
        _hw(1, "R/W"),
        _hw(2, "U/S"),
        _hw(3, "PWT"),
        _hw(4, "PCD"),
        _hw(5, "A"),
        _hw(6, "D"),
        _hw(7, "PAT"),
        _hw(8, "G; PROT_NONE where P is clear"),
        _sw(9, "SPECIAL"),
        _sw(58, "SAVED_DIRTY"),
        _hw(59, "protection key; ignored if off", 62),
        _hw(63, "NX"),
    ),
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
        others=(
            _hw(0, "P: 0"),
            _hw(5, "0: A and D may be set by an erratum", 6),
            _sw(7, "0: PSE, a huge page's entry"),
            _sw(8, "0: PROT_NONE"),
        ),
    ),
    source="Linux 6.12.117 arch/x86/include/asm/pgtable_types.h:10-52 (bits), 36 "
    "(DEVMAP), 152-156 (_PAGE_CHG_MASK), pgtable_64.h:186-237 (swap), tlbflush.h:297-348 "
    "(flush); 7.3.4, the same files: DEVMAP is gone, also from _PAGE_CHG_MASK; Intel SDM "
    "vol. 3 table 4-19",
    unverified=f"AMD's manual on 52-58; {_DEVMAP_GONE}",
    notes=(
        _PTI,
        "SME, SEV and TDX take a bit of the PFN.",
        "A PTE of a shadow stack has R/W clear and D set.",
        "Without protection keys 59-62 are free too.",
    ),
)

# -- arm64 --------------------------------------------------------------------

_LPA2 = ", or address bits with 52 bits"
_CONT = (
    "{} aligned PTEs that map consecutive pages of one folio become a contiguous block "
    "if they are alike but for AF and dirty (mm/contpte.c:118-131): a flag or a word in "
    "some of them keeps them apart. `extmeta compare` counts the blocks."
)
_VA52 = (
    "52-bit virtual addresses, the default of 6.12's Kconfig, have a fifth level with 4K "
    "pages and a fourth with 16K; two levels are possible too. MTE and overlays change "
    "no counts."
)

_ARM64_4K = Arch(
    name="arm64_4k",
    page_shift=12,
    level_bits=(9, 9, 9, 9),
    table_bytes=(4096,) * 4,
    present=0,
    # PTE_WRITE is the hardware's DBM. Hardware allows a store if RDONLY is clear; Linux
    # keeps it set in a writable PTE that is clean.
    write=51,
    user=6,
    accessed=10,
    dirty=55,
    base=(0, 1, 6, 8, 9, 10, 11),
    writable=(51, 55),
    readonly=(7,),
    pfn_shift=12,
    pfn_bits=36,
    free=(57, 63),
    devmap=57,
    unflushed_last=(55, 56, 57, 58, 63),
    contpte=16,
    owned={"uffd_wp": (58, 3)},
    flag=57,
    swap_flag=4,
    uses=(
        _hw(0, "VALID"),
        _hw(1, "TYPE: a page"),
        _hw(2, "AttrIndx", 4),
        _hw(5, "NS"),
        _hw(6, "AP[1]: USER"),
        _hw(7, "AP[2]: RDONLY"),
        _hw(8, f"SH{_LPA2}", 9),
        _hw(10, "AF"),
        _hw(11, "nG; PRESENT_INVALID where VALID is clear"),
        _hw(48, f"RES0{_LPA2}", 49),
        _hw(50, "GP"),
        _hw(51, "DBM: WRITE"),
        _hw(52, "CONT"),
        _hw(53, "PXN"),
        _hw(54, "UXN"),
        _sw(55, "DIRTY"),
        _sw(56, "SPECIAL"),
        _hw(59, "PBHA, or ignored"),
        _hw(60, "POIndex", 62),
    ),
    swap=SwapEntry(
        type_shift=6,
        type_bits=5,
        offset_shift=12,
        offset_bits=50,
        offset_inverted=False,
        exclusive=2,
        free=(4, 5, 62, 63),
        others=(
            _hw(0, "VALID: 0"),
            _hw(1, "TYPE: 0"),
            _sw(11, "PRESENT_INVALID: 0"),
        ),
    ),
    source="Linux 6.12.117 arch/arm64/include/asm/pgtable-prot.h:16-39, 20 (DEVMAP), "
    "pgtable-hwdef.h:154-172 (PTE_SWBITS_MASK: 55-58 and 63), 174-187 (address), "
    "pgtable.h:1151-1173 (pte_modify), 1423-1444 (swap), Kconfig:304-308 "
    "(contiguous blocks); 7.3.4, the same files: DEVMAP is gone, tlbflush.h:695-713: a "
    "change of software bits flushes nothing; 48-bit addresses, four levels",
    unverified="59 and 63 under FEAT_MEC; since when software bits change without a flush: "
    f"not 6.12, but 7.3; {_DEVMAP_GONE}",
    notes=(_CONT.format(16), _VA52),
)

_ARM64_16K = replace(
    _ARM64_4K,
    name="arm64_16k",
    page_shift=14,
    level_bits=(11, 11, 11),
    table_bytes=(16384,) * 3,
    pfn_shift=14,
    pfn_bits=34,
    contpte=128,
    uses=(*_ARM64_4K.uses, _hw(12, "0: the address is aligned to 16K", 13)),
    notes=(_CONT.format(128), _VA52),
    source=_ARM64_4K.source.replace(
        "48-bit addresses, four", "47-bit addresses, three"
    ),
)

_ARM64_64K = replace(
    _ARM64_4K,
    name="arm64_64k",
    page_shift=16,
    level_bits=(6, 13, 13),
    # The root is an object of a slab.
    table_bytes=(512, 65536, 65536),
    pfn_shift=16,
    pfn_bits=32,
    contpte=32,
    uses=(
        *(use for use in _ARM64_4K.uses if use.first not in (8, 48)),
        _hw(8, "SH", 9),
        _hw(12, f"RES0{_LPA2}", 15),
        _hw(48, "RES0", 49),
    ),
    notes=(_CONT.format(32), _VA52),
    source=_ARM64_4K.source.replace("four levels", "three levels, a root of 512 bytes"),
)

# -- riscv64 ------------------------------------------------------------------

_SV39 = Arch(
    name="riscv64_sv39",
    page_shift=12,
    level_bits=(9, 9, 9),
    table_bytes=(4096,) * 3,
    present=0,
    write=2,
    user=4,
    accessed=6,
    dirty=7,
    base=(0, 1, 4, 6),
    writable=(2, 7),
    readonly=(),
    pfn_shift=10,
    pfn_bits=44,
    free=(9,),
    devmap=9,
    owned={},
    flag=9,
    swap_flag=1,
    uses=(
        _hw(0, "V"),
        _hw(1, "R"),
        _hw(2, "W"),
        _hw(3, "X"),
        _hw(4, "U"),
        _hw(5, "G; PROT_NONE where V is clear"),
        _hw(6, "A"),
        _hw(7, "D"),
        _sw(8, "SPECIAL"),
        _hw(54, "reserved, 0", 60),
        _hw(61, "Svpbmt: memory type", 62),
        _hw(63, "Svnapot: N"),
    ),
    swap=SwapEntry(
        type_shift=7,
        type_bits=5,
        offset_shift=12,
        offset_bits=52,
        offset_inverted=False,
        exclusive=6,
        free=(1, 2),
        others=(
            _hw(0, "V: 0"),
            _sw(3, "0: kept for SOFT_DIRTY"),
            _sw(4, "0: kept for UFFD_WP"),
            _sw(5, "PROT_NONE: 0"),
        ),
    ),
    source="Linux 6.12.117 arch/riscv/include/asm/pgtable-bits.h:11-39, 22 (DEVMAP), "
    "pgtable-64.h:70-76 (PTE), 169-173 (_PAGE_CHG_MASK), pgtable.h:849-872 (swap); "
    "7.3.4, the same files: DEVMAP is gone; RISC-V privileged specification, Sv39-Sv57",
    unverified=_DEVMAP_GONE,
    notes=(
        "T-Head's memory types take 59-63 (pgtable-64.h:126-139).",
        "pmd_present() looks at bits 1 and 2 of a swap entry, pte_present() does not.",
    ),
)

_SVRSW = replace(
    _SV39,
    owned={"soft_dirty": (59, 3), "uffd_wp": (60, 4)},
    uses=(
        *(use for use in _SV39.uses if use.first != 54),
        _hw(54, "reserved, 0", 58),
    ),
    swap=replace(
        _SV39.swap,
        others=tuple(use for use in _SV39.swap.others if use.first not in (3, 4)),
    ),
    source=_SV39.source + "; Svrsw60t59b leaves 59 and 60 to software: 7.3.4 "
    "pgtable-bits.h",
    unverified="the release that made use of Svrsw60t59b: not 6.12, but 7.3; the row is "
    f"as if each had; {_DEVMAP_GONE}",
)


# -- s390x --------------------------------------------------------------------

_S390X = Arch(
    name="s390x",
    page_shift=12,
    level_bits=(11, 11, 8),
    # A PTE table of 2 KiB gets a page. Its other half is unused, unless KVM has its
    # PGSTEs there.
    table_bytes=(16384, 16384, 4096),
    rest="idle",
    none=1 << 10,
    present=0,
    write=5,
    user=-1,
    accessed=2,
    dirty=3,
    base=(0, 2, 4),
    writable=(5, 3),
    # Only a writable dirty young PTE has PROTECT and INVALID clear.
    readonly=(9,),
    pfn_shift=12,
    pfn_bits=52,
    free=(),
    moves_tables=False,
    owned={"soft_dirty": (1, 1)},
    flag=1,
    flag_from="soft_dirty",
    swap_flag=7,
    uses=(
        _sw(0, "PRESENT"),
        _sw(2, "YOUNG"),
        _sw(3, "DIRTY"),
        _sw(4, "READ"),
        _sw(5, "WRITE"),
        _sw(6, "SPECIAL"),
        _sw(7, "UNUSED: a KVM guest's page state"),
        _hw(8, "NOEXEC"),
        _hw(9, "PROTECT: no store"),
        _hw(10, "INVALID"),
        _hw(11, "0; LARGE in the PTE form of a huge page"),
    ),
    swap=SwapEntry(
        type_shift=2,
        type_bits=5,
        offset_shift=12,
        offset_bits=52,
        offset_inverted=False,
        exclusive=11,
        free=(7, 8),
        always=(9, 10),
        others=(
            _sw(0, "PRESENT: 0"),
            _hw(9, "PROTECT: 1, tells swap from none"),
            _hw(10, "INVALID: 1"),
        ),
    ),
    source="Linux 6.12.117 arch/s390/include/asm/pgtable.h:179-206 (bits, "
    "_PAGE_CHG_MASK), 1858-1889 (swap), arch/s390/mm/pgalloc.c:166; 7.3.4 pgtable.h, the "
    "same bits; Kconfig selects no HAVE_MOVE_PMD; bits numbered from the least "
    "significant, as Linux's masks are",
    unverified="tables after PGSTE's removal (2026)",
    notes=(
        "Three levels map 4 TiB; Linux adds a fourth and a fifth when asked for more.",
    ),
)

# -- ppc64 --------------------------------------------------------------------

_PPC64_USES = (
    _hw(0, "EXEC"),
    _hw(1, "WRITE"),
    _hw(2, "READ"),
    _hw(3, "PRIVILEGED"),
    _hw(4, "cache attributes", 5),
    _hw(7, "C: DIRTY"),
    _hw(8, "R: ACCESSED"),
    _sw(10, "SPECIAL"),
    _sw(61, "INVALID, where PRESENT is clear"),
)

_PPC64_RADIX_4K = Arch(
    name="ppc64_radix_4k",
    page_shift=12,
    level_bits=(13, 9, 9, 9),
    table_bytes=(65536, 4096, 4096, 4096),
    present=63,
    write=1,
    # PRIVILEGED, the inverse.
    user=3,
    accessed=8,
    dirty=7,
    base=(63, 62, 2, 8),
    writable=(1, 7),
    readonly=(),
    pfn_shift=12,
    pfn_bits=41,
    # Not 61, though a present PTE has it clear: radix__ptep_set_access_flags() clears
    # it in one that it makes valid again.
    free=(11,),
    devmap=11,
    cleared=(11,),
    owned={"soft_dirty": (9, 9)},
    flag=11,
    swap_flag=11,
    uses=(
        *_PPC64_USES,
        _hw(6, "RSV1"),
        _hw(53, "0: more of the address, unused by Linux", 55),
        _hw(56, "reserved; hash's protection key", 60),
        _hw(62, "PTE: a leaf"),
        _hw(63, "PRESENT"),
    ),
    swap=SwapEntry(
        type_shift=0,
        type_bits=5,
        offset_shift=12,
        offset_bits=41,
        offset_inverted=False,
        exclusive=5,
        free=(6, 7, 8, 10, 11, *range(53, 61)),
        always=(62,),
        others=(
            _sw(61, "INVALID: 0"),
            _sw(62, "PTE: 1"),
            _hw(63, "PRESENT: 0"),
        ),
    ),
    source="Linux 6.12.117 arch/powerpc/include/asm/book3s/64/pgtable.h:18-91, 91 "
    "(DEVMAP), 124-126 (_PAGE_CHG_MASK), 499-511 and 638-672 (swap), radix.h, radix-4k.h, "
    "tlbflush.h:163-202, arch/powerpc/mm/book3s64/radix_pgtable.c:1571-1578 (61), "
    "pkeys.c:78 (no keys), include/asm/tlb.h:87; 7.3.4 pgtable.h: DEVMAP is gone, also "
    "from _PAGE_CHG_MASK",
    unverified=f"whether hardware ignores 61 of a present PTE; {_DEVMAP_GONE}",
)

_PPC64_RADIX_64K = replace(
    _PPC64_RADIX_4K,
    name="ppc64_radix_64k",
    page_shift=16,
    level_bits=(13, 9, 9, 5),
    # Fragments: 256 PTE tables share a page, 16 tables of the levels above.
    table_bytes=(65536, 4096, 4096, 256),
    pfn_shift=16,
    pfn_bits=37,
    uses=(*_PPC64_RADIX_4K.uses, _hw(12, "0: the address is aligned to 64K", 15)),
    swap=replace(
        _PPC64_RADIX_4K.swap,
        offset_shift=16,
        offset_bits=37,
        free=(6, 7, 8, 10, 11, *range(12, 16), *range(53, 61)),
    ),
    source=_PPC64_RADIX_4K.source.replace("radix-4k.h", "radix-64k.h"),
)

_PPC64_HASH_64K = replace(
    _PPC64_RADIX_64K,
    name="ppc64_hash_64k",
    level_bits=(8, 10, 10, 8),
    # The second half of a PTE table is hidx, 16 hash slots a PTE. The tables of the two
    # levels above are doubled too, for huge pages. 16 PTE tables share a page.
    table_bytes=(2048, 16384, 16384, 4096),
    rest="hidx",
    # Hardware reads the hash table, never this word.
    free=(11, 14, 15, 53, 54),
    cleared=(11, 14, 15, 53, 54),
    moves_tables=False,
    uses=(
        *_PPC64_USES,
        _sw(6, "H_PAGE_BUSY: the entry's lock"),
        _sw(12, "H_PAGE_COMBO"),
        _sw(13, "H_PAGE_4K_PFN, H_PAGE_THP_HUGE"),
        _sw(55, "H_PAGE_HASHPTE"),
        _hw(56, "protection key", 60),
        _sw(62, "PTE: a leaf"),
        _sw(63, "PRESENT"),
    ),
    swap=replace(
        _PPC64_RADIX_64K.swap,
        free=(7, 8, 10, 11, 13, 14, 15, 53, 54, *range(56, 61)),
        others=(
            *_PPC64_RADIX_64K.swap.others,
            _sw(6, "H_PAGE_BUSY: 0"),
            _sw(12, "H_PAGE_COMBO: 0"),
            _sw(55, "H_PAGE_HASHPTE: 0"),
        ),
    ),
    source="Linux 6.12.117 arch/powerpc/include/asm/book3s/64/pgtable.h:18-91, 91 "
    "(DEVMAP), 124-126 (_PAGE_CHG_MASK), 638-672 (swap), hash.h, hash-64k.h:46-65, "
    "asm/tlb.h:87; 7.3.4, the same files: DEVMAP is gone, also from _PAGE_CHG_MASK; PMD "
    "and PUD tables doubled with THP and hugetlb",
    unverified=_DEVMAP_GONE,
    notes=(
        "Hash with 4K pages has no row: H_PAGE bits 6, 53-56, 60 (hash-4k.h:41-49).",
    ),
)

# -- loongarch64 --------------------------------------------------------------

_LOONGARCH64 = Arch(
    name="loongarch64",
    page_shift=14,
    level_bits=(11, 11, 11),
    table_bytes=(16384,) * 3,
    present=7,
    write=8,
    user=2,
    accessed=0,
    dirty=9,
    base=(0, 2, 3, 4, 7),
    writable=(1, 8, 9),
    readonly=(),
    pfn_shift=14,
    pfn_bits=34,
    free=(59,),
    devmap=59,
    cleared=(59,),
    moves_tables=False,
    owned={},
    flag=59,
    swap_flag=15,
    uses=(
        _hw(0, "VALID; ACCESSED"),
        _hw(1, "DIRTY: a store is allowed"),
        _hw(2, "PLV", 3),
        _hw(4, "cache attributes", 5),
        _hw(6, "GLOBAL"),
        _sw(7, "PRESENT"),
        _sw(8, "WRITE"),
        _sw(9, "MODIFIED"),
        _sw(10, "PROTNONE"),
        _sw(11, "SPECIAL"),
        _hw(12, "0: the address is aligned to 16K", 13),
        _hw(48, "unused by Linux, written to TLBELO unmasked", 58),
        _sw(60, "PRESENT_INVALID, of huge pages"),
        _hw(61, "NR"),
        _hw(62, "NX"),
        _hw(63, "RPLV"),
    ),
    swap=SwapEntry(
        type_shift=16,
        type_bits=7,
        offset_shift=24,
        offset_bits=40,
        offset_inverted=False,
        exclusive=23,
        free=(1, 2, 3, 4, 5, 8, 9, 11, 12, 13, 14, 15),
        others=(
            _hw(0, "VALID: 0"),
            _hw(6, "0: GLOBAL is overlooked when none is asked for"),
            _sw(7, "PRESENT: 0"),
            _sw(10, "PROTNONE: 0"),
        ),
    ),
    source="Linux 6.12.117 arch/loongarch/include/asm/pgtable-bits.h:9-47, 25 (DEVMAP), "
    "79 (_PAGE_CHG_MASK), pgtable.h:273-299 (swap), 321-322 (which bits tell the kinds of "
    "entry apart), arch/loongarch/mm/tlbex.S; 7.3.4, the same files: DEVMAP is gone, also "
    "from _PAGE_CHG_MASK; Kconfig selects no HAVE_MOVE_PMD; 16K pages and three levels, "
    "the default",
    unverified=f"whether hardware ignores 48-58; {_DEVMAP_GONE}",
    notes=("Linux has 4K and 64K pages too, and two or four levels.",),
)

ARCHES: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        _X86_64,
        _with_levels(_X86_64, "x86_64_la57", 5),
        _ARM64_4K,
        _ARM64_16K,
        _ARM64_64K,
        _SV39,
        _with_levels(_SV39, "riscv64_sv48", 4),
        _with_levels(_SV39, "riscv64_sv57", 5),
        _with_levels(_SVRSW, "riscv64_sv39_svrsw60t59b", 3),
        _with_levels(_SVRSW, "riscv64_sv48_svrsw60t59b", 4),
        _with_levels(_SVRSW, "riscv64_sv57_svrsw60t59b", 5),
        _S390X,
        _PPC64_RADIX_4K,
        _PPC64_RADIX_64K,
        _PPC64_HASH_64K,
        _LOONGARCH64,
    )
}

# Plain names stand for 4K pages and 48 bits. ppc64 has none: its two formats differ in
# more than page size and depth.
ALIASES = {"arm64": "arm64_4k", "riscv64": "riscv64_sv48"}


def arch_named(name: str, release: str | None = None) -> Arch:
    """Return the architecture of that name, in a Linux release.

    Parameters
    ----------
    name : str
        One of `ARCHES`, or a plain name of `ALIASES`. "NAME@6.12" names the release
        too; it is the `Arch.name` of a row of another release than the default.
    release : str, optional
        For instance "6.12" or "6.12.117", from 6.12 to 7.3; by default 6.18.

    Raises
    ------
    KeyError
        If there is none; the message lists all names.
    TypeError
        If the name or the release is no text.
    ValueError
        If the release is not known, or the name has another one.
    """
    if not isinstance(name, str):
        raise TypeError(f"arch: {name!r} is no name of an architecture")
    plain, at, named = name.partition("@")
    plain = ALIASES.get(plain, plain)
    if plain not in ARCHES:
        raise KeyError(unknown("architecture named", name, [*ARCHES, *ALIASES]))
    given = [text for text in (release, named if at else None) if text is not None]
    asked = {release_named(text, FIRST, LAST) for text in given}
    if len(asked) > 1:
        raise ValueError(f"architecture {name!r} is not of release {release!r}")
    return _in_release(ARCHES[plain], *asked) if asked else ARCHES[plain]


def arch_of(arch: str | Arch, release: str | None = None) -> Arch:
    """Return an Arch unchanged, or the one of that name in a Linux release.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`arch_named`; ValueError also if a release is given with an Arch.
    """
    if not isinstance(arch, Arch):
        return arch_named(arch, release)
    if release is not None:
        raise ValueError(
            f"release {release!r}: the Arch {arch.name!r} is of {arch.release}; "
            "a release goes with a name"
        )
    return arch


def _in_release(arch: Arch, release: tuple[int, int]) -> Arch:
    """Return the row of a release, made from that of the default one."""
    text = release_text(release)
    if text == DEFAULT:
        return arch
    arch = replace(arch, name=f"{arch.name}@{text}", release=text)
    if release == LAST and arch.unflushed_last:
        arch = replace(arch, unflushed=arch.unflushed_last)
    if release >= DEVMAP_GONE or arch.devmap < 0:
        return arch
    free = tuple(bit for bit in arch.free if bit != arch.devmap)
    flag, flag_from = arch.devmap, "DEVMAP"
    if free:
        flag, flag_from = free[-1], ""
    elif arch.owned:
        flag_from = next(iter(arch.owned))
        flag = arch.owned[flag_from][0]
    taken = () if flag_from == "DEVMAP" else (_sw(arch.devmap, "DEVMAP"),)
    return replace(
        arch,
        free=free,
        cleared=tuple(bit for bit in arch.cleared if bit in free),
        flag=flag,
        flag_from=flag_from,
        uses=arch.uses + taken,
    )


def bit_ranges(bits: Iterable[int]) -> str:
    """Return bit numbers as "9-11, 57-58"."""
    found: list[list[int]] = []
    for bit in sorted(bits):
        if found and found[-1][-1] == bit - 1:
            found[-1].append(bit)
        else:
            found.append([bit])
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in found
    )
