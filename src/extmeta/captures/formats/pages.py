"""A capture from the pages alone, for formats that know neither VMAs nor VmPTE."""

import dataclasses
from typing import Any

import numpy as np

from extmeta.arrays import U64
from extmeta.captures.capture import Capture
from extmeta.linux.pagewords import LEAF_PAGES, PAGE_BYTES, PAGE_SHIFT

# For a process's name or a kernel's release.
NOT_KNOWN = "not known"

# What such a format does not tell; a sentence of `Capture.about`.
NO_VMAS = "VMAs are not known: pages less than 2 MiB apart are in one, writable."
NO_VMPTE = "VmPTE is not known: it is what the pages need."


def vmas_around(vpn: U64) -> dict[str, Any]:
    """Return the VMAs of a capture that knows only its pages, by key.

    A hole of at least `LEAF_PAGES` pages starts another VMA.
    """
    apart = np.flatnonzero(np.diff(vpn) > LEAF_PAGES)
    first = vpn[np.concatenate((np.zeros(len(vpn[:1]), np.int64), apart + 1))]
    last = vpn[np.concatenate((apart, np.arange(len(vpn))[-1:]))]
    return {
        "vma_start": first << np.uint64(PAGE_SHIFT),
        "vma_end": (last + np.uint64(1)) << np.uint64(PAGE_SHIFT),
        "vma_perms": np.full(len(first), "rw-p"),
        "vma_flags": np.full(len(first), ""),
        "vma_name": np.full(len(first), ""),
    }


def captured(vpn: U64, entry: U64, about: str, **known: Any) -> Capture:
    """Return the capture of some pages.

    Parameters
    ----------
    vpn, entry : (N,) uint64 ndarray
        As in `Capture`.
    about : str
        What the format tells. What it does not is added.
    **known
        Other arguments of `Capture` that the format tells.

    Raises
    ------
    CaptureError
        If a part is inconsistent.
    """
    if "vma_start" not in known:
        known |= vmas_around(vpn)
        about = f"{about} {NO_VMAS}"
    rest: dict[str, Any] = {
        "kernel": NOT_KNOWN,
        "comm": NOT_KNOWN,
        "vmpte_kb": 0,
        "vmrss_kb": 0,
    }
    made = Capture(vpn=vpn, entry=entry, about=about, **(rest | known))
    return made if "vmpte_kb" in known else sized(made)


def sized(made: Capture) -> Capture:
    """Return a capture with VmPTE and VmRSS as its pages need them."""
    need = made.tables_needed()
    return dataclasses.replace(
        made,
        vmpte_kb=(need.pte + need.pmd + need.pud) * PAGE_BYTES // 1024,
        vmrss_kb=made.nr_present * PAGE_BYTES // 1024,
        about=f"{made.about} {NO_VMPTE}",
    )
