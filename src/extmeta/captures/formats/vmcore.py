"""A dump of a kernel's memory: ``dump-guest-memory`` of QEMU's QMP writes one.

drgn reads it (``pip install 'extmeta[drgn]'``), with the kernel's debug information. A
dump has the PTEs themselves, with their software bits. QEMU adds VMCOREINFO, which drgn needs, if it has ``-device
vmcoreinfo`` and the guest has loaded qemu_fw_cfg.

Only ELF dumps of x86-64 are read.
"""

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from extmeta.arrays import U64, Bools
from extmeta.captures import npz
from extmeta.captures.capture import Capture, CaptureError
from extmeta.captures.formats import page_tables
from extmeta.captures.formats.source import ALWAYS_PAGES, PAGES_PER_BYTE, Source
from extmeta.linux.pagewords import (
    FILE,
    LEAF_PAGES,
    PAGE_BYTES,
    present,
    vpn_bounds,
    within,
)

NAME = "a dump of a kernel's memory (ELF)"

# 64 bits, little-endian, and a type at byte 16: ET_CORE.
_ELF, _CORE_AT, _CORE = b"\x7fELF\2\1", 16, b"\4\0"

# Flags of a VMA: include/linux/mm.h.
_READ, _WRITE, _EXEC, _MAY_SHARE, _PFNMAP, _HUGETLB = 1, 2, 4, 0x80, 0x400, 1 << 22

# Processes that a message names.
NAMED = 9

_SILENT = logging.NullHandler()


class Vmas(NamedTuple):
    """VMAs: bounds in bytes and vm_flags, (V,) uint64 ndarrays, and names."""

    start: U64
    end: U64
    flags: U64
    names: list[str]


def recognises(found: Source) -> bool:
    """Tell whether this is a core dump, of a kernel or not."""
    head = found.head
    return head.startswith(_ELF) and head[_CORE_AT : _CORE_AT + 2] == _CORE


def read(
    found: Source,
    pid: int | None = None,
    vmlinux: str | os.PathLike[str] | None = None,
) -> Capture:
    """Return the capture of one process.

    Parameters
    ----------
    found : Source
    pid : int, optional
        By default the only process that has memory.
    vmlinux : path-like, optional
        The file with the kernel's debug information; by default drgn looks for it.
    """
    with _drgn_errors():
        program = _program(found.path, vmlinux)
        task = _task(program, pid)
        tables = _entries(program, task.mm, found.nbytes)
        vmas = _vmas(task.mm)
        known = {
            "vmpte_kb": task.mm.pgtables_bytes.counter.value_() // 1024,
            "kernel": _text(program["init_uts_ns"].name.release).partition("-")[0],
            "comm": _text(task.comm),
        }
        pid = task.pid.value_()
    return _captured(f"process {pid}", vmas, tables, known)


