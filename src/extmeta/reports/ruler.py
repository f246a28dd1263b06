"""An architecture's entries as text: a table of all, and a ruler of 64 bits.

`extmeta arch` prints them. All facts are in :mod:`extmeta.arch`.
"""

import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from extmeta.arch import ALIASES, Arch, Bits, bit_ranges

WIDTH = 80
# The signs of the ruler, in the order in which its legend names them.
SIGNS = {
    "hardware": "h",
    "Linux": "L",
    "tracker": "t",
    "number": "=",
    "flag": "F",
    "free": ".",
}


def _size(nbytes: int) -> str:
    return f"{nbytes // 1024}K" if nbytes >= 1024 else f"{nbytes}"


def overview(arches: Iterable[Arch]) -> str:
    """Return a table of architectures of one release, a line each."""
    arches = list(arches)
    lines = [
        "                                        free bits of a  Linux tracks",
        "name                     levels    page PTE  swap entry  soft-dirty uffd-wp",
    ]
    for arch in arches:
        name = arch.name.partition("@")[0]
        levels = "/".join(str(bits) for bits in arch.level_bits)
        tracked = [
            "yes" if tracker in arch.owned else "-"
            for tracker in ("soft_dirty", "uffd_wp")
        ]
        lines.append(
            f"{name:<24} {levels:<10}{_size(arch.page_bytes):>4} {len(arch.free):>3}"
            f"{len(arch.swap.free):>12}  {tracked[0]:<10} {tracked[1]}"
        )
    plain = ", ".join(f"{name} for {full}" for name, full in ALIASES.items())
    return "\n".join([*lines, "", f"Linux {arches[0].release}. Plain names: {plain}."])


def to_json(arches: Iterable[Arch]) -> str:
    """Return a list of architectures as JSON, with the use of each bit."""
    document = [
        {
            "name": arch.name.partition("@")[0],
            "release": arch.release,
            "page_bytes": arch.page_bytes,
            "level_bits": arch.level_bits,
            "table_bytes": arch.table_bytes,
            "flag": arch.flag,
            "flag_from": arch.flag_from,
            "swap_flag": arch.swap_flag,
            "trackers": arch.owned,
            "present": [asdict(bits) for bits in present_bits(arch)],
            "swap": [asdict(bits) for bits in swap_bits(arch)],
        }
        for arch in arches
    ]
    return json.dumps(document, indent=1)


def present_bits(arch: Arch) -> list[Bits]:
    """Return what each bit of a present PTE is for, the highest first."""
    number = Bits(
        arch.pfn_shift, arch.pfn_shift + arch.pfn_bits - 1, "PFN", by="number"
    )
    owned = {bits[0]: name for name, bits in arch.owned.items()}
    if arch.flag_from:
        owned[arch.flag] = arch.flag_from
    return _merged([*arch.uses, number], arch.free, owned, arch.flag)


def swap_bits(arch: Arch) -> list[Bits]:
    """Return what each bit of a swap entry is for, the highest first."""
    swap = arch.swap
    inverted = ", bit-inverted" if swap.offset_inverted else ""
    numbers = [
        Bits(swap.type_shift, swap.type_shift + swap.type_bits - 1, "type", "number"),
        Bits(
            swap.offset_shift,
            swap.offset_shift + swap.offset_bits - 1,
            f"offset{inverted}",
            "number",
        ),
        Bits(swap.exclusive, swap.exclusive, "exclusive", "Linux"),
    ]
    owned = {bits[1]: name for name, bits in arch.owned.items()}
    return _merged([*swap.others, *numbers], swap.free, owned, arch.swap_flag)


def _merged(
    uses: list[Bits], free: tuple[int, ...], owned: dict[int, str], flag: int
) -> list[Bits]:
    """Add trackers, flag and free bits to the uses; adjacent free bits are one."""
    rows = list(uses)
    for bit, name in owned.items():
        if bit == flag:
            rows.append(Bits(bit, bit, f"the flag; was {name}", "flag"))
        else:
            rows.append(Bits(bit, bit, name, "tracker"))
    for bit in sorted(free):
        before = rows[-1] if rows else None
        if bit == flag:
            rows.append(Bits(bit, bit, "the flag of side encodings", "flag"))
        elif before and before.by == "free" and before.last + 1 == bit:
            rows[-1] = Bits(before.first, bit, "", "free")
        else:
            rows.append(Bits(bit, bit, "", "free"))
    return sorted(rows, key=lambda row: -row.first)


