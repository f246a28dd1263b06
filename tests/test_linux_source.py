"""The rows of `extmeta.arch`, held against a kernel's source.

EXTMETA_LINUX names the source tree of a release that is known, such as 6.12.117 or
7.3.4: its arch/, mm/ and Makefile are read. Macros are evaluated by name, with the
configuration that has everything but what `WITHOUT` says.
"""

import os
import re
from pathlib import Path

import pytest

from extmeta.arch import ARCHES, arch_named

TREE = os.environ.get("EXTMETA_LINUX", "")

pytestmark = pytest.mark.skipif(
    not TREE, reason="EXTMETA_LINUX names no source tree of Linux"
)

WITHOUT = {"CONFIG_32BIT"}
ALL = (1 << 64) - 1


def source(path):
    """Return a file's text without comments, its continued lines joined."""
    text = (Path(TREE) / path).read_text()
    return re.sub(r"/\*.*?\*/", " ", text.replace("\\\n", " "), flags=re.DOTALL)


class Macros(dict):
    """What header files define, by name; the first definition that is compiled."""

    def __init__(self, *paths, **given):
        super().__init__(given)
        for path in paths:
            self.read(source(f"arch/{path}"))

    def read(self, text):
        compiled = []
        for line in text.splitlines():
            if found := re.match(r"\s*#\s*if(n?def)?\s+(\w+)?", line):
                negated, name = found[1] == "ndef", str(found[2])
                on = negated != (name not in WITHOUT)
                compiled.append(on or (negated and not name.startswith("CONFIG_")))
            elif re.match(r"\s*#\s*el(se|if)\b", line):
                compiled[-1] = not compiled[-1]
            elif re.match(r"\s*#\s*endif\b", line):
                compiled.pop()
            elif all(compiled) and (
                found := re.match(r"\s*#\s*define\s+(\w+)\s+(.+)", line)
            ):
                self.setdefault(found[1], found[2].strip())

    def value(self, text):
        """Return the value of an expression of C, as an unsigned long."""
        text = re.sub(r"\(\w+\([A-Z0-9_]+\)\) \? (.+) : 0", r"(\1)", text)
        text = re.sub(r"\(IS_ENABLED\(CONFIG_32BIT\) \? \w+ : (\w+)\)", r"\1", text)
        text = re.sub(r"_AT\(\w+,", "(", text)
        text = re.sub(r"\((unsigned long|pteval_t)\)", "", text)
        text = re.sub(r"\b(_ULCAST_|UL)\(", "(", re.sub(r"(\d)UL\b", r"\1", text))
        text = text.replace("GENMASK_ULL", "GENMASK")
        for name in sorted({*re.findall(r"\b[A-Za-z_]\w*\b", text)}):
            if name not in ("BIT", "GENMASK"):
                assert name in self, f"{name} is not defined"
                found = self[name]
                number = found if isinstance(found, int) else self.value(found)
                text = re.sub(rf"\b{name}\b", str(number), text)
        functions = {
            "__builtins__": {},
            "BIT": lambda n: 1 << n,
            "GENMASK": lambda high, low: (2 << high) - (1 << low),
        }
        return eval(text, functions) & ALL

    def bits(self, text):
        """Return the numbers of the bits of a value."""
        value = self.value(text)
        return {n for n in range(64) if value >> n & 1}

    def named_bits(self, prefixes):
        """Return the bits that have a name of their own."""
        named = {}
        for name, text in self.items():
            if name.startswith(prefixes) and not name.endswith("_SHIFT"):
                try:
                    found = self.bits(text)
                except (AssertionError, SyntaxError, TypeError):
                    continue
                if len(found) == 1:
                    named.setdefault(*found, []).append(name)
        return named


PPC = "powerpc/include/asm/book3s/64/"
PPC_GIVEN = {"PAGE_SHIFT": 16, "PAGE_MASK": ALL << 16 & ALL}

