"""Measures one part of a sweep, and writes its file.

RAM is exact: each page table is built. Instructions are estimated from what was counted
once (:mod:`extmeta.cost.estimate`); nothing is timed, since workers share processors.
"""

import contextlib
import dataclasses
import functools
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from extmeta.arch import Arch, arch_named
from extmeta.captures import whole_file
from extmeta.captures.capture import Capture, CaptureError
from extmeta.cost import estimate, placement, sweep
from extmeta.cost.forms import fitting, form, in_pte
from extmeta.cost.space import DEFAULT_ARCH, Space, space_of
from extmeta.fields import Fields
from extmeta.fleet.job import COSTS, NAMES, OWN, PFNS, Job, Part, fields_in, fields_text
from extmeta.fleet.sources import Source, load
from extmeta.linux.pagewords import PFN_MASK, present
from extmeta.pagetable import PageTable
from extmeta.rows import BASELINE, OPERATIONS, Ram, Refused

# The figures of a Ram row.
BYTES = ("flagged", "upper", "pte", "side", "index", "slack", "links")

# The key of a file's metadata that lists the captures which could not be read.
BAD = b"extmeta.bad"

Bad = tuple[str, str]


class WriteError(Exception):
    """A file of the sweep can't be written; the message is one line."""


def columns() -> dict[str, str]:
    """Return the columns of a file, with their types in Arrow."""
    return {
        **dict.fromkeys(("machine", "capture", "comm", "kernel", "sha256"), "string"),
        **dict.fromkeys(("nr_ptes", "nr_tables", "nr_huge", "present_bytes"), "int64"),
        **dict.fromkeys(("encoding", "why"), "string"),
        "fraction": "float64",
        "placement": "string",
        **dict.fromkeys((*BYTES, "total"), "int64"),
        **{f"estimated_{name}": "float64" for name in OPERATIONS},
    }


def part_file(job: Job, folder: str, part: Part) -> tuple[int, int]:
    """Write the file of a part, unless it is there; return its number, and captures.

    Raises
    ------
    WriteError
    """
    if not os.path.exists(part.path):
        data = _parquet(*rows_of(job, folder, part))
        try:
            os.makedirs(os.path.dirname(part.path), exist_ok=True)
            whole_file.replace(part.path, data)
        except OSError as error:
            raise WriteError(f"{part.path}: {error.strerror}") from None
    return part.number, len(part.sources)


def _parquet(rows: Sequence[dict[str, Any]], bad: Sequence[Bad]) -> memoryview:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [pa.field(name, getattr(pa, of)()) for name, of in columns().items()],
        {BAD: json.dumps(bad).encode()},
    )
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), out, compression="zstd")
    return out.getbuffer()


def bad_of(path: str) -> list[Bad]:
    """Return the captures of a part that could not be read, and why."""
    import pyarrow.parquet as pq

    found = pq.read_schema(path).metadata[BAD]
    return [(name, why) for name, why in json.loads(found)]


def rows_of(
    job: Job, folder: str, part: Part
) -> tuple[list[dict[str, Any]], list[Bad]]:
    """Return the rows of a part, and the captures that could not be read."""
    rows: list[dict[str, Any]] = []
    bad: list[Bad] = []
    for number, source in enumerate(part.sources, part.first):
        name = f"capture {number}" if NAMES in job.drop else source.name
        try:
            capture = _loaded(job, source)
            arch = None if part.arch == OWN else part.arch
            space = space_of(capture, name, arch)
        except (CaptureError, OSError, MemoryError) as error:
            why = str(error).replace(source.given, name) or "out of memory"
            if NAMES in job.drop:
                why = type(error).__name__
            bad.append((name, why))
            continue
        about = _about(job, source, name, capture)
        rows += (about | row for row in _of_space(job, folder, part, space))
    return rows, bad


def _loaded(job: Job, source: Source) -> Capture:
    capture = load(source)
    if PFNS not in job.drop:
        return capture
    hidden = np.where(present(capture.entry), np.uint64(PFN_MASK), np.uint64(0))
    return dataclasses.replace(capture, entry=capture.entry & ~hidden)


