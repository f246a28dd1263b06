"""Capture files that are damaged, hostile, or can't be written.

Whatever the bytes, loading gives a sound capture or a CaptureError that names
the file, and memory follows what is really in it.
"""

import contextlib
import errno
import io
import os
import resource
import struct
import sys
import tracemalloc
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from extmeta.captures import npz
from extmeta.captures.capture import Capture, CaptureError, load_capture, shipped

FIRST = 0x7F0000000
PRESENT = 1 << 63
LEAF = 512


def u64(*values):
    return np.array(values, np.uint64)


def content(**changes):
    """Return a good file's arrays: two VMAs, four entries."""
    good = {
        "vma_start": u64(FIRST << 12, FIRST + 8 << 12),
        "vma_end": u64(FIRST + 4 << 12, FIRST + 1024 << 12),
        "vma_perms": np.array(["rw-p", "r-xs"]),
        "vma_flags": np.array(["rd wr", "rd ex"]),
        "vma_name": np.array(["[heap]", "libc.so.6"]),
        "vpn": u64(FIRST, FIRST + 1, FIRST + 8, FIRST + 600),
        "entry": u64(PRESENT | 1, PRESENT | 2, 1 << 62 | 31, PRESENT | 3),
        "vmpte_kb": np.array(16),
        "vmrss_kb": np.array(12),
        "kernel": np.array("6.18.44"),
        "comm": np.array("made"),
    }
    return {key: v for key, v in (good | changes).items() if v is not None}


def npy(array):
    """Return an array's .npy bytes."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=True)
    return file.getvalue()


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    """Write members, (name, bytes) each, to a zip archive."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def members(**changes):
    return [(f"{key}.npy", npy(value)) for key, value in content(**changes).items()]


def replaced(key, data):
    """Return a good file's members with one member's bytes replaced."""
    return [(n, data if n == f"{key}.npy" else d) for n, d in members()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.npz"


@pytest.fixture
def refused(path):
    """Assert that the file is refused in one line with its name and a reason."""

    def check(reason):
        with pytest.raises(CaptureError) as caught:
            load_capture(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert reason in message
        assert "\n" not in message
        assert len(message) < len(str(path)) + 200

    return check


def test_good_file(path):
    cap = load_capture(archive(path, members()))
    assert cap.vma_name.tolist() == ["[heap]", "libc.so.6"]
    assert (cap.vmpte_kb, cap.vmrss_kb) == (16, 12)
    assert (cap.kernel, cap.comm) == ("6.18.44", "made")
    assert cap.settled
    assert len(cap.huge_vpn) == 0
    assert cap.vma_unlocated_kb.tolist() == [0, 0]
    assert cap.empty_tables == 0


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("{{'shape': {1!r}, 'fortran_order': False, 'descr': {0!r}}}", b"\1\0"),
        ("{{'fortran_order': False, 'shape': {1!r}, 'descr': {0!r}, }}", b"\2\0"),
        ('{{"descr": "{0}", "fortran_order": True, "shape": {1!r},}}', b"\3\0"),
        ("{{ 'descr' : {0!r} , 'shape':{1!r},'fortran_order':False}}", b"\1\0"),
    ],
)
def test_headers_are_any_literal_with_the_three_keys(path, text, version):
    made = []
    for key, array in content().items():
        words = text.format(array.dtype.str, array.shape).encode()
        made.append((f"{key}.npy", header(words, array.tobytes(), version)))
        assert np.array_equal(np.load(io.BytesIO(made[-1][1])), array)
    cap = load_capture(archive(path, made))
    assert cap.sha256 == load_capture(archive(path, members())).sha256


def test_stored_and_foreign_byte_order(path):
    swapped = {
        key: array.astype(array.dtype.newbyteorder(">"))
        for key, array in content().items()
    }
    big = [(f"{key}.npy", npy(value)) for key, value in swapped.items()]
    cap = load_capture(archive(path, big, zipfile.ZIP_STORED))
    assert cap.vpn.dtype == np.uint64
    assert cap.vpn.dtype.isnative
    assert cap.sha256 == load_capture(archive(path, members())).sha256


