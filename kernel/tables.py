"""Writes what documents and reports show of results.json: `python kernel/tables.py`.

The tables of docs/kernel.md stand between comments that name them. The package ships
src/extmeta/data/prototype.json, which `extmeta compare` prints.
"""

import json
from pathlib import Path
from typing import Any

from extmeta.cost.kernel.prototype import STOCK, beside

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results.json"
DOCUMENT = ROOT / "docs/kernel.md"
SHIPPED = ROOT / "src/extmeta/data/prototype.json"

LIVES = ("life_0", "life_1", "life_10", "life_50", "life_100")
PAGE_LIVES = ("life_0", *(f"life_pages_{share}" for share in (1, 10, 50, 100)))
TABLE_LIVES = ("life_tables_1", "life_tables_10", "life_tables_50")
# Two boots agree on an operation if their counts differ by less than this.
ALIKE_BELOW = 0.0001
WORDS = ("set_words", "get_words", "peek_words")
HUGE_WORDS = ("huge_set", "huge_get", "huge_peek")
PTES_OF_HUGE = 512
# What is shown of huge pages that have a word.
HUGE = (
    STOCK,
    "linked, no word",
    "linked, side page copied at once",
    "linked, shared, counted",
    "adaptive, side page shared",
    "adjacent, copied at once",
)

# The core's operation, the kernel's, and whether only what is added is alike: the rest of
# the kernel's fork and munmap is about pages, which the core has none of.
ALIKE = (
    ("fork", "fork_2nd", True),
    ("unmap", "munmap", True),
    ("store", "set_words", False),
    ("load", "get_words", False),
    ("snapshot", "peek_words", False),
)
# The kernel's form that is like an encoding.
FORM_OF = {
    "linked": "linked, side page copied at once",
    "adjacent": "adjacent, copied at once",
}

# The containers of adaptive beside the side pages of linked, and what is shown of them.
CONTAINERS = (
    "linked, equal words",
    "linked, equal words, shared",
    "adaptive, equal words",
    "linked, 1% with a word",
    "linked, 1% with a word, shared",
    "adaptive, 1% with a word",
    "adaptive, 1% with a word, shared",
    "linked, side page copied at once",
    "linked, side page shared",
    "adaptive, side page copied at once",
    "adaptive, side page shared",
)
CONTAINED = ("fork_2nd", "child_exit2", "mremap_ptes", "munmap", *WORDS, "life_1")

Results = dict[str, Any]


def loaded() -> Results:
    """Return what was measured."""
    found: Results = json.loads(RESULTS.read_text())
    return found


def rendered(head: list[str], rows: list[list[str]]) -> str:
    """Return a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def extra(of: dict[str, float], form: str) -> str:
    """Return what a form adds to the count of what it is beside, in percent."""
    return f"{100 * (of[form] / of[beside(form)] - 1):+.1f} %"


def against_stock(results: Results, operations: list[str], forms: list[str]) -> str:
    """Return a table of operations: stock's count, and what forms add to it."""
    counts = results["instructions"]
    return rendered(
        ["", STOCK, *forms],
        [
            [
                name,
                f"{counts[name][STOCK]:.1f}",
                *(extra(counts[name], form) for form in forms),
            ]
            for name in operations
        ],
    )


def starting(results: Results, *starts: str) -> list[str]:
    """Return the forms whose names start so, in order."""
    return [
        form for form in results["instructions"]["munmap"] if form.startswith(starts)
    ]


def different(form: str) -> bool:
    """Say if each PTE has a word of its own, and the form is not adaptive."""
    return not form.startswith("adaptive") and not {"1%", "equal"} & {*form.split()}


def operations(results: Results) -> list[str]:
    """Return what the stock kernel does too, and no life."""
    return [
        name
        for name in results["instructions"]
        if name not in (*LIVES, *PAGE_LIVES, *TABLE_LIVES, *WORDS, *HUGE_WORDS)
    ]


# What the fork answer says, by form.
ANSWERS = {
    "linked, no word": "No PTE has a word",
    "linked, side page shared": "All have one, and the child shares the side pages",
    "linked, side page copied at once": "They are copied, a table at a time",
    "linked, each word copied in the loop": "Each is copied in the loop over PTEs",
    "in the loop, no word": "No PTE has a word, but the loop asks each",
    "adjacent, no word": "Tables of order 1, no word",
    "adjacent, copied at once": "Tables of order 1, all words copied",
}


def answer(results: Results) -> str:
    """Return what words add to fork(2)."""
    counts, cache = results["instructions"], results["cache"]["costs"]["fork_2nd"]
    forks = ("fork_1st", "fork_2nd", "fork_3rd")
    written = results["cache"]["columns"].index("written")
    return rendered(
        ["", "first fork", "second", "third", "bytes written a PTE, second"],
        [
            [
                said,
                *(extra(counts[fork], form) for fork in forks),
                f"{cache[form][written]:.0f}" if form in cache else "",
            ]
            for form, said in ANSWERS.items()
        ],
    )


def unused(results: Results) -> str:
    """Return what is paid where no PTE has a word."""
    forms = [form for form in starting(results, "") if form.endswith("no word")]
    return against_stock(results, operations(results), forms)


def used(results: Results) -> str:
    """Return what is paid where every PTE has a word."""
    forms = [
        form
        for form in starting(results, "linked", "adjacent")
        if different(form) and not form.endswith("no word")
    ]
    names = [name for name in operations(results) if not name.startswith("huge_")]
    return against_stock(results, names, forms)


