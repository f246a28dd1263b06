"""Captures on disk: reads zip archives from untrusted sources, and writes them.

:mod:`extmeta.captures.capture` has the grammar. A file may come from anyone, so the
archive's directory is checked first, then the header of each member, and only then
memory is allocated. Nothing is unpickled. A header is a Python literal
(numpy/lib/_format_impl.py, numpy 2.4). Its tokens are checked before
`ast.literal_eval` evaluates it. numpy's own reader accepts more, warns about some of
it, and has no public form for version 3.0. `Capture` checks what the arrays mean.
"""

import ast
import contextlib
import errno
import io
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from extmeta.captures import whole_file

Array = npt.NDArray[Any]

# A capture of 1 TiB of 4 KiB pages has 2**28 entries and takes some 500 MB.
MAX_FILE_BYTES = 1 << 30
MAX_MEMBERS = 64
MAX_ENTRIES = 1 << 30
MAX_VMAS = 1 << 20  # vm.max_map_count is 65,530 unless raised
MAX_CHARS = 2048  # a file name of 255 bytes, each of them escaped
MAX_TEXT_BYTES = 1 << 27

# Ascending 8-byte numbers such as 0, 1, 2, 3, ... deflate to a fifth, a zip bomb to a
# thousandth. So the size of the file bounds the memory.
MAX_RATIO = 64

# numpy's limit (_MAX_HEADER_SIZE).
MAX_HEADER_BYTES = 10_000
PIECE_BYTES = 1 << 20


class DamagedFileError(ValueError):
    """The file is not a capture; the message says why."""


class Key(NamedTuple):
    """The form of a member.

    Attributes
    ----------
    kind : str
        numpy's letter: "u" uint64, "i" any integer, "f" float64, "U" text, "b" bool.
    limit : int
        Maximum number of elements, or rows; 0 for a scalar.
    ascending : bool
        Strictly, so that it can't deflate by more than `MAX_RATIO`.
    required : bool
    columns : int
        Columns of a two-dimensional array, else 0.
    """

    kind: str
    limit: int = 0
    ascending: bool = False
    required: bool = True
    columns: int = 0

    @property
    def dimensions(self) -> int:
        """Number of dimensions, 0 for a scalar."""
        return bool(self.limit) + bool(self.columns)


KEYS = {
    "vma_start": Key("u", MAX_VMAS, ascending=True),
    "vma_end": Key("u", MAX_VMAS, ascending=True),
    "vma_perms": Key("U", MAX_VMAS),
    "vma_flags": Key("U", MAX_VMAS),
    "vma_name": Key("U", MAX_VMAS),
    "vpn": Key("u", MAX_ENTRIES, ascending=True),
    "entry": Key("u", MAX_ENTRIES),
    "vmpte_kb": Key("i"),
    "vmrss_kb": Key("i"),
    "kernel": Key("U"),
    "comm": Key("U"),
    "huge_vpn": Key("u", MAX_ENTRIES, ascending=True, required=False),
    "vma_unlocated_kb": Key("u", MAX_VMAS, required=False),
    "vma_anon_huge_kb": Key("u", MAX_VMAS, required=False),
    "huge_marked": Key("b", required=False),
    "settled": Key("b", required=False),
    "about": Key("U", required=False),
}

# Arrays of one length.
ROWS = (
    tuple(key for key in KEYS if key.startswith("vma_")),
    ("vpn", "entry"),
)


class Grammar(NamedTuple):
    """A kind of file: its name, its members, and groups of arrays of one length."""

    what: str
    keys: Mapping[str, Key]
    rows: tuple[tuple[str, ...], ...] = ()


CAPTURE = Grammar("capture", KEYS, ROWS)


class Header(NamedTuple):
    """The header of a .npy member."""

    dtype: str
    shape: tuple[int, ...]
    data_offset: int
    order: Literal["C", "F"] = "C"


# The tokens of a header of a plain array. Without operators, names and brackets it is
# harmless to evaluate.
_HEADER = re.compile(r"""(?:[\s{}(),:]|'[^'\\]*'|"[^"\\]*"|\b(?:\d+|True|False)\b)*""")
# The descr of every type that a key may have.
_DESCR = re.compile(
    r"[<>|=]?(?:[uifb][1248]|U\d{1,9}|u?int\d{1,2}|float64|bool|[?bBhHiIlLqQd])"
)
_VERSIONS = {b"\1\0": "<H", b"\2\0": "<I", b"\3\0": "<I"}
_ITEM_BYTES: dict[str, Sequence[int]] = {
    "u": (8,),
    "i": (1, 2, 4, 8),
    "f": (8,),
    "b": (1,),
    "U": range(4 * MAX_CHARS + 1),
}
_WANTED = {
    "u": "uint64",
    "i": "an integer",
    "f": "float64",
    "b": "bool",
    "U": f"text of at most {MAX_CHARS} characters",
}


