"""Files of other programs: real ones, damaged ones, hostile ones.

real/README.md says what made each. A `Capture` or a CaptureError in one line is all that
may come of any bytes, and memory follows the size of the file.
"""

import importlib.util
import json
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import extmeta as em
from extmeta.captures import procfs, read
from extmeta.captures.formats import criu, damo, dirty_bitmap, saved_proc, source
from extmeta.linux.pagemap_scan import PageIs, pagemap_scan
from extmeta.linux.pagewords import (
    EXCLUSIVE,
    FILE,
    PAGE_BYTES,
    PRESENT,
    SOFT_DIRTY,
    SWAP_OFFSET_SHIFT,
    SWAPPED,
    UFFD_WP,
)
from extmeta.workloads import Ages, Precopy, replay

REAL = Path(__file__).parent / "real"
DUMPS = REAL / "criu"


def u64(*values):
    return np.array(values, np.uint64)


def soft_dirty(capture):
    return capture.vpn[capture.entry & np.uint64(SOFT_DIRTY) != 0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


@pytest.fixture
def refused(path):
    """Assert that the file is refused in one line with its name and a reason."""

    def check(reason, where=path):
        with pytest.raises(em.CaptureError) as caught:
            em.read(where)
        message = str(caught.value)
        assert message.startswith(f"{where}: ")
        assert reason in message
        assert "\n" not in message

    return check


# --- the registry -------------------------------------------------------------


def test_a_capture_is_read_as_load_capture_does(path):
    shutil.copy(em.shipped()["redis"], path)
    assert em.read(path).sha256 == em.load_capture("redis").sha256
    assert em.read("redis").sha256 == em.load_capture("redis").sha256


@pytest.mark.parametrize("data", [b"", b"hello\n" * 9, b"\x7fELF" * 8, b"\0" * 9])
def test_unknown_content_names_what_was_tried(path, refused, data):
    path.write_bytes(data)
    for form in read.FORMATS:
        refused(form.NAME)


def test_unknown_directory(tmp_path, refused):
    refused("of no known format", tmp_path)


def test_pipe(path, refused):
    os.mkfifo(path)
    refused("neither a regular file nor a directory")
    with pytest.raises(em.CaptureError, match="file: neither a regular file"):
        em.read_writes([path])


def test_missing_file(path):
    with pytest.raises(FileNotFoundError):
        em.read(path)


# --- dirty bitmaps --------------------------------------------------------------


def test_kvm_dirty_log():
    cap = em.read(REAL / "kvm-dirty-log.bin")
    # The guest's code says which pages it writes.
    first = int(cap.vma_start[0]) // PAGE_BYTES
    assert (soft_dirty(cap) - first).tolist() == list(range(0x10, 0xA0, 3))
    assert len(cap.vpn) == 48
    assert cap.vma_end - cap.vma_start == 64 << 20
    need = cap.tables_needed()
    assert cap.vmpte_kb == 4 * (need.pte + need.pmd + need.pud)


def test_tables_of_a_bitmap_are_those_of_its_pages(path):
    words = np.zeros(1 << 23, np.uint64)
    words[[0, 7, 8, 4095, 4096, 5000, 1 << 21, (1 << 23) - 1]] = 1 << 63
    words.tofile(path)
    cap = em.read(path)
    need = cap.tables_needed()
    assert cap.vmpte_kb == 4 * (need.pte + need.pmd + need.pud)
    assert cap.empty_tables == 0


def test_a_bitmap_of_too_many_pages(path, refused, monkeypatch):
    monkeypatch.setattr(dirty_bitmap.npz, "MAX_ENTRIES", 100)
    path.write_bytes(b"\xff" * 16)
    refused("128 pages are more than 100")


def test_bitmap_of_clean_pages(path):
    path.write_bytes(bytes(512))
    cap = em.read(path)
    assert len(cap.vpn) == 0
    assert cap.vma_end - cap.vma_start == 512 * 8 * PAGE_BYTES


def test_logs_in_a_row_are_a_write_trace(tmp_path):
    logs = [REAL / f"kvm-dirty-log{which}.bin" for which in ("", "-5", "-7")]
    trace = em.read_writes(logs, interval=0.5)
    first = int(trace.vmas[0, 0])
    for number, step in enumerate((3, 5, 7)):
        pages = trace.round(number) - np.uint64(first)
        assert pages.tolist() == list(range(0x10, 0xA0, step))
    assert (trace.nr_rounds, trace.interval) == (3, 0.5)
    assert trace.nr_pages == 16_384
    trace.save(tmp_path / "trace.npz")
    assert em.load_trace(tmp_path / "trace.npz").vpns.tolist() == trace.vpns.tolist()
    replayed = replay(trace, Precopy(threshold=0), "adaptive").counts()
    assert replayed["written"] == tuple(len(trace.round(n)) for n in range(3))


def test_what_is_no_series_of_bitmaps(path, monkeypatch):
    with pytest.raises(em.CaptureError, match="no dirty bitmap"):
        em.read_writes([])
    with pytest.raises(em.CaptureError, match=r"l[.]txt: not a dirty bitmap"):
        em.read_writes([REAL / "page-types-l.txt"])
    path.write_bytes(bytes(8))
    with pytest.raises(em.CaptureError, match=r"file: 1 words, but .*log\.bin has 256"):
        em.read_writes([REAL / "kvm-dirty-log.bin", path])
    monkeypatch.setattr(dirty_bitmap, "MAX_WRITTEN", 60)
    with pytest.raises(em.CaptureError, match=r"5[.]bin: more than 60 pages"):
        em.read_writes([REAL / "kvm-dirty-log.bin", REAL / "kvm-dirty-log-5.bin"])


# --- migration streams of QEMU ------------------------------------------------------

STREAM = lzma.decompress((REAL / "qemu-migration.xz").read_bytes())
# The guest's firmware says which pages it writes, and the stream's head how long is what
# comes before the first page.
WRITTEN = list(range(0x10, 0xA0, 3))
SECTION = STREAM.index(b"\x03ram") - 5
FIRST_PAGE = STREAM.index(b"\x06pc.ram", STREAM.index(b"rsdp")) - 8


def test_pages_that_were_sent_again_are_soft_dirty(path):
    path.write_bytes(STREAM)
    cap = em.read(path)
    first = int(cap.vma_start[0]) // PAGE_BYTES
    assert (soft_dirty(cap) - first).tolist() == WRITTEN
    assert cap.vma_name[0] == "pc.ram"
    assert cap.vma_end[0] - cap.vma_start[0] == 4 << 20
    assert (cap.vma_start % (2 << 20) == 0).all()
    # 1 MiB and 4 KiB of firmware, ACPI tables and their loader, and the guest's memory.
    assert {"pc.bios", "/rom@etc/acpi/tables"} <= {*cap.vma_name.tolist()}
    assert len(cap.vpn) == 53
    assert "5 passes" in cap.about
    assert "1,053 pages of zeros" in cap.about


def test_passes_of_a_migration_are_a_write_trace(path, tmp_path):
    path.write_bytes(STREAM)
    trace = em.read_writes([path], interval=0.5)
    first = int(trace.vmas[0, 0])
    assert trace.nr_rounds == 4
    for number in range(4):
        assert (trace.round(number) - np.uint64(first)).tolist() == WRITTEN
    trace.save(tmp_path / "trace.npz")
    assert em.load_trace(tmp_path / "trace.npz").how == "QEMU migration"


def pages_of_stream(*words):
    """Return a stream whose memory's pages are those of some words."""
    data = b"".join(word.to_bytes(8, "big") + more for word, more in words)
    ends = (0x10).to_bytes(8, "big") + b"\x7e" + (2).to_bytes(4, "big")
    return STREAM[:FIRST_PAGE] + data + ends + b"\3" + (2).to_bytes(4, "big") + ends


RAM = b"\6pc.ram"


def test_zeros_that_were_sent_again_are_mapped(path):
    path.write_bytes(
        pages_of_stream(
            (0x1002, RAM + b"\0"),
            (0x3022, b"\0"),
            (0x1022, b"\0"),
            (0x5028, bytes(PAGE_BYTES)),
        )
    )
    cap = em.read(path)
    first = int(cap.vma_start[0]) // PAGE_BYTES
    assert (cap.vpn - first).tolist() == [1, 5]
    assert (soft_dirty(cap) - first).tolist() == [1]


def test_a_migration_of_one_pass_has_no_writes(path):
    path.write_bytes(pages_of_stream((0x1002, RAM + b"\0")))
    assert len(em.read(path).vpn) == 0
    with pytest.raises(em.CaptureError, match="file: no page was sent a second time"):
        em.read_writes([path])
    with pytest.raises(em.CaptureError, match="file: not a dirty bitmap"):
        em.read_writes([path, path])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (STREAM[:8], "ends within its memory"),
        (STREAM[:FIRST_PAGE], "ends within its memory"),
        (STREAM[:-300_000], "ends within its memory"),
        (STREAM[:8] + b"\4" * 99, "a section of type 4 before the end of memory"),
        (STREAM[:8] + b"\2" * 99, "section 33686018 before the end of memory"),
        (STREAM.replace(b"\3ram", b"\3rum"), "section 'rum' before the end of memory"),
        (STREAM[:8] + b"\7" + b"\xff" * 99, "ends within its memory"),
        (pages_of_stream((0x1022, b"\0")), "the first page is of no memory block"),
        (pages_of_stream((0x1002, b"\1x\0")), "no memory block 'x'"),
        (
            pages_of_stream((1 << 40 | 2, RAM)),
            "address 0x10000000000 is not in 'pc.ram'",
        ),
        (pages_of_stream((0x1048, RAM)), "flags 0x48: neither whole nor zeros"),
        (pages_of_stream((0x1004, b"\1x" + bytes(8))), "block 'x' of 0 bytes"),
        (pages_of_stream((0x1004, b"\1x" + b"\xff" * 8)), "block 'x' of 1844"),
        (
            pages_of_stream((0x1004, b"\1x" + b"\xff" * 6 + b"\xf0\0")),
            "block 'x' of 1844",
        ),
        (
            STREAM[:SECTION] + STREAM[SECTION:].replace(b"\x7e\0", b"\x7f\0", 1),
            "no footer",
        ),
    ],
)
def test_hostile_stream(path, refused, data, reason):
    path.write_bytes(data)
    refused(reason)