def huge(results: Results) -> str:
    """Return the instructions a huge page, without a word and with one."""
    counts = results["instructions"]
    shown = [form for form in HUGE if form in counts["huge_fork"]]
    return rendered(
        ["", *shown],
        [
            [name]
            + [
                f"{PTES_OF_HUGE * count:,.0f}" if count else ""
                for count in (counts[name].get(form) for form in shown)
            ]
            for name in counts
            if name.startswith("huge_")
        ],
    )


def absolute(results: Results, names: tuple[str, ...]) -> str:
    """Return a table of counts a PTE, by form."""
    counts = results["instructions"]
    forms = [
        form
        for form in starting(results, "")
        if (names != WORDS and form == STOCK)
        or (counts["set_words"].get(form) and different(form))
    ]
    return rendered(
        ["", *names],
        [[form, *(f"{counts[name][form]:.1f}" for name in names)] for form in forms],
    )


def containers(results: Results) -> str:
    """Return what smaller containers save and cost: bytes a table, instructions a PTE."""
    counts, side_bytes = results["instructions"], results.get("side_bytes", {})
    shown = [form for form in CONTAINERS if form in side_bytes]
    return rendered(
        ["", "bytes a table", *CONTAINED],
        [
            [form, f"{side_bytes[form]:.0f}"]
            + [f"{counts[name][form]:.1f}" for name in CONTAINED]
            for form in shown
        ],
    )


def predicted(results: Results) -> str:
    """Return what the Cython core shows beside what the kernel does."""
    rows = []
    for ours, theirs, added in ALIKE:
        kernel = results["instructions"][theirs]
        for encoding, form in FORM_OF.items():
            core = results["model"]
            count, real = core[encoding][ours], kernel[form]
            if added:
                count, real = count - core["inpte"][ours], real - kernel[beside(form)]
            rows.append(
                [f"{ours}, {'added' if added else 'whole'}", encoding]
                + [f"{number:.1f}" for number in (count, real)]
            )
    return rendered(["", "", "core, callgrind", "kernel, icount"], rows)


def caches(results: Results) -> str:
    """Return bytes and modelled misses a PTE."""
    cache = results["cache"]
    columns = cache["columns"][1:]
    shown = ("fork_1st", "fork_2nd", "child_exit2", "mremap_ptes", "munmap")
    return rendered(
        ["", "", *columns],
        [
            [name, form, *(f"{value:.2f}" for value in values[1:])]
            for name in shown
            for form, values in cache["costs"][name].items()
        ],
    )


def repeated(results: Results) -> str:
    """Return how far two boots of one kernel differ, and in which operation most."""
    differ = results["boots_differ_by"]
    most = max(differ, key=lambda name: float(differ[name]))
    alike = sum(1 for value in differ.values() if value < ALIKE_BELOW)
    return (
        f"{100 * differ[most]:.3f} % at most ({most}), and less than "
        f"{100 * ALIKE_BELOW:.2f} % in {alike} of {len(differ)} operations"
    )


def measured_with(results: Results) -> str:
    """Return with what the figures were measured."""
    return "\n".join(
        f"- {name}: {value}"
        for name, value in (
            ("kernel", f"Debian's linux-source {results['linux']}"),
            ("sha256 of hooks.patch", results["patch_sha256"]),
            ("compiler", results["compiler"]),
            ("machine", results["qemu"]),
            ("command", f"`{results['command']}`, {results['date'][:10]}"),
            ("two boots differ by", repeated(results)),
        )
    )


TABLES = {
    "answer": answer,
    "measured with": measured_with,
    "unused": unused,
    "used": used,
    "words": lambda results: absolute(results, WORDS),
    "lives": lambda results: absolute(results, LIVES),
    "lives by pages": lambda results: absolute(results, PAGE_LIVES),
    "lives by tables": lambda results: absolute(results, TABLE_LIVES),
    "containers": containers,
    "huge": huge,
    "caches": caches,
    "predicted": predicted,
}


def document(text: str, results: Results) -> str:
    """Return a document whose tables are those of the results."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        if (text.count(begin), text.count(end)) != (1, 1):
            raise ValueError(f"{DOCUMENT} has no one place for the table {name!r}")
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = f"{before}{begin}{table(results)}\n{end}{after}"
    return text


def prototype(results: Results) -> dict[str, Any]:
    """Return what the package ships."""
    cache = results["cache"]
    return {
        "format": "extmeta prototype 1",
        "kernel": f"{results['linux'].partition('-')[0]}, x86_64, built with one form of "
        "64-bit words beside PTE tables at a time",
        "machine": "qemu -smp 1 -cpu max, its clock counts guest instructions (icount)",
        "program": f"{results['ptes'] // 256} MiB of anonymous memory, "
        f"{results['ptes']:,} PTEs of 4 KiB pages; the second run after a boot",
        "unit": "instructions a PTE, of the whole operation",
        "leaves_out": "cache misses, more than one processor, TLBs, and the kernel's time "
        "on real hardware; eight copied bytes count as an instruction or less",
        "forms": starting(results, ""),
        "costs": results["instructions"],
        "misses": {
            "program": f"{cache['ptes'] // 256} MiB, the first run; a model of an L1D of "
            "32 KiB, an L2 of 1 MiB and a last level of 16 MiB, data only",
            "unit": "misses a PTE in L1, L2 and the last level",
            "costs": {
                name: {form: values[3:] for form, values in of.items()}
                for name, of in cache["costs"].items()
            },
        },
    }


def shipped(results: Results) -> str:
    """Return the text of the package's file."""
    return json.dumps(prototype(results), indent=1) + "\n"


if __name__ == "__main__":
    measured = loaded()
    DOCUMENT.write_text(document(DOCUMENT.read_text(), measured))
    SHIPPED.write_text(shipped(measured))
