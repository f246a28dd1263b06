"""Draws where each encoding keeps the words of a PTE table on x86-64.

Bits and sizes are read from the architecture's row, from the enums in
`encodings/adaptive/link.pxd`, and from what page tables say that they hold.
"""

import re
from collections.abc import Callable, Iterable
from importlib import resources

import numpy as np
import numpy.typing as npt

import extmeta as em
from extmeta.arch import arch_named
from extmeta.encodings.inpte import places
from extmeta.reports.figures import size
from figures.canvas import Canvas, Cells, Part

ARCH = arch_named("x86_64")
ENTRIES = ARCH.ptrs_per_pte

# A vpn far from 0, so that a tree by vpn has its full height.
FIRST = ARCH.nr_vpns // 2

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=8)
WIDE = em.Fields(meta=64)

WORD, FLAG, LINK, PLAIN = "c1", "c2", "c3", "band"


def filled(
    encoding: str, fields: em.Fields, at: Iterable[int], words: npt.ArrayLike
) -> em.PageTable:
    """Return a page table of one full PTE table, with words at some entries."""
    table = em.PageTable(encoding, fields)
    table.map(range(FIRST, FIRST + ENTRIES))
    table.store([FIRST + entry for entry in at], words)
    return table


def pte_bits(word: Iterable[int], label: str, flag: bool) -> list[Part]:
    """Return the parts of a present PTE whose ``word`` bits hold metadata."""
    taken = set(word)
    used = [bit for use in ARCH.uses for bit in range(use.first, use.last + 1)]
    pfn = range(ARCH.pfn_shift, ARCH.pfn_shift + ARCH.pfn_bits)
    kinds = {bit: ("pfn", PLAIN) for bit in pfn}
    kinds |= {bit: ("hardware, Linux", "paper") for bit in used}
    kinds |= {bit: (label, WORD) for bit in taken}
    if flag:
        kinds[ARCH.flag] = ("flag", FLAG)
    free = ("free", "paper")
    parts: list[Part] = []
    for bit in range(64):
        about = kinds.get(bit, free)
        if parts and (parts[-1].label, parts[-1].colour) == about:
            parts[-1] = parts[-1]._replace(last=bit)
        else:
            parts.append(Part(bit, bit, *about))
    return parts


def ptes(flagged: str) -> list[Cells]:
    """Return rows of a PTE table, the second of which has a word."""
    plain = (("pfn, bits", PLAIN),)
    return [plain, (("pfn, bits", PLAIN), (flagged, FLAG)), plain, (("...", PLAIN),)]


def word_rows(bits: int) -> list[Cells]:
    """Return rows of memory for words, the second of which is taken."""
    empty = (("0", PLAIN),)
    return [empty, ((f"word, {bits} bits", WORD),), empty, (("...", PLAIN),)]


def by_the_middle(canvas: Canvas) -> None:
    """Draw arrows from the second PTE to the table in the middle, and to the word."""
    canvas.arrow((220, 70), (255, 70), (255, 46), (284, 46))
    canvas.arrow((400, 46), (440, 46), (440, 70), (474, 70))


def inpte() -> Canvas:
    fields = em.Fields(uffd_wp=1, soft_dirty=1, age=5)
    present, swap = places(fields, ARCH)
    lost = sum(bit is None for bit in swap)
    canvas = Canvas(
        "inpte",
        "inpte: the word is in the PTE",
        f"A present PTE of 64 bits. A word of {fields.bits} bits lies in bits "
        f"{listed(present)}. A swap entry has no place for {lost} of them.",
        80,
    )
    canvas.text(0, 16, f"present PTE, word of {fields.bits} bits")
    canvas.bits(8, 26, pte_bits(present, "word", flag=False))
    return canvas


def compact() -> Canvas:
    fields = em.Fields(uffd_wp=1, soft_dirty=1, age=3)
    plan = em.plan(fields, excludes=[("uffd_wp", "soft_dirty")])
    codes = plan.assignment.codes[()]
    canvas = Canvas(
        "compact",
        "compact: the word's number is in the PTE",
        f"{plan.combinations} legal words of {fields.bits} bits are numbered, so that "
        f"{plan.bits} bits of the PTE, {listed(plan.assignment.present)}, hold the code. "
        "A constant table turns codes into words.",
        200,
    )
    canvas.text(0, 16, f"present PTE, code of {plan.bits} bits")
    canvas.bits(8, 26, pte_bits(plan.assignment.present, "code", flag=False))
    some = list(codes.items())[:3]
    said = [
        ", ".join(f"{n}={v}" for n, v in word.items()) or "none" for _, word in some
    ]
    rows = [
        ((f"code {code}", WORD), (text, PLAIN))
        for (code, _), text in zip(some, said, strict=True)
    ]
    title = f"one table for all page tables: {plan.combinations} legal words"
    canvas.table(220, 102, 330, title, [*rows, (("...", WORD), ("...", PLAIN))])
    canvas.arrow((124, 72), (124, 114), (214, 114))
    return canvas