# --- records of damo ----------------------------------------------------------------

RECORD = zlib.decompress((REAL / "damo-record").read_bytes())


def accessed_regions():
    """Return the accessed regions of each snapshot, in pages from 1 TiB on."""
    (record,) = json.loads(RECORD)
    return [
        [
            [
                (int(region[end].replace(",", "")) >> 12) - (1 << 28)
                for end in ("start", "end")
            ]
            for region in snapshot["regions"]
            if region["nr_accesses"]["samples"]
        ]
        for snapshot in record["snapshots"]
    ]


def test_pages_of_accessed_regions(path):
    cap = em.read(REAL / "damo-record")
    pages = {
        page
        for each in accessed_regions()
        for region in each
        for page in range(*region)
    }
    assert (cap.vpn - (1 << 28)).tolist() == sorted(pages)
    # damo_victim.c writes to 8 MiB, and then to another 8 MiB.
    assert {*range(2048), *range(14_336, 16_384)} - pages == set()
    assert "snapshots" in cap.about
    path.write_bytes(RECORD)
    assert em.read(path).sha256 == cap.sha256


def test_snapshots_of_a_record_are_a_trace(tmp_path):
    trace = em.read_writes([REAL / "damo-record"], interval=7)
    regions = accessed_regions()
    assert trace.nr_rounds == len(regions)
    for number, each in enumerate(regions):
        pages = [page for region in each for page in range(*region)]
        assert (trace.round(number) - np.uint64(1 << 28)).tolist() == pages
    # In nanoseconds.
    snapshots = json.loads(RECORD)[0]["snapshots"]
    taken = int(snapshots[-1]["end_time"]) - int(snapshots[0]["start_time"])
    assert trace.interval == pytest.approx(taken / len(snapshots) / 1e9)
    assert replay(trace, Ages(), "adaptive").counts()
    trace.save(tmp_path / "trace.npz")
    assert em.load_trace(tmp_path / "trace.npz").how == "DAMON"