def _dtype(member: str, key: Key, descr: str) -> str:
    """Return the member's dtype, checked."""
    found = None
    with contextlib.suppress(TypeError, ValueError):
        found = np.dtype(descr) if _DESCR.fullmatch(descr) else None
    kinds = "iu" if key.kind == "i" else key.kind
    if found is None or not (
        found.kind in kinds and found.itemsize in _ITEM_BYTES[key.kind]
    ):
        raise DamagedFileError(
            f"{member}: dtype {descr[:40]} is not {_WANTED[key.kind]}"
        )
    return found.str


def _header(member: str, key: Key, head: bytes) -> Header:
    """Return the .npy header at the start of ``head``, checked."""
    version = head[6:8]
    if head[:6] != b"\x93NUMPY" or version not in _VERSIONS:
        raise DamagedFileError(f"{member}: {head[:8]!r} does not start a .npy file")
    width = struct.Struct(_VERSIONS[version])
    start = 8 + width.size
    if len(head) < start:
        raise DamagedFileError(f"{member}: a header cut short at byte {len(head)}")
    (length,) = width.unpack_from(head, 8)
    if start + length > len(head):
        raise DamagedFileError(f"{member}: a header of {length} bytes, not all there")
    # Version 3.0 is UTF-8. No text that differs between the two is a plain dtype.
    text = head[start : start + length].decode("latin-1")
    descr, by_columns, shape = _described(member, text)
    dtype = _dtype(member, key, descr)
    if len(shape) != key.dimensions:
        raise DamagedFileError(f"{member}: shape {shape} has {len(shape)} dimensions")
    if key.columns and shape[1] != key.columns:
        raise DamagedFileError(f"{member}: shape {shape} has not {key.columns} columns")
    if shape and shape[0] > key.limit:
        raise DamagedFileError(
            f"{member}: {shape[0]} elements are more than {key.limit}"
        )
    return Header(dtype, shape, start + length, "F" if by_columns else "C")


def _described(member: str, text: str) -> tuple[str, bool, tuple[int, ...]]:
    """Return the three values of a header's dict."""
    found: object = None
    with contextlib.suppress(SyntaxError, ValueError, TypeError, MemoryError):
        if _HEADER.fullmatch(text):
            found = ast.literal_eval(text.strip())
    match found:
        case {
            "descr": str(descr),
            "fortran_order": bool(by_columns),
            "shape": tuple(shape),
            **more,
        } if not more and all(type(n) is int for n in shape):
            return descr, by_columns, shape
    raise DamagedFileError(f"{member}: header {text[:60]!r} is of no plain array")


def _check_size(member: zipfile.ZipInfo, key: Key, header: Header) -> None:
    """Refuse a member with a wrong size in its header, or with too much text."""
    array_bytes = math.prod(header.shape) * np.dtype(header.dtype).itemsize
    if header.data_offset + array_bytes != member.file_size:
        raise DamagedFileError(
            f"{member.filename}: {header.shape} of {header.dtype} takes {array_bytes} "
            f"bytes, the file has {member.file_size - header.data_offset}"
        )
    if key.kind == "U" and array_bytes > MAX_TEXT_BYTES:
        raise DamagedFileError(
            f"{member.filename}: {array_bytes} bytes of text are more than "
            f"{MAX_TEXT_BYTES}"
        )


