"""Dumps of a kernel's memory, by the real page tables of one; real/README.md has its making.

`EXTMETA_VMCORE=DUMP EXTMETA_VMLINUX=FILE` reads a whole dump of that guest by drgn.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import extmeta as em
from extmeta.captures.formats import page_tables, vmcore
from extmeta.linux.pagewords import (
    EXCLUSIVE,
    FILE,
    PAGE_BYTES,
    PRESENT,
    SOFT_DIRTY,
    UFFD_WP,
    present,
)

REAL = Path(__file__).parent / "real"
COMMAND = (sys.executable, "-m", "extmeta", "capture")
HEAD = (REAL / "vmcore-head.bin").read_bytes()
# The victim's memory is at 1 TiB. These are its first pages, by vmcore_victim.c.
AT = 1 << 28
HUGE, NONE, SHARED, ZERO, GUARDED = (AT + leaf * 512 for leaf in (16, 32, 48, 56, 64))

needs_drgn = pytest.mark.skipif(
    importlib.util.find_spec("drgn") is None, reason="needs drgn"
)


@pytest.fixture(scope="module")
def real():
    with np.load(REAL / "vmcore-page-tables.npz") as file:
        return SimpleNamespace(**file)


@pytest.fixture(scope="module")
def memory(real):
    pages = zip(real.address.tolist(), real.table, strict=True)
    return {address: table.tobytes() for address, table in pages}


@pytest.fixture(scope="module")
def found(real, memory):
    return page_tables.entries(int(real.root), 5, memory.__getitem__, len(memory))


@pytest.fixture(scope="module")
def cap(real, found):
    vmas = vmcore.Vmas(real.vma_start, real.vma_end, real.vma_flags, real.vma_name)
    known = {"vmpte_kb": 80, "kernel": "6.12.117+deb12", "comm": "init"}
    return vmcore._captured("process 1", vmas, found, known)


@pytest.fixture(scope="module")
def told():
    """What the process read from its own pagemap, by page."""
    lines = (REAL / "vmcore-pagemap.txt").read_text().split()
    words = [int(word, 16) for word in lines]
    return dict(zip(words[::2], words[1::2], strict=True))


def words_at_1_tib(cap):
    here = (cap.vpn >= AT) & (cap.vpn < AT + (1 << 20))
    return dict(zip(cap.vpn[here].tolist(), cap.entry[here].tolist(), strict=True))


def test_words_are_those_of_pagemap(cap, told):
    words = words_at_1_tib(cap)
    assert words.keys() == told.keys()
    # Pagemap adds the soft-dirty bit of the VMA to markers.
    markers = {GUARDED + page for page in range(16, 24)}
    for vpn, word in told.items():
        wanted = word & ~(SOFT_DIRTY if vpn in markers else 0) & ~EXCLUSIVE
        assert words[vpn] == wanted, f"{vpn:#x}"


def test_pages_are_those_that_the_program_touched(cap):
    words = words_at_1_tib(cap)
    plain = [vpn for vpn in words if vpn < HUGE]
    assert plain == list(range(AT, AT + 1000, 7))
    dirty = [vpn for vpn in plain if words[vpn] & SOFT_DIRTY]
    assert dirty == list(range(AT, AT + 1000, 21))
    assert cap.huge_vpn.tolist() == [HUGE]
    # mprotect() to PROT_NONE clears P, and the PTE's address is inverted.
    assert all(words[NONE + page] & PRESENT for page in range(32))
    assert all(words[SHARED + page] & FILE for page in range(0, 64, 4))
    assert len({words[ZERO + page] for page in range(0, 16, 2)}) == 1
    protected = [vpn for vpn in words if words[vpn] & UFFD_WP]
    assert protected == list(range(GUARDED, GUARDED + 24))
    assert cap.nr_markers == 8


def test_the_dump_tells_the_software_bits(cap, found):
    # 8 pages of zeros, 16 protected pages, 48 + 16 dirty ones at 1 TiB.
    bits = page_tables.software(found.pte)
    assert bits["SPECIAL"] >= 8
    assert bits["uffd_wp"] == 16
    assert bits["soft_dirty"] >= 64
    assert "bit 52" not in bits
    assert "uffd_wp 16, soft_dirty" in cap.about


def test_vmpte_of_the_dump_is_what_its_tables_need(cap):
    assert cap.empty_tables == 0
    assert cap.deposited_vpn.tolist() == [HUGE]


def test_vmas_of_the_dump(cap):
    start = (cap.vma_start // PAGE_BYTES).tolist()
    names = cap.vma_name.tolist()
    assert cap.vma_perms[start.index(AT)] == "rw-p"
    assert cap.vma_perms[start.index(NONE)] == "---p"
    assert cap.vma_perms[start.index(SHARED)] == "rw-s"
    assert {"init", "[heap]", "[stack]"} <= {*names}
    # vvar is device memory, whose words pagemap does not show.
    assert present(cap.entry).sum() * 4 == cap.vmrss_kb
    assert not np.isin(cap.vpn, cap.vma_start[names.index("[stack]") - 2] >> 12).any()


def table(**entries):
    made = np.zeros(512, np.uint64)
    for at, entry in entries.items():
        made[int(at[1:])] = entry
    return made.tobytes()


def test_tables_that_lead_to_themselves():
    loop = np.full(512, 0x1000 | 0x67, np.uint64).tobytes()
    with pytest.raises(em.CaptureError, match="more than 1000 page tables"):
        page_tables.entries(0x1000, 4, lambda _address: loop, 1000)


def test_what_maps_no_ptes_is_left_out():
    gib, migrating = 1 << 30 | 0xE7, 0x7C00_0000_0000_0000
    memory = {
        0: table(_0=0x1067, _300=0x1067),
        0x1000: table(_0=0x2067, _5=gib),
        0x2000: table(_0=0x3067, _1=migrating, _2=0x20_00E7),
        0x3000: table(_7=0x5067),
    }
    found = page_tables.entries(0, 4, memory.__getitem__, 4)
    assert found.left_out == 2
    assert (found.vpn.tolist(), found.huge_vpn.tolist()) == ([7], [1024])
    assert page_tables.words(found.pte).tolist() == [PRESENT | 5]
    assert page_tables.leaf_words(found.pmd).tolist() == [
        PRESENT | 0x200 + page for page in range(512)
    ]


@pytest.fixture
def refused(tmp_path):
    def check(data, reason, **options):
        path = tmp_path / "vmcore"
        path.write_bytes(data)
        with pytest.raises(em.CaptureError) as caught:
            em.read(path, **options)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert reason in message
        assert "\n" not in message

    return check


def test_without_drgn_it_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "drgn", None)
    refused(HEAD, "pip install 'extmeta[drgn]'")


def test_pid_and_vmlinux_of_another_format(refused):
    refused(bytes(64), "so it has no pid and no vmlinux", pid=1)
    refused(bytes(64), "so it has no pid and no vmlinux", vmlinux="x")


@needs_drgn
def test_a_dump_without_its_kernel(refused, tmp_path):
    none = tmp_path / "none"
    refused(HEAD, f"no debug information of the dumped kernel in {none}", vmlinux=none)
    refused(HEAD, "no debug information of the dumped kernel found: name its vmlinux")


@needs_drgn
def test_what_drgn_logs_is_not_printed(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(HEAD)
    # pytest itself handles what is logged here, so this is another process.
    said = subprocess.run(
        [*COMMAND, "--from", path, "--vmlinux", path, "-o", tmp_path / "out.npz"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert said.returncode
    assert said.stderr.count("\n") == 1
    assert "no debug information" in said.stderr


@needs_drgn
def test_a_core_of_no_kernel(refused):
    refused(HEAD.replace(b"VMCOREINFO", b"VMCOREINFI"), "load the qemu_fw_cfg")
    process = HEAD.replace(b"VMCOREINFO", b"VMCOREINFI").replace(b"QEMU", b"LINU")
    refused(process, "of no Linux kernel")
    refused(HEAD[:64], "drgn: ")


edits = st.lists(
    st.tuples(st.integers(18, len(HEAD)), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=6,
)


@needs_drgn
@hypothesis.given(edits=edits)
@hypothesis.settings(max_examples=50, deadline=None)
def test_fuzzed_head(tmp_path_factory, edits):
    made = bytearray(HEAD)
    for at, piece in edits:
        made[at : at + len(piece)] = piece
    where = tmp_path_factory.getbasetemp() / "fuzzed-vmcore"
    where.write_bytes(made)
    with pytest.raises(em.CaptureError):
        em.read(where, vmlinux=where)


@hypothesis.given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 20),
            st.integers(0, 511),
            st.integers(0, (1 << 64) - 1) | st.sampled_from([0x2340067, 0xE7, 0x67]),
        ),
        max_size=30,
    )
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_fuzzed_tables(real, changes):
    tables = real.table.copy()
    for which, at, entry in changes:
        tables[which, at] = entry
    pages = dict(zip(real.address.tolist(), tables, strict=True))

    def read(address):
        return pages[address].tobytes() if address in pages else bytes(PAGE_BYTES)

    vmas = vmcore.Vmas(real.vma_start, real.vma_end, real.vma_flags, real.vma_name)
    known = {"vmpte_kb": 80, "kernel": "6.12.117+deb12", "comm": "init"}
    tracemalloc.start()
    try:
        with contextlib.suppress(em.CaptureError):
            found = page_tables.entries(int(real.root), 5, read, 200)
            vmcore._captured("process 1", vmas, found, known)
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # 200 tables of leaves have 200 * 512 * 512 pages at most.
    assert most < 200 * 512 * 512 * 100


@needs_drgn
@pytest.mark.skipif(
    "EXTMETA_VMCORE" not in os.environ, reason="needs EXTMETA_VMCORE, EXTMETA_VMLINUX"
)
def test_whole_dump(cap):
    dump, vmlinux = (os.environ[f"EXTMETA_{key}"] for key in ("VMCORE", "VMLINUX"))
    for pid in (None, 1):
        assert em.read(dump, pid, vmlinux).sha256 == cap.sha256
    with pytest.raises(em.CaptureError, match="process 2 has no memory of its own"):
        em.read(dump, 2, vmlinux)
    with pytest.raises(em.CaptureError, match="no process 99999"):
        em.read(dump, 99999, vmlinux)