def test_format_2_and_empty_names(path):
    data = io.BytesIO()
    array = content()["vpn"]
    np.lib.format.write_array(data, array, version=(2, 0))
    rest = members(vma_name=np.zeros(2, "U1"), vpn=None, comm=np.array("", "U0"))
    cap = load_capture(archive(path, [("vpn.npy", data.getvalue()), *rest]))
    assert cap.vpn.tolist() == array.tolist()
    assert cap.comm == ""


def test_names_of_no_characters(path):
    header = npy(np.zeros(2, "U1"))[:-8].replace(b"<U1", b"<U0")
    archive(path, replaced("vma_name", header))
    assert load_capture(path).vma_name.tolist() == ["", ""]


def test_unknown_members_are_left_alone(path):
    extra = [("later.npy", b"not numpy"), ("README", b"text"), ("vpn", b"")]
    assert len(load_capture(archive(path, members() + extra)).vpn) == 4


def test_empty_address_space(path):
    none = u64()
    text = np.zeros(0, "U1")
    changes = dict.fromkeys(("vma_start", "vma_end", "vpn", "entry"), none)
    changes |= dict.fromkeys(("vma_perms", "vma_flags", "vma_name"), text)
    cap = load_capture(archive(path, members(**changes)))
    assert len(cap.vpn) == 0
    assert cap.occupancy().sum() == 0


# --- what is not a capture file --------------------------------------------


def test_missing_file(path):
    with pytest.raises(FileNotFoundError):
        load_capture(path)


def test_folder(tmp_path):
    with pytest.raises(IsADirectoryError):
        load_capture(tmp_path)


def test_unreadable(path):
    archive(path, members())
    path.chmod(0)
    with contextlib.suppress(PermissionError), path.open():
        pytest.skip("needs not to be root")
    with pytest.raises(PermissionError):
        load_capture(path)


def test_pipe(path, refused):
    os.mkfifo(path)
    refused("not a regular file")


@pytest.mark.parametrize("wrong", [None, 3, 1.5])
def test_path_of_another_type(wrong):
    with pytest.raises(TypeError):
        load_capture(wrong)


@pytest.mark.parametrize("data", [b"", b"PK", b"text\n" * 100, npy(np.arange(9))])
def test_not_an_archive(path, refused, data):
    path.write_bytes(data)
    refused("not a zip file")


def test_too_large_a_file(path, refused):
    with path.open("wb") as file:
        file.truncate(npz.MAX_FILE_BYTES + 1)
    refused(f"{npz.MAX_FILE_BYTES + 1} bytes are more than")


def test_other_archive(path, refused):
    archive(path, [("a.txt", b"text")])
    refused("no vma_start, vma_end, ")


def test_truncated(path):
    whole = archive(path, members()).read_bytes()
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(CaptureError):
            load_capture(path)


def test_read_error_passes(path, monkeypatch):
    archive(path, members())

    def fail(*_args):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(npz, "_read_arrays", fail)
    with pytest.raises(OSError, match="broken disk"):
        load_capture(path)


# --- the archive's directory -------------------------------------------------


def test_duplicate_member(path, refused):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, [*members(), ("vpn.npy", npy(u64()))])
    refused("member 'vpn.npy' is there twice")


def test_names_in_the_archive_are_quoted(path, refused):
    name = "\33[2J\n" * 1000
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, [*members(), (name, b""), (name, b"")])
    refused("member '\\x1b[2J\\n")


def test_too_many_members(path, refused):
    archive(path, [(f"{i}.npy", b"") for i in range(65)])
    refused("65 members are more than 64")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression(path, refused, method):
    archive(path, members(), method)
    refused("neither stored nor deflated")