def _members(
    archive: zipfile.ZipFile, file_bytes: int, grammar: Grammar
) -> dict[str, zipfile.ZipInfo]:
    """Check the directory; return the members with known keys, by key."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise DamagedFileError(f"{len(infos)} members are more than {MAX_MEMBERS}")
    keys = grammar.keys
    seen: set[str] = set()
    members = {}
    for info in infos:
        if info.filename in seen:
            raise DamagedFileError(f"member {info.filename[:40]!r} is there twice")
        seen.add(info.filename)
        key = info.filename.removesuffix(".npy")
        # Unknown keys are a newer version's.
        if key == info.filename or key not in keys:
            continue
        if info.flag_bits & 1:
            raise DamagedFileError(f"{info.filename} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DamagedFileError(
                f"{info.filename}: compression method {info.compress_type} is "
                "neither stored nor deflated"
            )
        end = info.header_offset + info.compress_size
        if info.header_offset < 0 or end > file_bytes:
            raise DamagedFileError(
                f"{info.filename}: {info.compress_size} bytes at "
                f"{info.header_offset} are not in a file of {file_bytes}"
            )
        # A header may be padded with blanks.
        most = MAX_RATIO * info.compress_size + MAX_HEADER_BYTES
        if keys[key].ascending and info.file_size > most:
            raise DamagedFileError(
                f"{info.filename}: {info.file_size} bytes in {info.compress_size} "
                "are no ascending numbers"
            )
        members[key] = info
    missing = [key for key in keys if keys[key].required and key not in members]
    if missing:
        raise DamagedFileError(f"no {', '.join(missing)}: not a {grammar.what}")
    return members


def _check_rows(headers: Mapping[str, Header], grammar: Grammar) -> None:
    """Refuse arrays of one group that differ in length."""
    for keys in grammar.rows:
        first, *others = (key for key in keys if key in headers)
        for key in others:
            if headers[key].shape != headers[first].shape:
                raise DamagedFileError(
                    f"{key} has {headers[key].shape[0]} elements, {first} "
                    f"{headers[first].shape[0]}"
                )


def _array(file: Any, member: zipfile.ZipInfo, header: Header) -> Array:
    """Read an array, with ``file`` after its header."""
    # numpy writes "<U0" for texts that are all empty, and reads it as "<U1".
    if not np.dtype(header.dtype).itemsize:
        return np.zeros(header.shape, "U1")
    # Not touched before it is filled: a short member uses little memory.
    array = np.empty(header.shape, header.dtype, header.order)
    raw = array.ravel("K").view(np.uint8).data
    done = 0
    while done < array.nbytes:
        piece = file.read(min(PIECE_BYTES, array.nbytes - done))
        if not piece:
            raise DamagedFileError(
                f"{member.filename} ends {array.nbytes - done} bytes early"
            )
        raw[done : done + len(piece)] = piece
        done += len(piece)
    if array.dtype.kind == "U":
        chars = array.reshape(-1).view(array.dtype.byteorder + "u4")
        if chars.size and (high := int(chars.max())) > 0x10FFFF:
            raise DamagedFileError(f"{member.filename}: {high:#x} is no character")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_arrays(file: BinaryIO, file_bytes: int, grammar: Grammar) -> dict[str, Array]:
    keys = grammar.keys
    with zipfile.ZipFile(file) as archive:
        members = _members(archive, file_bytes, grammar)
        headers = {}
        for key, member in members.items():
            with archive.open(member) as stream:
                head = stream.read(MAX_HEADER_BYTES)
            headers[key] = _header(member.filename, keys[key], head)
            _check_size(member, keys[key], headers[key])
        _check_rows(headers, grammar)
        arrays = {}
        for key, member in members.items():
            with archive.open(member) as stream:
                stream.read(headers[key].data_offset)
                arrays[key] = _array(stream, member, headers[key])
        return arrays


def values(path: str, grammar: Grammar = CAPTURE) -> dict[str, Any]:
    """Return the members of a file by key, each with the dtype that it has to have.

    Parameters
    ----------
    path : str
    grammar : Grammar, optional

    Returns
    -------
    dict
        Arrays in native byte order, and scalars as Python has them.

    Raises
    ------
    DamagedFileError
        If it is no such archive, or larger than the limits above.
    OSError
        If it can't be opened or read.
    MemoryError
    """
    found = os.stat(path)
    # open() refuses a directory. A pipe would wait for its writer.
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise DamagedFileError("not a regular file")
    with open(path, "rb") as file:
        if found.st_size > MAX_FILE_BYTES:
            raise DamagedFileError(
                f"{found.st_size} bytes are more than {MAX_FILE_BYTES}"
            )
        try:
            arrays = _read_arrays(file, found.st_size, grammar)
        except DamagedFileError:
            raise
        except (
            *(zipfile.BadZipFile, zlib.error, EOFError, struct.error),
            *(ValueError, OverflowError, RuntimeError),  # NotImplementedError too
        ) as error:
            # It may quote a name in the archive.
            why = str(error)[:120] or type(error).__name__
            raise DamagedFileError(f"not a whole .npz archive: {why}") from None
        except OSError as error:
            # A wrong offset in the archive; real I/O errors pass.
            if error.errno != errno.EINVAL:
                raise
            raise DamagedFileError("an offset outside the file") from None
    return {k: array if array.ndim else array.item() for k, array in arrays.items()}


def array(path: str, key: Key) -> Array:
    """Return the array of a .npy file, with the dtype that it has to have.

    Raises
    ------
    DamagedFileError
    OSError
    """
    name = os.path.basename(path)
    with open(path, "rb") as file:
        header = _header(name, key, file.read(MAX_HEADER_BYTES))
        count = math.prod(header.shape)
        size = header.data_offset + count * np.dtype(header.dtype).itemsize
        if size != (found := os.fstat(file.fileno()).st_size):
            raise DamagedFileError(f"{name}: {size} bytes are needed, not {found}")
        file.seek(header.data_offset)
        found_array = np.fromfile(file, header.dtype, count)
    shaped = found_array.reshape(header.shape, order=header.order)
    return shaped.astype(shaped.dtype.newbyteorder("="), copy=False)


def write(path: str, arrays: Mapping[str, Any]) -> None:
    """Write a file, all of it or nothing: see `whole_file.replace`.

    ``path`` is used without a change; ".npz" is not added. No array may be of dtype
    object.
    """
    # In memory first: a ZipFile whose file fails raises again when closed.
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    whole_file.replace(path, archive.getbuffer())