def record(*regions, **more):
    """Return a record of one snapshot, its regions as (start, end, samples)."""
    snapshot = {
        "start_time": "0",
        "end_time": "5",
        "regions": [
            {"start": start, "end": end, "nr_accesses": {"samples": samples}}
            for start, end, samples in regions
        ],
    }
    one = {"kdamond_idx": 0, "snapshots": [snapshot], **more}
    return json.dumps([one], indent=4).encode()


def test_a_region_without_an_access_is_not_read(path):
    path.write_bytes(record(("4,096", "8,192", 0), (8192, 20480, 1), (0, 1 << 46, 0)))
    assert em.read(path).vpn.tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (record((0, 1 << 46, 1)), "pages are more than"),
        (record((0, 4095, 1)), "region [0x0, 0xfff)"),
        (record((8192, 4096, 1)), "region [0x2000, 0x1000)"),
        (record((0, 1 << 70, 1)), "region [0x0, 0x400000000000000000)"),
        (record(("x", 4096, 1)), "ValueError: invalid literal"),
        (record((None, 4096, 1)), "TypeError: "),
        (record((0, 4096, 1e400)), "OverflowError: "),
        (record((0, 4096, -1)), "-1 samples"),
        (record(snapshots=[]), "no snapshot"),
        (record(snapshots=[{}]), "KeyError: 'start_time'"),
        (record()[:-2] + b", {}]", "records of 2 targets"),
        (record()[:-9], "JSONDecodeError: "),
        (record()[:-2] + b"," + b"[" * 100_000, "RecursionError: "),
        (zlib.compress(record())[:-9], "cut short"),
    ],
)
def test_wrong_record(path, refused, data, reason):
    path.write_bytes(data)
    refused(reason)


