"""What a sweep measures, and the files it writes.

A sweep is divided into parts: some captures, on one architecture, with one set of
fields. Each part is one Parquet file, whose name follows from the part alone. A file is
renamed to its name when it is complete, so a part is done if its file exists.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from extmeta.captures import whole_file
from extmeta.fields import Fields
from extmeta.fleet.sources import Source

# The description of the sweep, and its instructions. Readers of Parquet skip "_".
DESCRIPTION = "_sweep.json"
COSTS = "_costs.json"
FORMAT = "extmeta sweep 1"

# The architecture of each capture itself.
OWN = "own"

# What --drop leaves out.
PFNS, NAMES = "pfns", "names"
DROPPED = (PFNS, NAMES)

# Captures of a part: some seconds of work, and 1,440 rows with 9 encodings at 5 points.
CAPTURES = 32


@dataclass(frozen=True)
class Job:
    """What is measured of each capture.

    Attributes
    ----------
    arches : tuple of str
        `OWN` stands for the capture's.
    fields : tuple of str
        Sets of fields, each as `fields_text` writes it.
    forms : tuple of str
        See `forms.form`.
    fractions : tuple of float
    placements : tuple of str
    words : str
        See `placement.words`.
    seed : int
    drop : tuple of str
        Some of `DROPPED`. PFNS: page frame numbers are not used. NAMES: no row has the
        name of a file, machine or process, or the release of a kernel.
    instructions : bool
        Whether instructions are estimated.
    """

    arches: tuple[str, ...]
    fields: tuple[str, ...]
    forms: tuple[str, ...]
    fractions: tuple[float, ...]
    placements: tuple[str, ...]
    words: str
    seed: int
    drop: tuple[str, ...]
    instructions: bool


class Part(NamedTuple):
    """Some captures, on one architecture, with one set of fields.

    Attributes
    ----------
    number : int
        Of all parts of the sweep.
    path : str
        Of its file.
    arch, fields : str
    first : int
        Number of its first source.
    sources : list of Source
    """

    number: int
    path: str
    arch: str
    fields: str
    first: int
    sources: list[Source]


def fields_text(fields: Fields) -> str:
    """Return fields as "NAME:BITS,...", which may be a part of a path."""
    return ",".join(f"{name}:{bits}" for name, bits in fields.items())


def fields_in(text: str) -> Fields:
    """Return what `fields_text` wrote."""
    parts = (part.split(":") for part in text.split(","))
    return Fields(**{name: int(bits) for name, bits in parts})


def parts(job: Job, folder: str, sources: Sequence[Source]) -> list[Part]:
    """Return the parts of a sweep over sources in order."""

    def each() -> Iterator[Part]:
        number = 0
        for arch in job.arches:
            for fields in job.fields:
                where = os.path.join(folder, f"arch={arch}", f"fields={fields}")
                for first in range(0, len(sources), CAPTURES):
                    path = os.path.join(where, f"part-{first // CAPTURES:06}.parquet")
                    some = list(sources[first : first + CAPTURES])
                    yield Part(number, path, arch, fields, first, some)
                    number += 1

    return list(each())


def described(job: Job, sources: Sequence[Source]) -> dict[str, Any]:
    """Return what `DESCRIPTION` says: the job, and which captures it is of."""
    names = "\n".join(source.name for source in sources)
    return {
        "format": FORMAT,
        **dataclasses.asdict(job),
        "captures": len(sources),
        "names_sha256": hashlib.sha256(names.encode("utf-8", "replace")).hexdigest(),
        "captures_of_a_part": CAPTURES,
    }


def begin(job: Job, folder: str, sources: Sequence[Source]) -> None:
    """Write the description, unless it is there.

    Raises
    ------
    ValueError
        If the folder has another sweep; it names the difference.
    OSError
        If the folder can't be written to.
    """
    wanted = json.loads(json.dumps(described(job, sources)))
    path = os.path.join(folder, DESCRIPTION)
    os.makedirs(folder, exist_ok=True)
    try:
        with open(path, encoding="utf-8") as file:
            there = dict(json.load(file))
    except FileNotFoundError:
        whole_file.replace(path, json.dumps(wanted, indent=1).encode() + b"\n")
        return
    except (TypeError, ValueError):
        raise ValueError(f"{path}: not the description of a sweep") from None
    for key in {**wanted, **there}:
        if there.get(key) != wanted.get(key):
            raise ValueError(
                f"{folder}: another sweep is there, with {key} {there.get(key)!r} and "
                f"not {wanted.get(key)!r}"
            )
