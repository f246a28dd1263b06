"""Huge pages of processes: leaves in captures, with their deposited PTE tables."""

import dataclasses

import numpy as np
import pytest

# pylint: disable=redefined-outer-name
from test_capture import (
    FIRST,
    LEAF,
    PRESENT,
    Child,
    made,
    model_bytes,
    needs_pagemap_scan,
    no_pagemap_scan,  # noqa: F401
    table_bytes,
)

import extmeta as em
from extmeta.captures import huge
from extmeta.captures.capture import load_capture, shipped
from extmeta.captures.process import capture
from extmeta.captures.procfs import Vmas
from extmeta.cost import demands, sweep
from extmeta.cost.space import space_of
from extmeta.linux import pagewords
from extmeta.reports import comparison, notes, summary

# 8 MiB, aligned, with huge pages if there are any; AnonHugePages in KiB.
HUGE = """
PAGES = 2048
m = mmap.mmap(-1, (PAGES + 512) * 4096, flags=PRIVATE)
first = (address(m) + (2 << 20) - 1 & -(2 << 20)) >> 12
advise(first << 12, PAGES, 14)                # MADV_HUGEPAGE
ctypes.memset(first << 12, 1, PAGES * 4096)
def protect(vpn, pages, how):
    assert not libc.mprotect(
        ctypes.c_void_p(vpn << 12), ctypes.c_size_t(pages * 4096), how)
def kib():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps")
               if line.startswith("AnonHugePages"))
"""


@pytest.fixture
def child():
    """Start children; all are killed afterwards."""
    started = []

    def start(code):
        started.append(Child(f"{HUGE}\n{code}\nsay(first, kib())"))
        return started[-1]

    yield start
    for each in started:
        each.end()


def heard(process, leaves):
    """Return a child's first vpn, or skip if it hasn't got so many huge pages."""
    first, kib = process.hear()
    if kib != 2048 * leaves:
        pytest.skip(f"needs transparent huge pages: the kernel gave {kib} KiB")
    return first


def matches(cap):
    """Check that the model's tables are those of the kernel."""
    assert cap.settled
    assert cap.empty_tables == 0
    table = cap.build()
    table.check()
    assert model_bytes(table) == table_bytes(cap)
    return table


@needs_pagemap_scan
def test_anonymous_leaves_have_a_deposited_table(child):
    process = child("")
    first = heard(process, 4)
    cap = capture(process.pid)
    leaves = list(range(first, first + 2048, LEAF))
    assert cap.huge_vpn.tolist() == cap.deposited_vpn.tolist() == leaves
    assert cap.unmarked == 0
    assert not cap.vma_anon_huge_kb.any()
    table = matches(cap)
    assert not set(leaves) & set(table.tables)
    before = table.memory()
    table.split_huge(first)
    assert table.memory() == before
    assert matches(cap).fork().memory().pte == before.pte


# A fork writes to no page of its own here: it maps the same huge pages.
@needs_pagemap_scan
def test_a_fork_of_a_process_with_huge_pages(child):
    process = child("""
if (pid := os.fork()) == 0:
    wait()
    os._exit(0)
say(pid)
""")
    (pid,) = process.hear()
    heard(process, 4)
    cap = capture(pid)
    assert len(cap.deposited_vpn) == 4
    matches(cap)


@needs_pagemap_scan
def test_huge_pages_split_in_part(child):
    """The first lacks a page, the second is write-protected in part, the third is gone."""
    process = child("""
advise((first << 12) + 5 * 4096, 1, 4)        # MADV_DONTNEED
protect(first + 512 + 7, 3, 1)
advise((first + 1024) << 12, 512, 4)
""")
    first = heard(process, 1)
    cap = capture(process.pid)
    assert cap.deposited_vpn.tolist() == [first + 3 * LEAF]
    table = matches(cap)
    assert {first, first + LEAF} <= set(table.tables)


@needs_pagemap_scan
def test_the_huge_page_of_zeros(child):
    """It is mapped by a leaf with a deposited table, and AnonHugePages lacks it."""
    process = child("""
z = mmap.mmap(-1, 4 << 20, flags=PRIVATE)
start = address(z) + (2 << 20) - 1 & -(2 << 20)
advise(start, 512, 14)
ctypes.string_at(start, 1)
""")
    heard(process, 4)
    cap = capture(process.pid)
    if len(cap.huge_vpn) == 4:
        pytest.skip("needs use_zero_page")
    assert len(cap.deposited_vpn) == 5
    matches(cap)


# --- where the kernel has no PAGEMAP_SCAN ----------------------------------------