@pytest.mark.parametrize("end", ["-1", "9" * 400])
def test_a_record_of_no_time(path, end):
    path.write_bytes(record((0, 4096, 1)).replace(b'"5"', f'"{end}"'.encode()))
    assert em.read(path).vpn.tolist() == [0]
    with pytest.raises(em.CaptureError, match=r"from 0 to .* ns"):
        em.read_writes([path])


def test_a_record_that_is_a_bomb(path, refused, monkeypatch):
    path.write_bytes(zlib.compress(record() + b" " * (1 << 22)))
    refused("or its text is more than")
    monkeypatch.setattr(damo, "MAX_TEXT_BYTES", 1000)
    path.write_bytes(zlib.compress(record() + b" " * 1000))
    refused("more than 1000 bytes")
    path.write_bytes(record() + b" " * 1000)
    refused("more than 1000")


# --- CRIU -----------------------------------------------------------------------

needs_protobuf = pytest.mark.skipif(
    importlib.util.find_spec("google") is None
    or importlib.util.find_spec("google.protobuf") is None,
    reason="needs protobuf",
)


@pytest.fixture
def dumps(tmp_path):
    """A copy of the dumps, with the link to the parent."""
    shutil.copytree(DUMPS, tmp_path / "criu")
    (tmp_path / "criu/2/parent").symlink_to("../1")
    return tmp_path / "criu"


