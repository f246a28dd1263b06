"""Instructions between lock and unlock of a PTE table, and bytes set aside for it.

    python benchmarks/under_lock.py [ENCODING ...]

`extmeta compare --lock` counts these for any fields and words, and times operations too.
Here every PTE of eight full tables has a word of 64 bits of its own; inpte has as many
of them as fit. Counts are in thousands, for a table, by callgrind. They repeat with the
same compiler. Behind the stroke is the longest section, if it is 10 % above the mean.
"""

import argparse
import sys

from options import encoding

import extmeta as em
from extmeta.cost import instructions
from extmeta.cost.demands import demanded
from extmeta.cost.locked import locked
from extmeta.cost.space import DEFAULT_ARCH
from extmeta.rows import SET_ASIDE, Demand, Locked

WORD = em.Fields(meta=64)
ENCODINGS = ("linked", "adaptive", "xarray", "hash")
OPERATIONS = {
    "fork": "fork",
    "fork each": "fork each",
    "first words": "first words",
    "set a bit": "set a bit",
    "change one word": "change one",
    "one after fork": "after fork",
    "unmap": "unmap",
}


def cell(row: Locked) -> str:
    # A fork word by word locks twice, so its longest section may be below the sum.
    most = f"/{row.held_most / 1000:.2f}" if row.held_most > 1.1 * row.held else ""
    return f"{row.held / 1000:.2f}{most}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("encodings", nargs="*", type=encoding, metavar="ENCODING")
    names = parser.parse_args().encodings or ENCODINGS
    if why := instructions.missing():
        sys.exit(why)
    counts = {
        (row.encoding, row.operation): row
        for row in locked(names, WORD)
        if isinstance(row, Locked)
    }
    aside = {
        row.encoding: row.aside
        for row in demanded(names, WORD, DEFAULT_ARCH)
        if isinstance(row, Demand) and row.operation == SET_ASIDE
    }
    encodings = list(dict.fromkeys(name for name, _operation in counts))
    print(f"{'':14}" + "".join(f"{name:>14}" for name in encodings))
    for operation, title in OPERATIONS.items():
        cells = (cell(counts[name, operation]) for name in encodings)
        print(f"{title:14}" + "".join(f"{text:>14}" for text in cells))
    sizes = (aside.get(name) for name in encodings)
    texts = ("unknown" if size is None else f"{size:,.0f}" for size in sizes)
    print(f"{'bytes aside':14}" + "".join(f"{text:>14}" for text in texts))


if __name__ == "__main__":
    main()