@pytest.mark.usefixtures("no_pagemap_scan")
def test_leaves_are_placed_where_nothing_else_can_be(child):
    process = child("")
    first = heard(process, 4)
    cap = capture(process.pid)
    assert cap.deposited_vpn.tolist() == list(range(first, first + 2048, LEAF))
    assert not cap.vma_anon_huge_kb.any()
    matches(cap)


@pytest.mark.usefixtures("no_pagemap_scan")
def test_leaves_without_a_place_are_counted(child):
    """One was split and looks like the others again: its pages are still neighbours."""
    process = child("""
protect(first + 7, 1, 1)
protect(first + 7, 1, 3)
""")
    heard(process, 3)
    cap = capture(process.pid)
    assert len(cap.huge_vpn) == 0
    assert cap.vma_anon_huge_kb.sum() == 3 * 2048
    # Each has the table that its 512 PTEs would need.
    matches(cap)
    text = summary.text(summary.summary(cap, "a"))
    assert "leaves    0 of 2 MiB, and 6.0 MiB more at places unknown\n" in text
    subject = next(iter(sweep.ram(space_of(cap, "a"), [], em.Fields(a=1), [])))
    assert subject.nr_unplaced == 3
    assert "3 huge pages are counted as 512 PTEs each" in comparison.text([subject], {})


def vmas(*bounds, anonymous, files):
    """Return rows of smaps by first vpn and vpn past the end, with KiB of leaves."""
    start, end = (
        np.array(side, np.uint64) << np.uint64(12) for side in zip(*bounds, strict=True)
    )
    text = np.full(len(bounds), "")
    kib = [np.array(each, np.uint64) for each in (files, anonymous)]
    return Vmas(start, end, text, text, text, start, *kib)


def words(*leaves):
    """Return vpns and words of spans of 512 pages: (first vpn, bits, first PFN)."""
    at = np.arange(LEAF, dtype=np.uint64)
    vpn = [first + at for first, _bits, _pfn in leaves]
    entry = [(PRESENT | bits) + pfn + (pfn and at) for _first, bits, pfn in leaves]
    entry = [each * np.ones(LEAF, np.uint64) for each in entry]
    return np.concatenate(vpn), np.concatenate(entry)


F = pagewords.FILE
A, B, C = FIRST, FIRST + LEAF, FIRST + 2 * LEAF


@pytest.mark.parametrize(
    ("leaves", "anonymous", "files", "found"),
    [
        ([(A, 0, 0), (B, 0, 0)], 4096, 0, [A, B]),
        ([(A, 0, 0), (B, 0, 0)], 2048, 0, []),
        ([(A, 0, 0), (B, 0, 0)], 0, 0, []),
        # Files and anonymous memory of one VMA are apart.
        ([(A, 0, 0), (B, F, 0), (C, F, 0)], 2048, 2048, [A]),
        ([(A, 0, 0), (B, F, 0), (C, F, 0)], 2048, 4096, [A, B, C]),
        # PFNs, where they are known, tell more.
        ([(A, 0, 1024), (B, 0, 2047)], 2048, 0, [A]),
        ([(A, 0, 1024), (B, 0, 1536)], 2048, 0, []),
    ],
)
def test_places(leaves, anonymous, files, found):
    given = vmas((A, C + LEAF), anonymous=[anonymous], files=[files])
    placed, files_left, left = huge.placed(given, *words(*leaves))
    assert placed.tolist() == found
    assert left.tolist() == [anonymous * (A not in found)]
    assert files_left.tolist() == [files * (B not in found)]


def test_what_can_be_no_leaf():
    vpn, entry = words((A, 0, 0), (B, 0, 0), (C, 0, 0))
    bounds = huge.vpn_bounds(*vmas((A, C + LEAF), anonymous=[0], files=[0])[:2])

    def possible(change, there=slice(None)):
        changed = entry.copy()
        for place, bits in change.items():
            changed[place] ^= np.uint64(bits)
        return huge.possible(bounds, vpn[there], changed[there]).tolist()

    assert possible({}) == [A, B, C]
    # Mapped once or more often is of each page.
    assert possible({3: pagewords.EXCLUSIVE, 515: pagewords.EXCLUSIVE}) == [A, B, C]
    assert possible({0: pagewords.SOFT_DIRTY}) == [B, C]
    assert possible({511: pagewords.UFFD_WP, 1024: pagewords.FILE}) == [B]
    assert possible({}, slice(1, None)) == [B, C]
    assert possible({}, slice(None, -1)) == [A, B]
    assert possible({i: 3 << 62 for i in range(512)}) == [B, C]
    assert huge.possible(bounds[:0], vpn, entry).tolist() == []
    assert huge.possible(bounds, vpn[:0], entry[:0]).tolist() == []


# --- what captures say -----------------------------------------------------------


