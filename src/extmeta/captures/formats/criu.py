"""Images of CRIU: a directory, or one of its files pagemap-PID.img, mm-PID.img, core-PID.img.

An image is two magic numbers, then messages, each behind its size, all little-endian
32-bit (https://criu.org/Images). The messages are protobuf's; `FIELDS` has what is read
of them. The package protobuf decodes them (``pip install 'extmeta[criu]'``).

A dump with a parent leaves out the pages that were not written since: they are in the
parent, or in its parent. Those that it has are soft-dirty in the capture. Pages of zeros,
shared memory, and pages of files that nobody wrote to are in no image. A pre-dump has no
mm image, so no VMAs.
"""

import functools
import os
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from extmeta.arrays import U64
from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.consistency import USER_VPNS
from extmeta.captures.formats import source
from extmeta.captures.formats.pages import captured
from extmeta.captures.formats.source import Source, unfolded
from extmeta.linux.pagewords import PAGE_BYTES, PAGE_SHIFT, PRESENT, SOFT_DIRTY

NAME = "images of CRIU"

# criu/include/magic.h, CRIU 3.17.
COMMON = 0x54564319
MAGICS = {"pagemap": 0x56084025, "mm": 0x57492820, "core": 0x55053847}

# Number and type of each field that is read: images/*.proto of CRIU. Since 4.0 nr_pages
# has 64 bits; on the wire it is the same.
FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "pagemap": {
        "vaddr": (1, "uint64"),
        "nr_pages": (2, "uint64"),
        "in_parent": (3, "bool"),
        "flags": (4, "uint32"),
    },
    "vma": {
        "start": (1, "uint64"),
        "end": (2, "uint64"),
        "shmid": (4, "uint64"),
        "prot": (5, "uint32"),
        "flags": (6, "uint32"),
        "status": (7, "uint32"),
    },
    "mm": {"vmas": (14, "vma")},
    "task": {"comm": (6, "bytes")},
    "core": {"tc": (3, "task")},
}

# A pagemap entry with this flag has its pages in the parent's image.
IN_PARENT = 1 << 0

# PROT_ and MAP_ bits, as mmap() takes them.
READ, WRITE, EXEC, SHARED = 1, 2, 4, 1

# This bit of a VMA's status says which kind of VMA it is.
NAMES = {1 << 1: "[stack]", 1 << 3: "[vdso]", 1 << 5: "[heap]", 1 << 12: "[vvar]"}
VSYSCALL = 1 << 2
OF_FILE = 1 << 6 | 1 << 7

# More parents than this are a loop of links.
MAX_PARENTS = 1000

_FILE = re.compile(r"(pagemap|mm|core)-(\d+)\.img")
_HEAD = struct.Struct("<II")
_SIZE = struct.Struct("<I")


def recognises(found: Source) -> bool:
    """Tell whether this is a directory of images, or one of those that are read."""
    if found.names:
        return any(_FILE.fullmatch(name) for name in found.names)
    if len(found.head) < _HEAD.size:
        return False
    common, magic = _HEAD.unpack_from(found.head)
    return common == COMMON and magic in MAGICS.values()


def read(found: Source) -> Capture:
    """Return the capture of the one process that was dumped, or of a file's."""
    folder = found.path if found.names else os.path.dirname(found.path) or "."
    names = found.names or [os.path.basename(found.path)]
    pids = {m[2] for name in names if (m := _FILE.fullmatch(name))}
    if not pids:
        raise CaptureError(f"{names[0]} is not named as CRIU names images")
    if len(pids) > 1:
        raise CaptureError(
            f"images of processes {', '.join(sorted(pids, key=int)[:9])}; name a file "
            f"of one, as {os.path.join(folder, f'pagemap-{min(pids, key=int)}.img')}"
        )
    (pid,) = pids
    first, stop, in_parent, nbytes = _runs(folder, pid)
    vpn = unfolded(first, stop, nbytes)
    parent = os.path.join(folder, "parent")
    lengths = (stop - first).astype(np.int64)
    entry = np.full(len(vpn), PRESENT, np.uint64)
    about = f"From images of CRIU, of process {pid}."
    if os.path.islink(parent) or in_parent.any():
        away = np.repeat(in_parent, lengths)
        entry[~away] |= np.uint64(SOFT_DIRTY)
        about += " Pages written since the parent's dump are soft-dirty."
        if os.path.isdir(parent):
            _check_parents(parent, pid, vpn[away])
        else:
            about += " The parent is not there."
    about += " Pages of zeros, and pages of files and shared memory, are not known."
    known: dict[str, Any] = {}
    if os.path.exists(path := _path(folder, "mm", pid)):
        known |= _vmas(path)
    if os.path.exists(path := _path(folder, "core", pid)):
        for core in _messages(path, "core"):
            known["comm"] = core.tc.comm.decode("utf-8", "backslashreplace")
    return captured(vpn, entry, about, **known)