# Header files; what they don't define themselves; which macro is which attribute of
# the row; where DEVMAP, _PAGE_CHG_MASK and the trackers are.
HEADERS = {
    "x86_64": (
        ["x86/include/asm/pgtable_types.h", "x86/include/asm/pgtable_64.h"],
        {"PTE_PFN_MASK": 2**52 - 2**12, "_PAGE_CC": 0},
        {
            "present": "_PAGE_PRESENT",
            "write": "_PAGE_RW",
            "user": "_PAGE_USER",
            "accessed": "_PAGE_ACCESSED",
            "dirty": "_PAGE_DIRTY",
        },
        {"soft_dirty": "_PAGE_SOFT_DIRTY", "uffd_wp": "_PAGE_UFFD"},
        {9: "_PAGE_SPECIAL", 58: "_PAGE_SAVED_DIRTY", 63: "_PAGE_NX"},
    ),
    "arm64_4k": (
        ["arm64/include/asm/pgtable-prot.h", "arm64/include/asm/pgtable-hwdef.h"],
        {"PAGE_SHIFT": 12},
        {
            "present": "PTE_VALID",
            "write": "PTE_WRITE",
            "user": "PTE_USER",
            "accessed": "PTE_AF",
            "dirty": "PTE_DIRTY",
        },
        {"uffd_wp": "PTE_UFFD"},
        {7: "PTE_RDONLY", 52: "PTE_CONT", 56: "PTE_SPECIAL"},
    ),
    "riscv64_sv48": (
        ["riscv/include/asm/pgtable-bits.h", "riscv/include/asm/pgtable-64.h"],
        {"_PAGE_MTMASK": 3 << 61},
        {
            "present": "_PAGE_PRESENT",
            "write": "_PAGE_WRITE",
            "user": "_PAGE_USER",
            "accessed": "_PAGE_ACCESSED",
            "dirty": "_PAGE_DIRTY",
        },
        {},
        {8: "_PAGE_SPECIAL", 5: "_PAGE_GLOBAL"},
    ),
    "s390x": (
        ["s390/include/asm/pgtable.h"],
        {"PAGE_MASK": ALL << 12 & ALL},
        {
            "present": "_PAGE_PRESENT",
            "write": "_PAGE_WRITE",
            "accessed": "_PAGE_YOUNG",
            "dirty": "_PAGE_DIRTY",
        },
        {"soft_dirty": "_PAGE_SOFT_DIRTY"},
        {6: "_PAGE_SPECIAL", 9: "_PAGE_PROTECT", 10: "_PAGE_INVALID"},
    ),
    "ppc64_radix_4k": (
        [f"{PPC}pgtable.h"],
        {"PAGE_SHIFT": 12, "PAGE_MASK": ALL << 12 & ALL, "_PAGE_HPTEFLAGS": 0},
        {
            "present": "_PAGE_PRESENT",
            "write": "_PAGE_WRITE",
            "user": "_PAGE_PRIVILEGED",
            "accessed": "_PAGE_ACCESSED",
            "dirty": "_PAGE_DIRTY",
        },
        {"soft_dirty": "_PAGE_SOFT_DIRTY"},
        {10: "_PAGE_SPECIAL", 61: "_PAGE_INVALID", 62: "_PAGE_PTE"},
    ),
    "ppc64_hash_64k": (
        [f"{PPC}pgtable.h", f"{PPC}hash-64k.h"],
        PPC_GIVEN,
        {"present": "_PAGE_PRESENT", "write": "_PAGE_WRITE", "dirty": "_PAGE_DIRTY"},
        {"soft_dirty": "_PAGE_SOFT_DIRTY"},
        {
            6: "H_PAGE_BUSY",
            12: "H_PAGE_COMBO",
            13: "H_PAGE_4K_PFN",
            55: "H_PAGE_HASHPTE",
        },
    ),
    "loongarch64": (
        ["loongarch/include/asm/pgtable-bits.h"],
        {"PAGE_SHIFT": 14},
        {
            "present": "_PAGE_PRESENT",
            "write": "_PAGE_WRITE",
            "accessed": "_PAGE_ACCESSED",
            "dirty": "_PAGE_MODIFIED",
        },
        {},
        {10: "_PAGE_PROTNONE", 11: "_PAGE_SPECIAL", 60: "_PAGE_PRESENT_INVALID"},
    ),
}