def pages_of_crit(folder, in_parent=(True, False)):
    return [
        page
        for address, count, away in json.loads((folder / "crit.json").read_text())
        if away in in_parent
        for page in range(address // PAGE_BYTES, address // PAGE_BYTES + count)
    ]


@needs_protobuf
@pytest.mark.parametrize("number", "123")
def test_pages_of_a_dump_are_those_that_crit_counts(dumps, number):
    assert em.read(dumps / number).vpn.tolist() == pages_of_crit(dumps / number)


@needs_protobuf
def test_pages_written_since_the_parent_are_soft_dirty(dumps):
    stored = pages_of_crit(dumps / "2", (False,))
    assert 0 < len(stored) < len(pages_of_crit(dumps / "2"))
    assert soft_dirty(em.read(dumps / "2")).tolist() == stored
    assert len(soft_dirty(em.read(dumps / "3"))) == 0


@needs_protobuf
def test_vmas_and_name_of_a_dump(dumps):
    cap = em.read(dumps / "3")
    assert cap.comm == "victim"
    # victim.c: 8 MiB at 1 TiB, writable and private; then 4 MiB at 2 TiB.
    at = cap.vma_start.tolist().index(1 << 40)
    assert cap.vma_end[at : at + 2].tolist() == [0x10000800000, 0x20000400000]
    assert cap.vma_perms[at] == "rw-p"
    assert {"[heap]", "[vdso]"} <= {*cap.vma_name.tolist()}
    assert "rw-s" in cap.vma_perms
    assert em.read(dumps / "1").comm == "not known"


@needs_protobuf
@pytest.mark.parametrize("name", ["pagemap", "mm", "core"])
def test_a_dump_is_known_by_each_of_its_files(dumps, name):
    cap = em.read(dumps / f"2/{name}-159.img")
    assert cap.sha256 == em.read(dumps / "2").sha256


@needs_protobuf
def test_a_dump_without_its_parent_is_read(dumps):
    (dumps / "2/parent").unlink()
    cap = em.read(dumps / "2")
    assert "The parent is not there." in cap.about
    assert soft_dirty(cap).tolist() == pages_of_crit(dumps / "2", (False,))


@needs_protobuf
def test_a_page_that_no_parent_has(dumps, refused):
    (dumps / "2/parent").unlink()
    (dumps / "2/parent").symlink_to(".")
    refused("is in no parent", dumps / "2")


@needs_protobuf
def test_images_of_two_processes(dumps, refused):
    shutil.copy(dumps / "3/pagemap-159.img", dumps / "3/pagemap-7.img")
    refused("images of processes 7, 159; name a file of one", dumps / "3")


@needs_protobuf
def test_an_image_of_another_name(dumps, refused):
    where = (dumps / "3/pagemap-159.img").rename(dumps / "3/other")
    refused("other is not named as CRIU names images", where)


@needs_protobuf
def test_a_dump_without_a_pagemap(dumps, refused):
    (dumps / "3/pagemap-159.img").unlink()
    refused("pagemap-159.img is not there", dumps / "3")


def test_without_protobuf_it_says_what_to_install(dumps, refused, monkeypatch):
    criu._classes.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    refused("pip install 'extmeta[criu]'", dumps / "3")
    criu._classes.cache_clear()


def image(*messages):
    head = struct.pack("<II", criu.COMMON, criu.MAGICS["pagemap"])
    return head + b"".join(struct.pack("<I", len(m)) + m for m in messages)


@needs_protobuf
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (image(b"\x08\x01", b"\x08\x01\x10\x01"), "vaddr 0x1"),
        (image(b"\x08\x01", b"\x10" + b"\xff" * 8 + b"\x7f"), "pages"),
        (image(b"\x08\x01", b"\x10\x80\x80\x80\x80\x08"), "pages are more than"),
        (image(b"\x08\x01", b"\xff\xff"), "pagemap-1.img: "),
        (image(b"\x08\x01")[:-1], "a message of 2 bytes is not all there"),
        (b"text", "does not begin an image"),
    ],
)
def test_hostile_image(tmp_path, refused, data, reason):
    (tmp_path / "pagemap-1.img").write_bytes(data)
    refused(reason, tmp_path)


# --- page-types -----------------------------------------------------------------


def test_lists_of_pages_and_of_runs_agree():
    each, runs = (em.read(REAL / f"page-types-{how}.txt") for how in "Ll")
    assert each.sha256 == runs.sha256
    lines = (REAL / "page-types-L.txt").read_text().partition("\n\n")[0].splitlines()
    assert len(each.vpn) == len(lines) - 1
    page, pfn, _flags = lines[1].split()
    assert int(each.vpn[0]) == int(page, 16)
    assert int(each.entry[0]) & (1 << 55) - 1 == int(pfn, 16)