def directory_entry(data, name):
    """Return where a member's entry in the archive's directory starts."""
    at = data.rindex(name) - 46
    assert data[at : at + 4] == b"PK\1\2"
    return at


# Offsets in a directory entry: APPNOTE.TXT 4.3.12.
FLAGS, COMPRESSED, SIZE, OFFSET = 8, 20, 24, 42


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (FLAGS, 1, "vpn.npy is encrypted"),
        (COMPRESSED, 0x7FFFFFFF, "bytes at"),
        (OFFSET, 0x7FFFFFFF, "bytes at"),
        (SIZE, 0x7FFFFFFF, "are no ascending numbers"),
        (SIZE, 0, ": "),
        (SIZE, 150, "Bad CRC-32"),
        (COMPRESSED, 0, "Bad CRC-32"),
        (OFFSET, 1, ": "),
    ],
)
def test_lying_directory(path, refused, field, value, reason):
    data = bytearray(archive(path, members()).read_bytes())
    at = directory_entry(data, b"vpn.npy") + field
    if field == FLAGS:
        struct.pack_into("<H", data, at, value)
    else:
        struct.pack_into("<I", data, at, value)
    path.write_bytes(data)
    refused(reason)


def test_archive_that_points_before_the_file(path, refused):
    # A zip64 locator with no room for what it locates.
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    end = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, *[2**32 - 1] * 2, 0
    )
    path.write_bytes(locator + end)
    refused(": ")


def test_made_up_offset(path, refused, monkeypatch):
    archive(path, members())

    def seek(*_args):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(npz, "_members", seek)
    refused("an offset outside the file")


def test_wrong_checksum(path, refused):
    data = bytearray(archive(path, members(), zipfile.ZIP_STORED).read_bytes())
    at = data.index(npy(content()["vpn"])) + len(npy(content()["vpn"])) - 1
    data[at] ^= 0xFF
    path.write_bytes(data)
    refused("Bad CRC-32")


def test_deflated_stream_that_ends_early(path, refused, monkeypatch):
    # zipfile gives what there is, without an error, when the checksum is right.
    archive(path, members())
    really = zipfile.ZipFile.open

    def short(self, member, *args):
        stream = really(self, member, *args)
        if member.filename == "vpn.npy" and opened:
            return io.BytesIO(stream.read()[:-8])
        opened.append(member.filename)
        return stream

    opened = []
    monkeypatch.setattr(zipfile.ZipFile, "open", short)
    refused("vpn.npy")


# --- .npy headers --------------------------------------------------------------


def header(text, data=b"", version=b"\1\0", length=None):
    """Return .npy bytes with a header of that text."""
    width = "<H" if version == b"\1\0" else "<I"
    size = struct.pack(width, len(text) if length is None else length)
    return b"\x93NUMPY" + version + size + text + data


def described(descr, shape, order="False"):
    return (
        f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    )