def test_made_by_hand(tmp_path):
    """Two anonymous leaves, and one of the file that the VMA maps."""
    bits = np.repeat(np.array([0, 0, F], np.uint64), LEAF)
    cap = made(
        {},
        vpn=np.arange(A, C + LEAF, dtype=np.uint64),
        entry=np.uint64(PRESENT) | bits,
        huge_vpn=np.array([A, B, C], np.uint64),
        huge_marked=True,
        vma_name=np.array(["file"]),
        vmpte_kb=4 * (2 + 1 + 1),
    )
    assert cap.deposited_vpn.tolist() == [A, B]
    assert cap.tables_needed() == (2, 1, 1, 0)
    matches(cap)
    assert cap.occupancy().sum() == 0
    # Without a file, bit 61 is of the huge page of zeros.
    zeros = dataclasses.replace(cap, vma_name=np.array(["[heap]"]))
    assert zeros.deposited_vpn.tolist() == [A, B, C]
    for change in ({"vma_perms": ["rw-s"]}, {"vma_flags": ["rd wr ht"]}):
        other = {key: np.array(value) for key, value in change.items()}
        assert dataclasses.replace(cap, **other).deposited_vpn.tolist() == []
    cap.save(tmp_path / "a")
    again = load_capture(tmp_path / "a")
    assert again.sha256 == cap.sha256
    assert again.huge_marked


def test_pfns_of_leaves_are_kept():
    cap = made(
        {i: PRESENT | 512 + i for i in range(LEAF)} | {LEAF: PRESENT | 7},
        huge_vpn=np.array([FIRST], np.uint64),
    )
    table = cap.build()
    table.split_huge(FIRST)
    ptes = table.tables[FIRST] >> np.uint64(12) & np.uint64((1 << 40) - 1)
    assert ptes.tolist() == list(range(512, 1024))


def test_a_capture_without_marks_says_so():
    """Files of before have no `huge_marked`. Their digest is what it was."""
    cap = load_capture(shipped()["redis"])
    assert not cap.huge_marked
    assert cap.unmarked > 0
    assert cap.sha256 in (shipped()["redis"].parent / "README.md").read_text()
    text = summary.text(summary.summary(cap, "redis"))
    assert f"perhaps up to {cap.unmarked:,} more, which are not marked" in text
    marked = dataclasses.replace(cap, huge_marked=True)
    assert marked.unmarked == 0
    assert marked.sha256 != cap.sha256
    assert "perhaps" not in summary.text(summary.summary(marked, "redis"))
    # Nothing in it can be a huge page: known without marks.
    assert made({0: PRESENT}).unmarked == 0


@pytest.mark.parametrize("form", em.encodings())
def test_compare_tells_what_a_split_takes(form):
    """Bytes of side memory: the deposited tables are used, so no table is added."""
    bits = np.repeat(np.array([0, 0], np.uint64), LEAF)
    cap = made(
        {},
        vpn=np.arange(A, C + 1, dtype=np.uint64),
        entry=np.full(2 * LEAF + 1, PRESENT, np.uint64) | np.append(bits, np.uint64(0)),
        huge_vpn=np.array([A, B], np.uint64),
        huge_marked=True,
    )
    space = space_of(cap, "two")
    fields = em.Fields(uffd_wp=1)
    base, *rows = demands.splits(space, [form], fields)
    assert (base.encoding, base.leaves, base.nbytes) == ("inpte", 2, 0)
    side = {"linked": 2 * 64, "wide": 0, "adjacent": 0, "inpte": None}
    for row in rows:
        assert row.encoding == form
        assert row.leaves == 2
        # A bit of each PTE in a side page; what is there from the start is not added.
        assert row.nbytes == side.get(form, row.nbytes)
        assert row.nbytes >= 0
    head = next(iter(sweep.ram(space, [], fields, [])))
    text = " ".join(comparison.text([head, base, *rows], {}).split())
    assert "(2 huge pages, 2 of them anonymous)" in text
    assert "2 of 2 were split" in text
    again, _provenance = comparison.from_json(
        comparison.to_json([head, base, *rows], {})
    )
    assert again == [head, base, *rows]


def test_compare_of_a_capture_without_marks_says_so():
    cap = load_capture(shipped()["redis"])
    head = next(iter(sweep.ram(space_of(cap, "r"), [], em.Fields(a=1), [])))
    assert head.nr_unmarked == cap.unmarked
    text = " ".join(comparison.text([head], {}).split())
    assert f"Up to {cap.unmarked:,} anonymous huge pages may be counted" in text
    assert notes.NO_HUGE not in text
    assert list(demands.splits(space_of(cap, "r"), [], em.Fields(a=1))) == []