each = pytest.mark.parametrize("name", HEADERS)


def row(name):
    """Return the row of the tree's release."""
    makefile = source("Makefile")
    version = [
        re.search(rf"^{key} = (\d+)", makefile, re.MULTILINE)[1]
        for key in ("VERSION", "PATCHLEVEL")
    ]
    return arch_named(name, release=".".join(version))


def headers(name):
    paths, given, *_ = HEADERS[name]
    macros = Macros(*paths, **given)
    # userfaultfd's bit was renamed between 6.12 and 7.3.
    for prefix in ("_PAGE_UFFD", "PTE_UFFD", "_PAGE_SWP_UFFD", "PTE_SWP_UFFD"):
        if f"{prefix}_WP" in macros:
            macros[prefix] = macros[f"{prefix}_WP"]
    return macros


@each
def test_bits_are_where_the_headers_have_them(name):
    arch, macros = row(name), headers(name)
    _paths, _given, attributes, trackers, others = HEADERS[name]
    for attribute, macro in attributes.items():
        assert macros.bits(macro) == {getattr(arch, attribute)}, macro
    assert {*trackers} == {*arch.owned}
    for tracker, macro in trackers.items():
        present, swap = arch.owned[tracker]
        assert macros.bits(macro) == {present}
        swapped = re.sub(r"(.*PAGE|PTE)_", r"\1_SWP_", macro)
        assert macros.bits(swapped if swapped in macros else macro) == {swap}
    for bit, macro in others.items():
        assert macros.bits(macro) == {bit}, macro
        assert bit in {n for u in arch.uses for n in range(u.first, u.last + 1)}


@each
def test_no_free_bit_has_a_name(name):
    arch, macros = row(name), headers(name)
    named = macros.named_bits(("_PAGE_", "PTE_", "H_PAGE_"))
    # The name that x86 has for a bit without a use.
    assert {bit: named[bit] for bit in arch.free if bit in named} == (
        {57: ["_PAGE_SOFTW4"]} if name == "x86_64" and 57 in arch.free else {}
    )
    devmap = macros.get("PTE_DEVMAP", macros.get("_PAGE_DEVMAP"))
    assert (devmap is None) == (arch.devmap < 0 or arch.devmap in arch.free)
    assert devmap is None or macros.bits(devmap) == {arch.devmap}


@each
def test_bits_that_pte_modify_keeps(name):
    arch, macros = row(name), headers(name)
    if name == "arm64_4k":
        text = source("arch/arm64/include/asm/pgtable.h")
        mask = re.search(r"pte_modify\(.*?mask = (.*?);", text, re.DOTALL)[1]
        macros |= {"PTE_PO_IDX_MASK": 7 << 60}
        kept = {*range(64)} - macros.bits(" ".join(mask.split()))
    else:
        kept = macros.bits("_PAGE_CHG_MASK")
    assert {*arch.free} - kept == {*arch.cleared}
    assert {present for present, _swap in arch.owned.values()} <= kept
    if arch.devmap >= 0 and arch.devmap not in arch.free:
        assert arch.devmap in kept


@each
def test_bits_that_change_without_a_flush(name):
    directory = HEADERS[name][0][0].split("/")[0]
    text = "".join(
        source(path.relative_to(TREE))
        for path in (Path(TREE) / f"arch/{directory}/include/asm").rglob("tlbflush.h")
    )
    text = " ".join(text.split())
    ignored = re.search(r"software_flags = (.*?);|diff &= ~(PTE_SWBITS_MASK);", text)
    found = headers(name).bits(ignored[1] or ignored[2]) if ignored else set()
    assert found == {*row(name).unflushed}
    # Else any change needs one: as include/asm-generic/tlb.h has it, and powerpc.
    other = "define pte_needs_flush" in text
    assert other == (bool(ignored) or directory == "powerpc")