@pytest.mark.parametrize(
    ("key", "data", "reason"),
    [
        ("vpn", b"", "does not start a .npy file"),
        ("vpn", b"\x93NUMPY\1\0\1", "cut short at byte 9"),
        ("vpn", b"PK\3\4\1\0\1\0\1\0", "does not start a .npy file"),
        ("vpn", header(b"{}", version=b"\4\0"), "does not start a .npy file"),
        ("vpn", header(b"{}", length=60000), "a header of 60000 bytes, not all"),
        ("vpn", header(b"{}", version=b"\2\0", length=2**32 - 1), "4294967295 bytes"),
        ("vpn", header(b"{}"), "header '{}' is of no plain array"),
        ("comm", header(b"(" * 3000), "is of no plain array"),
        ("comm", header(b"\xff" * 3000), "is of no plain array"),
        ("comm", header(b"-" * 9000 + b"1"), "is of no plain array"),
        ("comm", header(b"{" * 9000), "is of no plain array"),
        ("comm", header(b"{(),}"), "is of no plain array"),
        ("comm", header(b"{{1: 2}: 3}"), "is of no plain array"),
        ("vpn", header(b"{'descr': '<u8'}"), "is of no plain array"),
        ("vpn", header(described("'<u8'", "(True,)")), "is of no plain array"),
        ("vpn", header(described("'<u8'", "4")), "is of no plain array"),
        ("vpn", header(described("'<u8'", "(4,)", "0")), "is of no plain array"),
        ("vpn", header(described("'<u8'", "(4,), 'more': 1")), "is of no plain array"),
        ("vpn", header(described("'<u8'", f"({'9' * 5000},)")), "is of no plain array"),
        ("vpn", header(described("'u8,u8'", "(4,)")), "dtype u8,u8 is not uint64"),
        ("vpn", header(described("'<u3'", "(4,)")), "dtype <u3 is not uint64"),
        ("vpn", header(described("'|O'", "(4,)"), b"\x80"), "dtype |O is not uint64"),
        ("vpn", header(described("[('a', '<u8')]", "(4,)")), "is of no plain array"),
        ("vpn", header(described("'<u8'", "(4, 4)")), "has 2 dimensions"),
        ("vpn", header(described("'<u8'", "()"), bytes(8)), "has 0 dimensions"),
        ("vpn", header(described("'<u8'", "(-4,)")), "is of no plain array"),
        ("vpn", header(described("'<u8'", "(4.0,)")), "is of no plain array"),
        ("vpn", header(described("'<u8'", f"({2**40},)")), f"{2**40} elements are"),
        ("vpn", header(described("'<u8'", f"({10**19},)")), f"{10**19} elements are"),
        ("vpn", header(described("'<u8'", f"({2**30},)")), "takes 8589934592 bytes"),
        ("vpn", header(described("'<u8'", "(4,)"), bytes(31)), "the file has 31"),
        ("vpn", header(described("'<u8'", "(4,)"), bytes(33)), "the file has 33"),
        ("vpn", npy(np.arange(4.0)), "dtype <f8 is not uint64"),
        ("vpn", npy(np.full(4, np.nan)), "dtype <f8 is not uint64"),
        ("vpn", npy(np.arange(4)), "dtype <i8 is not uint64"),
        ("vpn", npy(np.arange(4, dtype=np.uint32)), "dtype <u4 is not uint64"),
        ("vpn", npy(np.array([{}] * 4)), "dtype |O is not uint64"),
        ("vma_start", header(described("'<u8'", f"({2**20 + 1},)")), "1048577 elem"),
        ("vma_name", npy(np.array([b"a", b"b"])), "dtype |S1 is not text"),
        ("vma_name", npy(np.zeros(2, "U2049")), "text of at most 2048 characters"),
        ("vma_name", header(described("'<U1'", "(2,)"), b"\xff" * 8), "no character"),
        ("vma_name", header(described(f"'<U{10**9 - 1}'", "(2,)")), "at most 2048"),
        ("vma_perms", npy(np.array([None, None])), "dtype |O is not text"),
        ("vmpte_kb", npy(np.array(4.0)), "dtype <f8 is not an integer"),
        ("vmpte_kb", npy(np.array([4])), "vmpte_kb.npy: shape (1,) has 1 dimensions"),
        ("vmpte_kb", npy(np.array(True)), "dtype |b1 is not an integer"),
        ("kernel", npy(np.array(b"6")), "dtype |S1 is not text"),
    ],
)
def test_bad_member(path, refused, key, data, reason):
    archive(path, replaced(key, data))
    refused(reason)