def ruler(rows: list[Bits]) -> str:
    """Return 64 columns, bit 63 first, and below them what each bit is."""
    signs = [" "] * 64
    for row in rows:
        for bit in range(row.first, row.last + 1):
            signs[63 - bit] = SIGNS[row.by]
    tens = "".join(str(bit // 10) for bit in range(63, -1, -1))
    ones = "".join(str(bit % 10) for bit in range(63, -1, -1))
    lines = [f"    {line}" for line in (tens, ones, "".join(signs))]
    for row in rows:
        span = f"{row.last}" if row.first == row.last else f"{row.last}-{row.first}"
        lines += textwrap.wrap(
            row.name or "-",
            WIDTH,
            initial_indent=f"    {span:<7}{row.by:<10}",
            subsequent_indent=" " * 21,
        )
    return "\n".join(lines)


def levels(arch: Arch) -> str:
    """Return a line for each level, the root first."""
    lines = []
    above = sum(arch.level_bits)
    for bits, nbytes in zip(arch.level_bits, arch.table_bytes, strict=True):
        reach = _reach(above + arch.page_shift)
        note = ""
        if nbytes < arch.page_bytes:
            note = f", {arch.page_bytes // nbytes} to a page"
        elif nbytes > arch.page_bytes:
            note = f", {nbytes // arch.page_bytes} pages"
        if bits == arch.level_bits[-1] and above == bits and arch.rest:
            note += f"; second half: {arch.rest}"
        lines.append(
            f"    {1 << bits:>5} entries in {_size(nbytes):>4} map {reach:>7}{note}"
        )
        above -= bits
    return "\n".join(lines)


def _in_mprotect(arch: Arch) -> Iterator[str]:
    """Yield what mprotect does to software bits, in sentences."""
    if arch.cleared:
        yield (
            f"mprotect clears {bit_ranges(arch.cleared)}: _PAGE_CHG_MASK lacks them. A kernel "
            "that uses them has to widen it, which is one line."
        )
    if kept := {*arch.free} - {*arch.cleared}:
        yield f"mprotect keeps {bit_ranges(kept)}."
    if arch.unflushed:
        yield f"mprotect changes {bit_ranges(arch.unflushed)} without a flush of the TLB."
    if not {*arch.free, arch.flag} <= {*arch.unflushed}:
        other = "another" if arch.unflushed else "a"
        yield f"In mprotect a change of {other} software bit {arch.flush}."


def _reach(shift: int) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    return f"{1 << shift % 10} {units[shift // 10]}"


def _filled(paragraph: str) -> str:
    return textwrap.fill(
        paragraph, WIDTH, break_long_words=False, break_on_hyphens=False
    )


def text(arch: Arch) -> str:
    """Return all that is known of one architecture."""
    legend = "  ".join(f"{sign} {by}" for by, sign in SIGNS.items())
    size = _size(arch.page_bytes)
    name = f"{arch.name.partition('@')[0]}, Linux {arch.release}"
    nothing = f"an entry that holds nothing is {arch.none:#x}"
    parts = [
        _filled(f"{name}: pages of {size}, {nothing}"),
        "\nTables, the root first",
        levels(arch),
        f"\nPresent PTE ({legend})",
        ruler(present_bits(arch)),
        "",
        *map(_filled, _in_mprotect(arch)),
        "\nSwap entry",
        ruler(swap_bits(arch)),
        *(["\nNotes"] if arch.notes else []),
        *map(_filled, arch.notes),
        "",
        _filled(f"Source: {arch.source}."),
    ]
    if arch.flag_from:
        parts.append(
            _filled(
                f"No bit is free: side encodings repurpose that of {arch.flag_from}, "
                "which becomes part of the word. Until Linux no longer looks for it in "
                "the PTE, it misunderstands the flag."
            )
        )
    if arch.unverified:
        parts.append(_filled(f"UNVERIFIED: {arch.unverified}."))
    return "\n".join(parts)