@contextmanager
def _drgn_errors() -> Iterator[None]:
    """Turn what drgn raises of a damaged dump into CaptureError.

    Its C code raises plain Exception too.
    """
    try:
        yield
    except (CaptureError, MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001
        why = str(error).partition("\n")[0] or type(error).__name__
        raise CaptureError(f"drgn: {why[:200]}") from None


def _program(path: str, vmlinux: str | os.PathLike[str] | None) -> Any:
    try:
        import drgn
    except ImportError:
        raise CaptureError(
            "a dump of memory needs the package drgn (pip install 'extmeta[drgn]')"
        ) from None
    # Without a handler, Python would print what drgn logs before it raises.
    logging.getLogger("drgn").addHandler(_SILENT)
    program = drgn.Program()
    program.set_core_dump(path)
    if not program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
        raise CaptureError("a core dump, but of no Linux kernel with VMCOREINFO")
    if program.platform.arch != drgn.Architecture.X86_64:
        raise CaptureError(f"a dump of {program.platform.arch.name}; x86_64 is read")
    try:
        program.load_debug_info([] if vmlinux is None else [vmlinux], main=True)
    except drgn.MissingDebugInfoError:
        where = "found: name its vmlinux" if vmlinux is None else f"in {vmlinux}"
        raise CaptureError(
            f"no debug information of the dumped kernel {where}"
        ) from None
    return program


def _task(program: Any, pid: int | None) -> Any:
    """Return the task of a process that has memory."""
    from drgn.helpers.linux.pid import find_task, for_each_task

    if pid is not None:
        task = find_task(program, pid)
        if not task:
            raise CaptureError(f"no process {pid}")
        if not task.mm:
            raise CaptureError(f"process {pid} has no memory of its own")
        return task
    tasks = [
        task
        for task in itertools.islice(for_each_task(program), npz.MAX_VMAS)
        if task.mm and task.pid == task.tgid
    ]
    if len(tasks) != 1:
        named = ", ".join(f"{t.pid.value_()} {_text(t.comm)}" for t in tasks[:NAMED])
        more = ", ..." if len(tasks) > NAMED else ""
        raise CaptureError(
            f"{len(tasks)} processes: name the pid of one: {named}{more}"
        )
    return tasks[0]


def _entries(program: Any, mm: Any, nbytes: int) -> page_tables.Entries:
    from drgn.helpers.linux.boot import pgtable_l5_enabled
    from drgn.helpers.linux.mm import virt_to_phys

    def read_table(address: int) -> bytes:
        return bytes(program.read(address, PAGE_BYTES, physical=True))

    found = page_tables.entries(
        virt_to_phys(mm.pgd).value_(),
        5 if pgtable_l5_enabled(program) else 4,
        read_table,
        nbytes // PAGE_BYTES,
    )
    pages = len(found.vpn) + LEAF_PAGES * len(found.huge_vpn)
    if pages > (most := min(ALWAYS_PAGES + PAGES_PER_BYTE * nbytes, npz.MAX_ENTRIES)):
        raise CaptureError(f"{pages} pages are more than {most}")
    return found


def _captured(
    who: str, vmas: Vmas, found: page_tables.Entries, known: dict[str, Any]
) -> Capture:
    pages = found.huge_vpn[:, None] + np.arange(LEAF_PAGES, dtype=np.uint64)
    words = page_tables.words(found.pte), page_tables.leaf_words(found.pmd)
    vpn: U64 = np.concatenate((found.vpn, pages.ravel()))
    order = np.argsort(vpn, kind="stable")
    vpn, entry = vpn[order], np.concatenate(words)[order]
    flags = vmas.flags

    def in_vmas_with(flag: int) -> Bools:
        chosen = flags & np.uint64(flag) != 0
        return within(vpn, vpn_bounds(vmas.start[chosen], vmas.end[chosen]))

    shared = in_vmas_with(_MAY_SHARE) & present(entry)
    entry[shared] |= np.uint64(FILE)
    # pagemap shows no words of device memory.
    shown = ~in_vmas_with(_PFNMAP)
    vpn, entry = vpn[shown], entry[shown]
    counts = page_tables.software(found.pte)
    software = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    about = (
        f"From a dump of a kernel's memory, {who}. Present PTEs with software bits: "
        f"{software or 'none'}. Soft-dirty is the PTE's bit alone, not the VMA's. "
        "Of pages in private VMAs it is not known whether they are a file's."
    )
    if found.left_out:
        about += f" Left out: {found.left_out:,} leaves of 1 GiB, or that migrate."
    return Capture(
        vma_start=vmas.start,
        vma_end=vmas.end,
        vma_perms=np.array([_perms(flag) for flag in flags.tolist()], "U4"),
        vma_flags=np.where(flags & np.uint64(_HUGETLB) != 0, "ht", ""),
        vma_name=np.array(vmas.names, np.str_),
        vpn=vpn,
        entry=entry,
        vmrss_kb=int(np.count_nonzero(present(entry))) * PAGE_BYTES // 1024,
        huge_vpn=found.huge_vpn,
        huge_marked=True,
        about=about,
        **known,
    )


def _vmas(mm: Any) -> Vmas:
    from drgn.helpers.linux.mm import for_each_vma

    count = mm.map_count.value_()
    if not 0 <= count <= npz.MAX_VMAS:
        raise CaptureError(f"{count} VMAs")
    # A damaged tree may have more.
    vmas = list(itertools.islice(for_each_vma(mm), count))
    start, end, flags = (
        np.array([getattr(vma, key).value_() for vma in vmas], np.uint64)
        for key in ("vm_start", "vm_end", "vm_flags")
    )
    return Vmas(start, end, flags, [_name(mm, vma) for vma in vmas])


def _name(mm: Any, vma: Any) -> str:
    if vma.vm_file:
        return os.path.basename(_text(vma.vm_file.f_path.dentry.d_name.name))
    if vma.vm_start <= mm.brk and vma.vm_end >= mm.start_brk:
        return "[heap]"
    if vma.vm_start <= mm.start_stack < vma.vm_end:
        return "[stack]"
    return ""


def _perms(flags: int) -> str:
    chars = zip((_READ, _WRITE, _EXEC), "rwx", strict=True)
    told = "".join(char if flags & bit else "-" for bit, char in chars)
    return told + ("s" if flags & _MAY_SHARE else "p")


def _text(string: Any) -> str:
    return str(string.string_().decode("utf-8", "backslashreplace"))