# A reader must not depend on the order of the keys, says numpy.lib.format.
@pytest.mark.parametrize("order", ["False", "True"])
@pytest.mark.parametrize("version", [b"\1\0", b"\2\0", b"\3\0"])
@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("{{'shape': (4,), 'fortran_order': {}, 'descr': '<u8'}}", "<u8"),
        ("{{'fortran_order':{},'descr':'>u8','shape':(4,)}}\n", ">u8"),
        ('\n{{"shape" : ( 4 , ),\n"descr": "uint64", "fortran_order": {},}}', "=u8"),
        ("{{'descr': 'Q', 'shape': (4,), 'fortran_order': {}}}" + " " * 8000, "=u8"),
    ],
)
def test_header_as_the_format_says(path, text, dtype, version, order):
    data = content()["vpn"].astype(dtype).tobytes()
    npy = header(text.format(order).encode(), data, version)
    if text[0] == "{" and len(text) < 1000:
        assert np.load(io.BytesIO(npy)).tolist() == content()["vpn"].tolist()
    cap = load_capture(archive(path, replaced("vpn", npy)))
    assert cap.vpn.tolist() == content()["vpn"].tolist()


@pytest.mark.parametrize("key", list(content()))
def test_missing_key(path, refused, key):
    archive(path, members(**{key: None}))
    refused(f"no {key}: not a capture")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"entry": u64(PRESENT)}, "entry has 1 elements, vpn 4"),
        ({"vma_end": u64(1)}, "vma_end has 1 elements, vma_start 2"),
        ({"vma_name": np.array(["a"] * 3)}, "vma_name has 3 elements, vma_start 2"),
        ({"vma_unlocated_kb": u64(1)}, "vma_unlocated_kb has 1 elements"),
        ({"vma_anon_huge_kb": u64(1)}, "vma_anon_huge_kb has 1 elements"),
        ({"huge_marked": np.array(1)}, "huge_marked.npy: dtype <i8 is not bool"),
        ({"settled": np.array(2)}, "settled.npy: dtype <i8 is not bool"),
        ({"huge_vpn": np.array(["a"])}, "huge_vpn.npy: dtype <U1 is not uint64"),
    ],
)
def test_members_that_disagree(path, refused, changes, reason):
    archive(path, members(**changes))
    refused(reason)


# --- what is in the arrays -----------------------------------------------------