def test_flags_of_page_types(path):
    path.write_text("voffset\toffset\tflags\n1000\t5\t__w_\n1001\t7\tM_f1F\n")
    swapped, present = em.read(path).entry.tolist()
    assert swapped == SWAPPED | 5 << SWAP_OFFSET_SHIFT
    assert present == PRESENT | SOFT_DIRTY | EXCLUSIVE | FILE | 7


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("1000\t5\n", "2 fields, in lines of 3"),
        ("1000\t5\t____\n", "page 0x1000 has no flag"),
        ("1000\tx\tM\n", "invalid literal"),
        (f"{1 << 70:x}\t5\tM\n", "too large"),
        (f"1000\t{1 << 50:x}\tM\n", "page 0x1000: offset"),
        (f"{1 << 50:x}\t5\tM\n", ""),
        ("1000\t5\tM\n1000\t5\tM\n", "vpn 0x1000 comes after vpn 0x1000"),
    ],
)
def test_wrong_list(path, refused, rows, reason):
    path.write_text(f"voffset\toffset\tflags\n{rows}")
    refused(reason)


def test_a_run_that_is_too_long(path, refused):
    path.write_text("voffset\toffset\tlen\tflags\n1000\t5\tfffffffff\tM\n")
    refused("pages are more than")


# --- PAGEMAP_SCAN and saved files of /proc ----------------------------------------


@pytest.fixture
def sleeper():
    pipe = subprocess.PIPE
    with subprocess.Popen(["cat"], stdin=pipe, stdout=pipe) as process:
        # After its first line it touches no new page.
        process.stdin.write(b"line\n")
        process.stdin.flush()
        assert process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.fixture
def scanned(sleeper):
    """A process, its capture, and its regions."""
    cap = em.capture(sleeper, stop=True)
    with open(f"/proc/{sleeper}/pagemap", "rb") as pagemap:
        try:
            regions = pagemap_scan(
                pagemap.fileno(),
                0,
                (1 << 47) - PAGE_BYTES,
                anyof=PageIs.PRESENT | PageIs.SWAPPED,
                returned=PageIs.PRESENT | PageIs.SWAPPED | PageIs.FILE | PageIs.HUGE,
            )
        except OSError:
            pytest.skip("needs PAGEMAP_SCAN")
    return cap, regions


@pytest.mark.parametrize("saved", ["npy", "raw", "big-endian"])
def test_regions_of_a_process(path, scanned, saved):
    cap, regions = scanned
    with path.open("wb") as file:
        if saved == "npy":
            np.save(file, regions)
        elif saved == "raw":
            regions.tofile(file)
        else:
            np.save(file, np.asfortranarray(regions.astype(">u8")))
    found = em.read(path)
    assert found.vpn.tolist() == cap.vpn.tolist()
    # Present, swapped and file.
    assert ((found.entry ^ cap.entry) >> np.uint64(61) == 0).all()


def test_categories(path):
    at = 1 << 30
    kinds = [
        (PageIs.PRESENT | PageIs.SOFT_DIRTY, PRESENT | SOFT_DIRTY),
        (PageIs.SWAPPED, SWAPPED),
        (PageIs.PRESENT | PageIs.WPALLOWED, PRESENT | UFFD_WP),
        (PageIs.PRESENT | PageIs.WPALLOWED | PageIs.WRITTEN, PRESENT),
    ]
    u64(
        *(
            (at + i * 4096, at + (i + 1) * 4096, kind)
            for i, (kind, _) in enumerate(kinds)
        )
    ).tofile(path)
    assert em.read(path).entry.tolist() == [word for _, word in kinds]


def test_leaves_of_regions(path):
    at = 1 << 30
    u64((at - 4096, at, 8), (at, at + (1 << 22), 8 | 64)).tofile(path)
    cap = em.read(path)
    assert (cap.huge_vpn << 12).tolist() == [at, at + (1 << 21)]
    assert cap.huge_marked