def _about(job: Job, source: Source, name: str, capture: Capture) -> dict[str, Any]:
    if NAMES in job.drop:
        return {"machine": source.machine, "capture": name}
    return {
        "machine": source.machine,
        "capture": name,
        "comm": capture.comm,
        "kernel": capture.kernel,
        "sha256": capture.sha256,
    }


def _of_space(
    job: Job, folder: str, part: Part, space: Space
) -> Iterator[dict[str, Any]]:
    fields = fields_in(part.fields)
    held = sweep.Held(space, job.forms, fields, seed=job.seed, kind=job.words)
    subject, *refused = held.head
    about = {
        name: getattr(subject, name)
        for name in ("nr_ptes", "nr_tables", "nr_huge", "present_bytes")
    }
    yield from (about | _refusal(row) for row in refused)
    costs = costs_in(os.path.join(folder, COSTS)) if job.instructions else {}
    layout = estimate.layout_of(held.base)
    for point in placement.points(job.fractions, job.placements):
        loads = held.words(point)
        lies: dict[tuple[bool, tuple[int, ...]], estimate.Lie] = {}
        for row in held.at(point):
            if isinstance(row, Refused):
                yield about | _refusal(row)
            if not isinstance(row, Ram):
                continue
            load = loads[0] if in_pte(row.encoding) else loads[1]
            cost = costs.get(costs_key(space.arch, row.encoding, load.fields))
            estimated = {}
            if cost:
                key = in_pte(row.encoding), cost.level_bits
                if key not in lies:
                    lies[key] = estimate.lie(load, layout, cost.level_bits)
                estimated = cost.of(lies[key])
            yield {
                **about,
                "encoding": row.encoding,
                "fraction": row.fraction,
                "placement": row.placement,
                **{name: getattr(row, name) for name in (*BYTES, "total")},
                **{f"estimated_{name}": of for name, of in estimated.items()},
            }


def _refusal(row: Any) -> dict[str, Any]:
    return {"encoding": row.encoding, "why": f"{row.where}: {row.why}".lstrip(": ")}


# -- instructions ------------------------------------------------------------------


def costs_key(arch: str, encoding: str, fields: Fields) -> str:
    """Return the key of an encoding in the file of costs."""
    return f"{arch} {encoding} {fields_text(fields)}"


@functools.lru_cache(maxsize=1)
def costs_in(path: str) -> dict[str, estimate.Costs]:
    """Return the costs in a file, by `costs_key`."""
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    return {key: estimate.Costs.from_json(each) for key, each in found.items()}


def count_costs(job: Job, folder: str, processes: int) -> None:
    """Count the instructions that the job needs, and write them, unless they are there.

    Shards may do so at once: all use the file that is there first.
    """
    path = os.path.join(folder, COSTS)
    if os.path.exists(path):
        return
    found: dict[str, Any] = {}

    def counted(arch: Arch, share: Sequence[tuple[str, Fields]]) -> dict[str, Any]:
        costs = estimate.costs(share, arch.name, job.words)
        return {
            costs_key(arch.name, *its): cost.as_json()
            for its, cost in zip(share, costs, strict=True)
        }

    for name in job.arches:
        arch = arch_named(DEFAULT_ARCH if name == OWN else name)
        wanted = [each for text in job.fields for each in _held(job, arch, text)]
        shares = [share for at in range(processes) if (share := wanted[at::processes])]
        with ThreadPoolExecutor(processes) as pool:
            for each in pool.map(functools.partial(counted, arch), shares):
                found |= each
    draft = f"{path}.{os.urandom(8).hex()}"
    whole_file.replace(draft, json.dumps(dict(sorted(found.items()))).encode())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.unlink(draft)


def _held(job: Job, arch: Arch, text: str) -> list[tuple[str, Fields]]:
    """Return the encodings that can hold fields, with those that each gets."""
    fields = fields_in(text)
    kept = [fitting(fields, arch, has_swap) for has_swap in (False, True)]
    found = []
    for name in dict.fromkeys((BASELINE, *job.forms)):
        for its in kept if in_pte(name) else [fields]:
            # What an encoding refuses is told by the parts.
            with contextlib.suppress(ValueError):
                PageTable(form(name), its, arch.name)
                found.append((name, its))
    return list(dict.fromkeys(found))