START, END = content()["vma_start"], content()["vma_end"]
WHOLE_LEAF = {
    "vpn": np.arange(FIRST + LEAF, FIRST + 2 * LEAF, dtype=np.uint64),
    "entry": np.full(LEAF, PRESENT, np.uint64),
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"vma_start": START + u64(1)},
            "VMA 0 [0x7f0000000001, 0x7f0000004000) is not",
        ),
        ({"vma_end": END + u64(0, 8)}, "VMA 1 [0x7f0000008000, 0x7f0000400008) is not"),
        ({"vma_end": START}, "VMA 0 [0x7f0000000000, 0x7f0000000000) ends before"),
        ({"vma_start": START[::-1]}, "ends before it starts"),
        (
            {"vma_end": END + u64(0x10000, 0)},
            "VMA 1 [0x7f0000008000, 0x7f0000400000) s",
        ),
        ({"vma_end": END | u64(0, 1 << 62)}, "leaves the user half"),
        ({"vma_perms": np.array(["rw-p", "rwx"])}, "VMA 1 [0x7f0000008000, 0x7f000040"),
        ({"vma_perms": np.array(["rw-p", "rwxx"])}, "has permissions 'rwxx'"),
        ({"vma_perms": np.array(["wr-p", "r--p"])}, "has permissions 'wr-p'"),
        ({"vma_perms": np.array(["rw-p" * 99, ""])}, f"permissions '{'rw-p' * 5}'"),
        ({"vpn": u64(FIRST, FIRST, FIRST + 8, FIRST + 9)}, "vpn 0x7f0000000 comes aft"),
        ({"vpn": u64(FIRST + 1, FIRST, 1, 2)}, "vpn 0x7f0000000 comes after vpn 0x7f0"),
        ({"vpn": u64(1, FIRST, FIRST + 1, FIRST + 2)}, "vpn 0x1 is in no VMA"),
        ({"vpn": u64(FIRST, FIRST + 3, FIRST + 4, FIRST + 8)}, "vpn 0x7f0000004 is in"),
        ({"vpn": u64(FIRST, FIRST + 8, FIRST + 9, 1 << 44)}, "vpn 0x100000000000 is b"),
        (
            {"vpn": u64(FIRST, FIRST + 8, FIRST + 9, 2**64 - 1)},
            "vpn 0xffffffffffffffff",
        ),
        ({"entry": u64(PRESENT, 0, PRESENT, PRESENT)}, "vpn 0x7f0000001 has entry 0"),
        (
            {"entry": u64(*[PRESENT | 1 << 40] * 4)},
            "entry 0x8000010000000000 has a PFN",
        ),
        ({"vmpte_kb": np.array(-1)}, "vmpte_kb: -1 is no size in KiB"),
        ({"vmrss_kb": np.array(-4)}, "vmrss_kb: -4 is no size in KiB"),
        ({"vmpte_kb": u64(2**63)[0]}, "vmpte_kb: 9223372036854775808 is no size"),
        (
            {"vma_anon_huge_kb": u64(0, 2048)},
            "vma_anon_huge_kb 2048 of a capture whose huge_marked is false",
        ),
        ({"huge_vpn": u64(FIRST + 1)}, "huge_vpn 0x7f0000001 is not 2 MiB-aligned"),
        ({"huge_vpn": u64(FIRST)}, "huge_vpn 0x7f0000000 is in no VMA"),
        ({"huge_vpn": u64(0)}, "huge_vpn 0x0 is in no VMA"),
        ({"huge_vpn": u64(FIRST + 1024)}, "huge_vpn 0x7f0000400 is in no VMA"),
        ({"huge_vpn": u64(1 << 44)}, "huge_vpn 0x100000000000 is beyond the user half"),
        ({"huge_vpn": u64(FIRST + LEAF)}, "not all of its 512 pages are present"),
        (
            {"huge_vpn": u64(FIRST + LEAF, FIRST + LEAF), **WHOLE_LEAF},
            "huge_vpn 0x7f0000200 comes after huge_vpn 0x7f0000200",
        ),
    ],
)
def test_contents_that_disagree(path, refused, changes, reason):
    archive(path, members(**changes))
    refused(reason)


def test_leaf_of_a_file(path):
    archive(path, members(huge_vpn=u64(FIRST + LEAF), **WHOLE_LEAF))
    cap = load_capture(path)
    assert cap.huge_vpn.tolist() == [FIRST + LEAF]
    assert cap.tables_needed().pte == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vpn": [1, 2]}, "vpn: dtype int64; uint64 is needed"),
        ({"vpn": np.zeros((2, 2), np.uint64)}, r"vpn: shape \(2, 2\)"),
        ({"vma_perms": [1, 2]}, "vma_perms: dtype int64; str is needed"),
        ({"vmpte_kb": 4.5}, "vmpte_kb: 4.5 is not an integer"),
        ({"entry": u64(1)}, "entry has 1 elements, vpn 4"),
        ({"vma_flags": np.array(["rd"])}, "vma_flags has 1 elements, vma_start 2"),
    ],
)
def test_made_from_wrong_parts(changes, reason):
    parts = {key: v if v.ndim else v.item() for key, v in content().items()}
    with pytest.raises(CaptureError, match=f"^{reason}"):
        Capture(**(parts | changes))


# --- bombs ---------------------------------------------------------------------