# More bytes than a format looks at to recognise a file.
GOOD = [(i << 13, (i << 13) + PAGE_BYTES, 8) for i in range(1, 200)]


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        ((1 << 30, 1 << 45, 8), "pages are more than"),
        ((1 << 30, 1 << 60, 8), "region 199 is [0x40000000, 0x1000000000000000)"),
        ((1 << 30, 1 << 29, 8), "region 199 is [0x40000000, 0x20000000)"),
        ((1 << 30, 1 << 31, 1 << 20), "categories 0x100000"),
        ((1 << 30, (1 << 31) + 1, 8), "region 199"),
        ((0, PAGE_BYTES, 8), "region 199 is [0x0, 0x1000)"),
    ],
)
def test_wrong_region(path, refused, region, reason):
    u64(*GOOD, region).tofile(path)
    refused(reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x93NUMPY", "does not start a .npy file"),
        (b"\x93NUMPY\1\0\x09\0{'a': 1}\n", "is of no plain array"),
    ],
)
def test_damaged_array(path, refused, data, reason):
    path.write_bytes(data)
    refused(reason)


def test_array_of_another_shape(path, refused):
    with path.open("wb") as file:
        np.save(file, np.zeros((4, 2), np.uint64))
    refused("shape (4, 2) has not 3 columns")
    with path.open("ab") as file:
        np.save(file, np.zeros((4, 3), np.uint64))
    path.write_bytes(path.read_bytes()[128 + 64 :] + b"more")
    refused("bytes are needed, not")


@pytest.fixture
def saved(sleeper, tmp_path):
    """A process's capture, and a directory with its files but for pagemap."""
    cap = em.capture(sleeper, stop=True)
    for name in ("maps", "smaps", "status"):
        (tmp_path / name).write_bytes(procfs.slurp(sleeper, name))
    return cap, tmp_path


