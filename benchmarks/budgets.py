"""Does any operation take more instructions than it is allowed?

    python benchmarks/budgets.py                    fails above the budget, tells why
    python benchmarks/budgets.py --update REASON    writes what is counted now

budgets.json has the instructions of each encoding, fraction of flagged PTEs and
operation, as `extmeta.cost.instructions` counts them in one run of callgrind (30 s), and
the reason of each update. Counts repeat to the digit with the same compiler; with another
one, differences are printed but do not fail.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import extmeta as em
from extmeta import pagetable
from extmeta.cost import instructions, origin
from extmeta.cost.instructions import FUNCTIONS, PTES

FILE = Path(__file__).with_name("budgets.json")

# An operation may take this much more than its budget.
TOLERANCE = 0.02

# Methods of PageTable have Python in them: those of `adaptive` took 13,000 instructions
# more if other encodings were counted before.
METHOD_SLACK = PTES // 2

Counts = dict[str, dict[str, dict[str, int]]]


def counted() -> Counts:
    """Return the instructions of each encoding, fraction and operation."""
    found = instructions.count_each(em.encodings())
    return {
        encoding: {f"{fraction:g}": of for fraction, of in by_fraction.items()}
        for encoding, by_fraction in found.items()
    }


def compiler() -> str:
    """Return the compiler that the extensions were built with, as they name it."""
    built = Path(pagetable.__file__).read_bytes()
    found = re.search(rb"GCC: [^\0]+|clang version [^\0]+", built)
    return found[0].decode() if found else ""


def differences(budget: Counts, now: Counts) -> tuple[list[str], list[str]]:
    """Return a line for each count that is above its budget, and for each below.

    What is in one of them alone counts as above: the budgets have to be updated.
    """
    above, below = [], []
    there, here = _flat(budget), _flat(now)
    for key in {**there, **here}:
        name = f"{key[0]:<9} {float(key[1]):>4.0%} {key[2]:<12}"
        if key not in here or key not in there:
            gone = "is not counted any more" if key in there else "has no budget"
            above.append(f"{name} {gone}")
            continue
        was, is_ = there[key], here[key]
        method = not FUNCTIONS[key[2]][0].__name__.startswith("extmeta.table")
        allowed = TOLERANCE * was + METHOD_SLACK * method
        line = (
            f"{name} {was / PTES:>9.3f} -> {is_ / PTES:>9.3f} instructions a PTE, "
            f"{is_ / was - 1:+.1%}"
        )
        if is_ - was > allowed:
            above.append(line)
        elif was - is_ > allowed:
            below.append(line)
    return above, below


def _flat(counts: Counts) -> dict[tuple[str, str, str], int]:
    return {
        (encoding, fraction, operation): number
        for encoding, by_fraction in counts.items()
        for fraction, by_operation in by_fraction.items()
        for operation, number in by_operation.items()
    }


def updated(stored: dict[str, Any], now: Counts, reason: str) -> dict[str, Any]:
    """Return what to store after an update, and why it was made."""
    made = origin.provenance([], 0)
    note = {"date": made["date"], "commit": made["commit"], "reason": reason}
    reasons = [*stored.get("reasons", []), note]
    return {"compiler": compiler(), "reasons": reasons, "counts": now}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", metavar="REASON", help="store what is counted now")
    reason = parser.parse_args().update
    if reason is not None and not reason.strip():
        parser.error("--update: a reason is needed")
    if why := instructions.missing():
        sys.exit(why)
    stored = json.loads(FILE.read_text()) if FILE.exists() else {"counts": {}}
    held = stored.get("compiler", compiler()) == compiler()
    if not held:
        print(f"Not held: budgets are of {stored['compiler']}, this is {compiler()}.")
    now = counted()
    above, below = differences(stored["counts"], now)
    for title, lines in (
        (f"above the budget by more than {TOLERANCE:.0%}", above),
        ("below, so that the budget may be lowered", below),
    ):
        if lines:
            print(f"{len(lines)} {title}:", *lines, sep="\n  ")
    if reason is not None:
        FILE.write_text(json.dumps(updated(stored, now, reason), indent=1) + "\n")
        print(f"{FILE.name} is written")
        return 0
    print(f"{len(_flat(now)):,} counts compared, {len(above)} above the budget")
    return 1 if above and held else 0


if __name__ == "__main__":
    sys.exit(main())