def _path(folder: str, kind: str, pid: str) -> str:
    return os.path.join(folder, f"{kind}-{pid}.img")


def _runs(folder: str, pid: str) -> tuple[U64, U64, Any, int]:
    """Return a pagemap image's runs of pages, which the parent has, and its size."""
    path = _path(folder, "pagemap", pid)
    # The first message is another: the number of the file that has the pages.
    runs = [
        (entry.vaddr, entry.nr_pages, entry.in_parent or entry.flags & IN_PARENT)
        for number, entry in enumerate(_messages(path, "pagemap"))
        if number
    ]
    rows = np.array(runs, np.uint64).reshape(-1, 3)
    if (bad := rows[:, 0] % PAGE_BYTES != 0).any():
        raise CaptureError(f"pagemap: vaddr {int(rows[bad, 0][0]):#x}")
    if (bad := rows[:, 1] > USER_VPNS).any():
        raise CaptureError(f"pagemap: {int(rows[bad, 1][0])} pages")
    first = rows[:, 0] >> np.uint64(PAGE_SHIFT)
    return first, first + rows[:, 1], rows[:, 2] != 0, os.path.getsize(path)


def _check_parents(folder: str, pid: str, wanted: U64) -> None:
    """Refuse pages that should be in a parent and are in none of the chain."""
    for _ in range(MAX_PARENTS):
        if not len(wanted) or not os.path.exists(_path(folder, "pagemap", pid)):
            break
        first, stop, in_parent, nbytes = _runs(folder, pid)
        stored = unfolded(first[~in_parent], stop[~in_parent], nbytes)
        wanted = wanted[~np.isin(wanted, stored)]
        folder = os.path.join(folder, "parent")
    if len(wanted):
        raise CaptureError(f"page {int(wanted[0]):#x} is in no parent")


def _vmas(path: str) -> dict[str, Any]:
    rows = [vma for mm in _messages(path, "mm") for vma in mm.vmas]
    return {
        "vma_start": np.array([vma.start for vma in rows], np.uint64),
        "vma_end": np.array([vma.end for vma in rows], np.uint64),
        "vma_perms": np.array([_perms(vma) for vma in rows], "U4"),
        "vma_flags": np.full(len(rows), ""),
        "vma_name": np.array([_name(vma) for vma in rows], np.str_),
    }


def _perms(vma: Any) -> str:
    chars = zip((READ, WRITE, EXEC), "rwx", strict=True)
    told = "".join(char if vma.prot & bit else "-" for bit, char in chars)
    return told + ("s" if vma.flags & SHARED else "p")


def _name(vma: Any) -> str:
    if vma.status & OF_FILE:
        return f"file {vma.shmid}"
    return next((name for bit, name in NAMES.items() if vma.status & bit), "")


def _messages(path: str, kind: str) -> Iterator[Any]:
    """Yield the messages of an image."""
    name, message = os.path.basename(path), _classes()[kind]
    from google.protobuf.message import DecodeError

    try:
        data = source.content(path)
    except FileNotFoundError:
        raise CaptureError(f"{name} is not there") from None
    if data[: _HEAD.size] != _HEAD.pack(COMMON, MAGICS[kind]):
        raise CaptureError(f"{name}: {data[: _HEAD.size]!r} does not begin an image")
    at = _HEAD.size
    while at < len(data):
        start = at + _SIZE.size
        size = int.from_bytes(data[at:start], "little")
        at = start + size
        if at > len(data):
            raise CaptureError(f"{name}: a message of {size} bytes is not all there")
        try:
            yield message.FromString(data[start:at])
        except DecodeError as error:
            raise CaptureError(f"{name}: {str(error)[:80]}") from None


@functools.cache
def _classes() -> dict[str, Any]:
    """Return the classes of the messages in `FIELDS`, by kind."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise CaptureError(
            "images of CRIU need the package protobuf (pip install 'extmeta[criu]')"
        ) from None
    file = descriptor_pb2.FileDescriptorProto(
        name="extmeta_criu.proto", package="extmeta.criu", syntax="proto2"
    )
    types = descriptor_pb2.FieldDescriptorProto
    for kind, fields in FIELDS.items():
        described = file.message_type.add(name=kind)
        for name, (number, type_) in fields.items():
            field = described.field.add(name=name, number=number)
            field.label = types.LABEL_OPTIONAL
            if type_ in FIELDS:
                field.type = types.TYPE_MESSAGE
                field.type_name = f".extmeta.criu.{type_}"
                field.label = types.LABEL_REPEATED if name == "vmas" else field.label
            else:
                field.type = getattr(types, f"TYPE_{type_.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        kind: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"extmeta.criu.{kind}")
        )
        for kind in FIELDS
    }