def adjacent() -> Canvas:
    table = filled("adjacent", FIELDS, [1], 5)
    held = table.memory()
    canvas = Canvas(
        "adjacent",
        "adjacent: the word is in the next page",
        f"A PTE table of {size(held.pte)} is followed by a page of {size(held.side)} "
        f"with a word of 64 bits for each PTE, at the PTE's address plus "
        f"{held.pte:,}. Flag bit {ARCH.flag} of the PTE says that there is a word.",
        140,
    )
    canvas.table(0, 34, 260, f"PTE table, {size(held.pte)}", ptes("flag"))
    canvas.table(420, 34, 260, f"next page, {size(held.side)}", word_rows(64))
    canvas.arrow((260, 70), (414, 70))
    canvas.text(337, 62, f"+ {held.pte:,}", "middle")
    return canvas


def linked() -> Canvas:
    held = filled("linked", FIELDS, [1], 5).memory()
    width = 8 * held.side // ENTRIES
    canvas = Canvas(
        "linked",
        "linked: the word is in a side page",
        f"The PTE table's descriptor, struct ptdesc, holds a link and a count of words. "
        f"The link leads to a side page of {size(held.side)}: {width} bits for each of "
        f"{ENTRIES} PTEs, since the fields take {FIELDS.bits} bits. It is there while the "
        "table has a word.",
        140,
    )
    canvas.table(0, 34, 220, f"PTE table, {size(held.pte)}", ptes("flag"))
    rows = [(("link", LINK),), (("count: 1", LINK),)]
    canvas.table(290, 34, 110, "ptdesc", rows)
    canvas.table(480, 34, 220, f"side page, {size(held.side)}", word_rows(width))
    by_the_middle(canvas)
    return canvas


def different(count: int) -> npt.NDArray[np.uint64]:
    """Return words that differ, too wide for a link."""
    return np.arange(1, count + 1, dtype=np.uint64) << np.uint64(50)


# By container: an example of a table that takes it, its entries with words, the words.
EVERY = range(ENTRIES)
CONTAINERS = {
    "uniform": ("all PTEs, one word", EVERY, 5),
    "inline": ("3 PTEs, one word", range(0, 9, 3), 5),
    "boxed": ("all PTEs, one word of 64 bits", EVERY, 1 << 63),
    "few": ("14 PTEs, one word", range(14), 1 << 20),
    "listed": ("12 PTEs, words of 64 bits", range(0, 24, 2), different(12)),
    "ranked": ("150 PTEs, words of 64 bits", range(150), different(150)),
    "dense": ("all PTEs, words of 64 bits", EVERY, different(ENTRIES)),
}


def link_constants() -> dict[str, int]:
    """Return the constants of the tagged link by name."""
    folder = resources.files("extmeta.encodings") / "adaptive"
    text = (folder / "link.pxd").read_text()
    found = re.findall(r"^    ([A-Z_]+) = (\d+|0x[0-9a-f]+)\b", text, re.MULTILINE)
    return {name: int(value, 0) for name, value in found}


def link_parts(container: str) -> list[Part]:
    """Return what the bits of the link hold for a container."""
    c = link_constants()
    kind = Part(0, 2, "kind", LINK)
    if container == "uniform":
        return [kind, Part(c["UNIFORM_SHIFT"], 63, "the word", WORD)]
    if container == "inline":
        count, at = c["INLINE_COUNT_SHIFT"], c["INLINE_SHIFT"]
        # The example has three positions.
        end = at + 3 * (ENTRIES - 1).bit_length()
        return [
            kind,
            Part(count, at - 1, "count", PLAIN),
            Part(at, end - 1, "positions", PLAIN),
            Part(end, 63, "the word", WORD),
        ]
    place = Part(c["HANDLE_SHIFT"], c["WIDTH_SHIFT"] - 1, "place of the object", LINK)
    if container == "few":
        count, word = c["FEW_COUNT_SHIFT"], c["FEW_WORD_SHIFT"]
        return [
            kind,
            place,
            Part(count, word - 1, "count", PLAIN),
            Part(word, 63, "the word", WORD),
        ]
    width, shift = c["WIDTH_SHIFT"], c["CLASS_SHIFT"]
    parts = [kind, place]
    if container != "boxed":
        parts.append(Part(width, shift - 1, "width", PLAIN))
        parts.append(Part(shift, c["COUNT_SHIFT"] - 1, "size", PLAIN))
    if container in ("listed", "ranked"):
        bits = c["COUNT_MASK"].bit_length()
        count = c["COUNT_SHIFT"]
        parts.append(Part(count, min(count + bits, 64) - 1, "count", PLAIN))
    return parts