def bomb(path, key, dtype, count, fill):
    """Write a file with one member of ``count`` equal elements."""
    item = np.full(1, fill, dtype).tobytes()
    head = header(described(repr(np.dtype(dtype).str), f"({count},)"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members(**{key: None}):
            file.writestr(name, data)
        with file.open(f"{key}.npy", "w") as member:
            member.write(head)
            piece = item * min(count, (1 << 20) // len(item))
            left = count * len(item)
            while left:
                left -= member.write(piece[:left])


@pytest.mark.parametrize(
    ("key", "dtype", "count", "reason"),
    [
        ("vpn", np.uint64, 1 << 25, "are no ascending numbers"),
        ("vma_start", np.uint64, 1 << 20, "are no ascending numbers"),
        ("huge_vpn", np.uint64, 1 << 25, "are no ascending numbers"),
        ("entry", np.uint64, 1 << 25, "entry has 33554432 elements, vpn 4"),
        ("vma_name", "U1000", 40_000, "bytes of text are more than"),
        ("vma_flags", "U1000", 30_000, "vma_flags has 30000 elements"),
    ],
)
def test_zip_bomb_takes_no_memory(path, refused, key, dtype, count, reason):
    bomb(path, key, dtype, count, 1)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        refused(reason)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_dense_captures_are_no_bombs(path):
    # The most regular file there is: one VMA, every page the same.
    pages = 1 << 18
    dense = content(
        vpn=np.arange(FIRST, FIRST + pages, dtype=np.uint64),
        entry=np.full(pages, PRESENT, np.uint64),
        vma_start=START[:1],
        vma_end=u64(FIRST + pages << 12),
        vma_perms=np.array(["rw-p"]),
        vma_flags=np.array([""]),
        vma_name=np.array([""]),
    )
    npz.write(str(path), dense)
    assert len(load_capture(path).vpn) == pages
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("vpn.npy")
    assert info.file_size < npz.MAX_RATIO / 8 * info.compress_size


# --- fuzzed --------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return archive(tmp_path_factory.mktemp("fuzz") / "good.npz", members())


def loads_or_refuses(path, data):
    path.write_bytes(data)
    try:
        return load_capture(path)
    except CaptureError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return None


edits = st.lists(
    st.tuples(st.integers(0, 1 << 14), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=6,
)


@hypothesis.given(edits=edits, cut=st.integers(0, 1 << 14), cuts=st.booleans())
@hypothesis.settings(max_examples=400, deadline=None)
def test_fuzzed_bytes(whole, edits, cut, cuts):
    data = bytearray(whole.read_bytes())
    for at, piece in edits:
        at %= len(data)
        data[at : at + len(piece)] = piece
    loads_or_refuses(
        whole.with_name("fuzzed.npz"), data[: cut % len(data)] if cuts else data
    )


@hypothesis.given(
    key=st.sampled_from(list(content())),
    text=st.text(alphabet="{}()[]',: <u8U4i|Ob0123456789descrfotan_hpFTl", max_size=90)
    | st.text(alphabet="{}()',: \"\\\n9TrueFalse-+*[].#", max_size=90)
    | st.builds(
        lambda d, s: described(repr(d), s).decode(),
        st.text(alphabet="<>|=uifUSOVbM0123456789", max_size=6),
        st.text(alphabet="(),0123456789 -", max_size=12),
    ),
    data=st.binary(max_size=64),
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_fuzzed_headers(whole, key, text, data):
    path = whole.with_name("header.npz")
    archive(path, replaced(key, header(text.encode(), data)))
    loads_or_refuses(path, path.read_bytes())


vpns = st.lists(
    st.integers(FIRST - 2, FIRST + 12) | st.integers(0, 2**64 - 1), max_size=6
)


@hypothesis.given(
    vpn=vpns | vpns.map(sorted),
    entry=hnp.arrays(np.uint64, st.integers(0, 6)),
    start=vpns.map(sorted),
    perms=st.lists(st.sampled_from(["rw-p", "r-xs", "", "rwxz"]), max_size=3),
    vmpte=st.integers(-(2**63), 2**63 - 1),
    settled=st.booleans(),
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_fuzzed_contents(whole, vpn, entry, start, perms, vmpte, settled):
    path = whole.with_name("content.npz")
    changes = {
        "vpn": u64(*vpn),
        "entry": entry,
        "vma_start": u64(*start) << u64(12) if start else START,
        "vmpte_kb": np.array(vmpte),
        "settled": np.array(settled),
    }
    if perms:
        changes["vma_perms"] = np.array(perms)
    archive(path, members(**changes))
    cap = loads_or_refuses(path, path.read_bytes())
    if cap:
        assert (np.diff(cap.vpn.astype(object)) > 0).all()
        cap.save(path, pfns=True)
        assert load_capture(path).sha256 == cap.sha256


# --- written -------------------------------------------------------------------


@pytest.fixture
def cap():
    return load_capture(shipped()["redis"])


def test_saved_file_is_plain_numpy(cap, path):
    cap.save(path)
    with np.load(path, allow_pickle=False) as file:
        assert set(file) == set(npz.KEYS)
        assert file["vpn"].tolist() == cap.vpn.tolist()


def test_every_key_is_a_plain_array(cap):
    """Also those that the file lacks: whoever walks over the keys can write them."""
    for key in npz.KEYS:
        assert np.asarray(getattr(cap, key)).dtype != object


def test_save_drops_pfns_but_not_slots(path, tmp_path):
    cap = load_capture(archive(path, members()))
    assert cap.has_pfns
    cap.save(tmp_path / "without")
    entry = load_capture(tmp_path / "without").entry
    assert entry.tolist() == [PRESENT, PRESENT, 1 << 62 | 31, PRESENT]
    cap.save(tmp_path / "with", pfns=True)
    assert load_capture(tmp_path / "with").sha256 == cap.sha256


def test_save_is_the_same_again(cap, tmp_path):
    cap.save(tmp_path / "one")
    load_capture(tmp_path / "one").save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_save_keeps_the_name_given(cap, tmp_path):
    cap.save(str(tmp_path / "plain"))
    assert [each.name for each in tmp_path.iterdir()] == ["plain"]


def test_save_follows_a_link(cap, tmp_path, path):
    (tmp_path / "link").symlink_to(path)
    cap.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load_capture(path).sha256 == cap.sha256


def test_save_to_a_relative_path(cap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cap.save("here.npz")
    assert load_capture("here.npz").sha256 == cap.sha256


@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("there", [True, False])
def test_failed_save_leaves_things_as_they_were(cap, path, monkeypatch, fails, there):
    if there:
        path.write_bytes(b"as it was")

    def no_space(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fails, no_space)
    with pytest.raises(OSError, match="No space left"):
        cap.save(path)
    assert [each.name for each in path.parent.iterdir()] == ["file.npz"] * there
    if there:
        assert path.read_bytes() == b"as it was"


def test_save_into_too_small_a_limit(cap, path, monkeypatch):
    # Python would not notice that a .pyc file was cut at the limit.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            cap.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(path.parent.iterdir()) == []


def test_interrupted_save_leaves_no_draft(cap, path, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cap.save(path)
    assert list(path.parent.iterdir()) == []


def test_save_to_a_full_device(cap):
    with pytest.raises(OSError, match="No space left"):
        cap.save("/dev/full")
    assert os.path.exists("/dev/full")
    assert not os.path.isfile("/dev/full")


def test_save_to_a_device_leaves_it_one(cap):
    cap.save("/dev/null")
    assert os.path.exists("/dev/null")
    assert not os.path.isfile("/dev/null")


def test_save_to_a_folder(cap, tmp_path):
    with pytest.raises(IsADirectoryError):
        cap.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_save_into_no_folder(cap, tmp_path):
    with pytest.raises(FileNotFoundError):
        cap.save(tmp_path / "none" / "file")


def test_a_shipped_capture_is_loaded_by_its_name(tmp_path, monkeypatch):
    name, path = next(iter(shipped().items()))
    assert repr(load_capture(name)) == repr(load_capture(path))
    # A file of that name comes first.
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"no capture")
    with pytest.raises(CaptureError, match=name):
        load_capture(name)