@each
def test_swap_entries(name):
    arch, macros = row(name), headers(name)
    swap = arch.swap
    directory = HEADERS[name][0][0].rpartition("/")[0]
    text = source(f"arch/{directory}/pgtable.h")
    macros.read(text)
    if name == "x86_64":
        assert macros.value("SWP_TYPE_BITS") == swap.type_bits
        assert macros.value("SWP_OFFSET_FIRST_BIT") == swap.offset_shift
        shift = macros.value("SWP_OFFSET_SHIFT") - macros.value("SWP_TYPE_BITS")
        assert shift == swap.offset_shift
        assert macros.value("64 - SWP_TYPE_BITS") == swap.type_shift
        exclusive = "_PAGE_SWP_EXCLUSIVE"
    elif name.startswith("ppc64"):
        assert macros.bits("SWP_TYPE_MASK") == {*range(swap.type_bits)}
        assert macros.bits("PTE_RPN_MASK") == {
            *range(swap.offset_shift, swap.offset_shift + swap.offset_bits)
        }
        taken = macros.bits("_PAGE_HPTEFLAGS | _PAGE_PTE | _PAGE_PRESENT")
        assert not (taken | macros.bits("_PAGE_INVALID")) & {*swap.free}
        exclusive = "_PAGE_SWP_EXCLUSIVE"
    elif "__SWP_TYPE_SHIFT" in macros:
        assert macros.value("__SWP_TYPE_SHIFT") == swap.type_shift
        assert macros.value("__SWP_OFFSET_SHIFT") == swap.offset_shift
        assert macros.value("__SWP_TYPE_MASK") == (1 << swap.type_bits) - 1
        exclusive = "PTE_SWP_EXCLUSIVE" if name == "arm64_4k" else "_PAGE_SWP_EXCLUSIVE"
    else:
        assert f"<< {swap.type_shift}) | (offset << {swap.offset_shift})" in text
        exclusive = "_PAGE_SWP_EXCLUSIVE"
    if exclusive in macros:
        assert macros.bits(exclusive) == {swap.exclusive}


@each
def test_which_move_page_tables_whole(name):
    directory = HEADERS[name][0][0].split("/")[0]
    selected = any(
        re.search(r"^\s*select HAVE_MOVE_PMD", path.read_text(), re.MULTILINE)
        for path in (Path(TREE) / f"arch/{directory}").rglob("Kconfig*")
    )
    asks = "arch_supports_page_table_move"
    if directory == "powerpc":
        text = source("arch/powerpc/include/asm/tlb.h")
        body = re.search(rf"bool {asks}\(void\)\s*{{\s*(.*?)\s*}}", text, re.DOTALL)[1]
        assert body == "return radix_enabled();"
        assert selected
        assert row(name).moves_tables == ("radix" in name)
    else:
        assert row(name).moves_tables == selected


def test_contiguous_blocks_of_arm64():
    text = source("arch/arm64/Kconfig")
    part = text[text.index("config ARM64_CONT_PTE_SHIFT") :]
    shifts = re.search(
        r"default (\d+) if PAGE_SIZE_64KB\s+default (\d+) if PAGE_SIZE_16KB\s+"
        r"default (\d+)",
        part,
    )
    names = ("arm64_64k", "arm64_16k", "arm64_4k")
    for name, shift in zip(names, shifts.groups(), strict=True):
        assert row(name).contpte == 1 << int(shift)
    fold = source("arch/arm64/mm/contpte.c")
    assert "pte_same(subpte, expected_pte)" in fold
    assert {a.contpte for n, a in ARCHES.items() if not n.startswith("arm64")} == {0}


def test_address_bits_of_arm64():
    """With 52 bits: 8-9 and 48-49, but with 64K pages 12-15."""
    text = source("arch/arm64/include/asm/pgtable-hwdef.h")
    high = [part.strip() for part in re.findall(r"define PTE_ADDR_HIGH\s+(.+)", text)]
    assert [Macros().bits(part) for part in high] == [{12, 13, 14, 15}, {8, 9}]
    assert "GENMASK_ULL(49, 8)" in text
    for name, firsts in {
        "arm64_4k": {8, 48},
        "arm64_16k": {8, 48},
        "arm64_64k": {12},
    }.items():
        assert {u.first for u in row(name).uses if "52 bits" in u.name} == firsts