def adaptive() -> Canvas:
    sizes = {}
    for name, (_content, at, words) in CONTAINERS.items():
        table = filled("adaptive", WIDE, at, words)
        taken = [kind for kind, n in table.encoding.containers().items() if n]
        if taken != [name]:
            raise AssertionError(f"the example of {name} takes {taken}")
        sizes[name] = table.memory().side
    row = 62
    ends = "; ".join(f"{name} {nbytes:,} bytes" for name, nbytes in sizes.items())
    canvas = Canvas(
        "adaptive",
        "adaptive: the link says which container a table has",
        "The 64 bits of a table's link, for each kind of container, with the size of the "
        f"object beside it for an example: {ends}.",
        24 + row * len(CONTAINERS),
    )
    for line, (name, (content, _at, _words)) in enumerate(CONTAINERS.items()):
        y = 16 + row * line
        nbytes = sizes[name]
        canvas.text(0, y, f"{name}: {content}")
        where = f"object: {nbytes:,} bytes" if nbytes else "no object"
        canvas.text(718, y, where, "end")
        canvas.bits(8, y + 6, link_parts(name))
    return canvas


def wide() -> Canvas:
    table = filled("wide", WIDE, [1], 5)
    arch, held = table.arch, table.memory()
    entries = arch.ptrs_per_pte
    canvas = Canvas(
        "wide",
        "wide: the entry has 16 bytes",
        f"Each entry has {arch.entry_bytes} bytes: the PTE and its word. A table of "
        f"{size(arch.frame_bytes)} has {entries} entries instead of {ENTRIES}, and "
        f"addresses take {len(arch.level_bits)} levels instead of "
        f"{len(ARCH.level_bits)}. {ENTRIES} PTEs take {size(held.pte)}.",
        140,
    )
    plain = (("pfn, bits", PLAIN), ("0", PLAIN))
    rows = [plain, (("pfn, bits", PLAIN), ("word, 64 bits", WORD)), plain]
    rows.append((("...", PLAIN), ("...", PLAIN)))
    title = f"PTE table, {size(arch.frame_bytes)}: {entries} entries of {arch.entry_bytes} bytes"
    canvas.table(0, 34, 420, title, rows)
    return canvas


def page_ext() -> Canvas:
    held = filled("page_ext", WIDE, [1], 5).memory()
    pages = held.side // 8
    canvas = Canvas(
        "page_ext",
        "page_ext: the word belongs to the page",
        f"The pfn in the PTE leads to an array of {size(held.side)} for a section of "
        f"{pages:,} pages. All PTEs that map a page have its word. {held.index} bytes of "
        "index find the array.",
        140,
    )
    plain = (("pfn, bits", PLAIN),)
    rows = [plain, (("bits", PLAIN), ("pfn", LINK)), plain, (("...", PLAIN),)]
    canvas.table(0, 34, 220, f"PTE table, {size(held.pte)}", rows)
    canvas.table(290, 34, 110, f"index, {held.index} B", [(("section", LINK),)])
    canvas.table(480, 34, 220, f"{pages:,} pages, {size(held.side)}", word_rows(64))
    by_the_middle(canvas)
    return canvas


def xarray() -> Canvas:
    held = filled("xarray", WIDE, [1], 5).memory()
    above = held.index // held.side
    canvas = Canvas(
        "xarray",
        "xarray: a radix tree by vpn",
        f"The vpn leads through {above} nodes to a last node whose slots are words. A "
        f"node has {held.side} bytes and 64 slots. One word takes "
        f"{held.side + held.index:,} bytes.",
        140,
    )
    canvas.text(0, 50, "vpn")
    canvas.arrow((32, 46), (74, 46))
    for at in range(above):
        canvas.box(80 + 66 * at, 34, 44, 24, "node", LINK)
        canvas.arrow((124 + 66 * at, 46), (144 + 66 * at, 46))
    x = 80 + 66 * above
    canvas.table(x + 4, 34, 200, f"last node, {held.side} B, 64 slots", word_rows(63))
    canvas.text(80, 82, f"{above} nodes of {held.side} B")
    return canvas


def hash_() -> Canvas:
    held = filled("hash", WIDE, [1], 5).memory()
    slots = held.side // 8
    canvas = Canvas(
        "hash",
        "hash: a hash table by vpn",
        f"The vpn, permuted, leads to a cache line of {held.side + held.index} bytes with "
        f"{slots} keys and {slots} words of 64 bits. If the line is full, the next one is "
        "searched. No bit of the PTE is taken.",
        110,
    )
    canvas.text(0, 70, "vpn")
    canvas.arrow((32, 66), (120, 66))
    canvas.text(76, 58, "hash", "middle", 11)
    keys = ("keys", LINK)
    words = [(f"word {at}", WORD) for at in range(slots)]
    title = f"line of {held.side + held.index} B: {held.index} B of keys, {held.side} B of words"
    canvas.table(126, 54, 580, title, [(keys, *words)])
    return canvas


def listed(bits: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(bits)))


DRAWINGS: dict[str, Callable[[], Canvas]] = {
    "inpte": inpte,
    "compact": compact,
    "adjacent": adjacent,
    "linked": linked,
    "adaptive": adaptive,
    "wide": wide,
    "page_ext": page_ext,
    "xarray": xarray,
    "hash": hash_,
}
