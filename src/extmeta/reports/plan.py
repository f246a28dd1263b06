"""A plan as text and JSON: bits needed, bits available, what is lost."""

import json
import textwrap
from collections.abc import Iterator, Sequence

from extmeta.arch import bit_ranges
from extmeta.encodings.plan import Plan

COLUMNS = 80

# The most codes and remedies that are listed.
NAMED = 16
REMEDIES = 5

# Bits of a code in one row of the ruler.
IN_A_ROW = 15


def to_json(p: Plan) -> str:
    """Return a plan as JSON."""
    room = p.assignment
    document = {
        "fields": dict(p.fields),
        "arch": p.arch.name,
        "release": p.arch.release,
        "constraints": [{"kind": c.kind, "names": c.names} for c in p.constraints],
        "combinations": p.combinations,
        "bits": p.bits,
        "available": p.available,
        "available_swap": p.available_swap,
        "fits": p.fits,
        "fits_swap": p.fits_swap,
        "missing": p.missing,
        "missing_swap": p.missing_swap,
        "cleared": p.cleared,
        "flushed": p.flushed,
        "assignment": {
            "present": room.present,
            "swap": room.swap,
            "codes": [
                {"choice": choice, "codes": codes}
                for choice, codes in room.codes.items()
            ],
        },
        "lost": p.lost,
        "remedies": p.remedies,
        "side_bytes": p.side,
    }
    return json.dumps(document, indent=1)


def text(p: Plan) -> str:
    """Return a plan for people, at most 80 columns wide unless names are long."""
    fields = ", ".join(f"{name}={bits}" for name, bits in p.fields.items())
    lines = [*_wrapped(f"{p.arch.name}: {fields} ({_bits(p.fields.bits)})")]
    for c in p.constraints:
        lines += _wrapped(str(c), "  ")
    lines += [
        "",
        f"  combinations  {_count(p.combinations)}",
        f"  bits          {p.bits}",
        f"  present PTE   {_verdict(p.available, p.missing)}",
        f"  swap entry    {_verdict(p.available_swap, p.missing_swap)}",
        *_remedies(p),
        "",
        *_ruler(p),
        *_in_mprotect(p),
        *_codes(p),
    ]
    if p.lost:
        lines += ["", "Can't be expressed any more:"]
        for what in p.lost:
            lines += _wrapped(what, "  - ")
    lines += [
        "",
        f"Instead, for each PTE table ({p.arch.ptrs_per_pte} PTEs) with a word:",
    ]
    side = {**p.side, "adjacent": p.side.get("adjacent")}
    for name, nbytes in side.items():
        cost = "words are wider than 64 bits" if nbytes is None else f"{nbytes:,} bytes"
        lines.append(f"  {name:<10}{cost}")
    return "\n".join(lines)


def _bits(n: int) -> str:
    return f"{n} bit" if n == 1 else f"{n} bits"


def _count(n: int) -> str:
    """Return a number, rounded to a power of two if it is long."""
    return f"{n:,}" if n < 10**15 else f"2**{n.bit_length() - 1} or more"


def _verdict(available: int, missing: int) -> str:
    have = f"has {available}"
    return f"{have}: {missing} missing" if missing else f"{have}: fits"


def _wrapped(line: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        line,
        COLUMNS,
        initial_indent=indent,
        subsequent_indent=" " * max(len(indent), 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _remedies(p: Plan) -> Iterator[str]:
    if p.fits:
        return
    if not p.remedies:
        yield "  no single pair of fields would make it fit by excluding each other"
        return
    shown = [f"--exclude {a},{b}" for a, b in p.remedies[:REMEDIES]]
    more = len(p.remedies) - len(shown)
    yield from _wrapped(
        f"fits with one of: {'; '.join(shown)}{f'; {more} more' if more else ''}",
        "  ",
    )


def _ruler(p: Plan) -> Iterator[str]:
    """Yield the bits of the code above those that hold them."""
    room = p.assignment
    rows = {
        "bit of code": range(p.bits),
        "present PTE": room.present,
        "swap entry": room.swap,
    }
    # Bits without a place are counted above; a plan may need hundreds.
    width = max(len(room.present), len(room.swap), 1)
    for start in range(0, width, IN_A_ROW):
        for name, bits in rows.items():
            row = bits[start : min(start + IN_A_ROW, width)]
            yield f"  {name:<14}{_cells(row, min(IN_A_ROW, width - start))}".rstrip()


def _in_mprotect(p: Plan) -> Iterator[str]:
    if p.cleared:
        yield from _wrapped(
            f"mprotect clears {bit_ranges(p.cleared)}: a kernel has to add them to "
            "_PAGE_CHG_MASK, which is one line",
            "  ",
        )
    if p.flushed and p.arch.unflushed:
        yield from _wrapped(
            f"in mprotect a change of {bit_ranges(p.flushed)} alone {p.arch.flush}",
            "  ",
        )


def _cells(bits: Sequence[int], n: int) -> str:
    cells = [str(bit) for bit in bits] + ["-"] * (n - len(bits))
    return "".join(f"{cell:>4}" for cell in cells)


def _codes(p: Plan) -> Iterator[str]:
    if p.combinations > NAMED:
        return
    for choice, codes in p.assignment.codes.items():
        yield ""
        where = f", where VMAs have {', '.join(choice)}" if choice else ""
        yield f"  code{where}"
        for code, values in sorted(codes.items()):
            named = [
                name if p.fields[name] == 1 else f"{name}={value}"
                for name, value in values.items()
            ]
            yield f"  {code:>4}  {', '.join(named) or 'none'}"