def words_of(cap, start, end):
    """Return the pagemap words of a VMA."""
    words = np.zeros((end - start) // PAGE_BYTES, np.uint64)
    first = np.uint64(start // PAGE_BYTES)
    inside = (cap.vpn >= first) & (cap.vpn < first + np.uint64(len(words)))
    words[cap.vpn[inside] - first] = cap.entry[inside]
    return words


def user_vmas(cap):
    vmas = zip(cap.vma_start.tolist(), cap.vma_end.tolist(), strict=True)
    return [(start, end) for start, end in vmas if start < 1 << 63]


def save_pagemap(cap, folder, sparse):
    with (folder / "pagemap").open("wb") as file:
        for start, end in user_vmas(cap):
            if sparse:
                file.seek(start // PAGE_BYTES * 8)
            words_of(cap, start, end).tofile(file)


@pytest.mark.parametrize("sparse", [False, True], ids=["packed", "sparse"])
def test_saved_files_of_a_process(saved, sparse):
    cap, folder = saved
    save_pagemap(cap, folder, sparse)
    assert em.read(folder).vpn.tolist() == cap.vpn.tolist()
    assert em.read(folder).entry.tolist() == cap.entry.tolist()
    assert em.read(folder).vma_flags.tolist() == cap.vma_flags.tolist()
    assert em.read(folder).comm == cap.comm
    assert em.read(folder).vmpte_kb == cap.vmpte_kb
    (folder / "smaps").unlink()
    (folder / "status").unlink()
    bare = em.read(folder)
    assert bare.vma_perms.tolist() == cap.vma_perms.tolist()
    assert bare.entry.tolist() == cap.entry.tolist()
    assert bare.empty_tables == 0
    assert not bare.huge_marked


def test_pagemap_saved_as_the_docstring_says(sleeper, saved):
    cap, folder = saved
    lines = saved_proc.__doc__.splitlines()
    script = "\n".join(line for line in lines if line.startswith("    "))
    script = script.replace("PID", str(sleeper))
    assert "dd if=" in script
    subprocess.run(["bash", "-ec", script], cwd=folder, check=True)
    assert em.read(folder).vpn.tolist() == cap.vpn.tolist()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("smaps", b"", "smaps: no VMA"),
        ("smaps", b"0-%s rw-p 0 0:0 0\n" % (b"f" * 40), "smaps: "),
        ("smaps", b"2000-1000 rw-p 0 0:0 0\n", "smaps: "),
        ("status", b"Name:\tx\n", "status: "),
        ("status", b"Name:\tx\nVmPTE:\t-1 kB\nVmRSS:\t1 kB\n", "vmpte_kb: -1"),
        ("pagemap", b"12345678", "pagemap: 1 words are neither"),
        ("pagemap", b"", "pagemap: 0 words are neither"),
    ],
)
def test_damaged_files_of_proc(saved, refused, name, data, reason):
    cap, folder = saved
    save_pagemap(cap, folder, sparse=False)
    (folder / name).write_bytes(data)
    refused(reason, folder)


def test_holes_of_a_pagemap_are_not_read(tmp_path):
    """A VMA of 64 TiB has a pagemap of 128 GiB."""
    (tmp_path / "maps").write_text("1000-400000000000 rw-p 0 0:0 0\n")
    with (tmp_path / "pagemap").open("wb") as file:
        file.seek(8 << 33)
        file.write(struct.pack("=Q", PRESENT))
    tracemalloc.start()
    try:
        assert em.read(tmp_path).vpn.tolist() == [1 << 33]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


# --- any bytes --------------------------------------------------------------------

edits = st.lists(
    st.tuples(st.integers(0, 1 << 15), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=6,
)


def edited(data, edits, cut):
    made = bytearray(data)
    for at, piece in edits:
        at %= len(made)
        made[at : at + len(piece)] = piece
    return bytes(made[: cut % len(made)] if cut else made)


def reads_or_refuses(where):
    message = f"{where}: "
    tracemalloc.start()
    try:
        em.read(where)
    except em.CaptureError as error:
        message = str(error)
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert message.startswith(f"{where}: ")
    assert "\n" not in message
    # The pages that any file may have, and some copies of them.
    assert most < 16 * 16 * source.ALWAYS_PAGES


def real_regions():
    return u64(*GOOD).tobytes()


FILES = {
    "kvm": (REAL / "kvm-dirty-log.bin").read_bytes,
    "qemu": lambda: STREAM[: FIRST_PAGE + 20_000],
    "whole qemu": lambda: STREAM,
    "damo": (REAL / "damo-record").read_bytes,
    "damo as JSON": lambda: record(("4,096", "8,192", 3), (1 << 30, 1 << 31, 1)),
    "page-types -L": (REAL / "page-types-L.txt").read_bytes,
    "page-types -l": (REAL / "page-types-l.txt").read_bytes,
    "regions": real_regions,
}


@pytest.mark.parametrize("name", FILES)
@hypothesis.given(edits=edits, cut=st.just(0) | st.integers(0, 1 << 15))
@hypothesis.settings(max_examples=100, deadline=None)
def test_fuzzed_file(tmp_path_factory, name, edits, cut):
    where = tmp_path_factory.getbasetemp() / "fuzzed"
    where.write_bytes(edited(FILES[name](), edits, cut))
    reads_or_refuses(where)


@needs_protobuf
@pytest.mark.parametrize("name", ["pagemap-159.img", "mm-159.img", "core-159.img"])
@hypothesis.given(edits=edits, cut=st.just(0) | st.integers(0, 1 << 15))
@hypothesis.settings(max_examples=100, deadline=None)
def test_fuzzed_images(tmp_path_factory, name, edits, cut):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-images"
    if not folder.exists():
        shutil.copytree(DUMPS / "3", folder)
    whole = (DUMPS / "3" / name).read_bytes()
    (folder / name).write_bytes(edited(whole, edits, cut))
    try:
        reads_or_refuses(folder)
    finally:
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize("name", ["maps", "smaps", "status", "pagemap"])
@hypothesis.given(edits=edits, cut=st.just(0) | st.integers(0, 1 << 15))
@hypothesis.settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_fuzzed_files_of_proc(saved, name, edits, cut):
    cap, folder = saved
    if not (folder / "pagemap").exists():
        save_pagemap(cap, folder, sparse=False)
        if name == "maps":
            (folder / "smaps").unlink()
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(edited(whole, edits, cut))
    try:
        reads_or_refuses(folder)
    finally:
        (folder / name).write_bytes(whole)
