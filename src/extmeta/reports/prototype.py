"""The table of a real kernel with words beside its PTE tables."""

from extmeta.cost.kernel.prototype import STOCK, Prototype
from extmeta.reports.layout import add_row, new_table, rendered, wrapped

# The kernel's operation, and the column's head. A first fork allocates what later ones
# find in caches.
SHOWN = (
    ("fork_1st", "fork\n1st"),
    ("fork_2nd", "fork\n2nd"),
    ("fork_3rd", "fork\n3rd"),
    ("mprotect_ro", "mprotect\nRO"),
    ("uffd_wp_on", "uffd-wp\non"),
    ("munmap", "munmap"),
)


def prototype_table(p: Prototype) -> str:
    """Return what words add to a kernel's own operations, in percent."""
    table = new_table("", [head for _op, head in SHOWN], 41, 8)
    add_row(table, STOCK, [f"{p.costs[op][STOCK]:.1f}" for op, _head in SHOWN])
    for form in p.forms:
        if form != STOCK:
            cells = [f"{100 * p.extra(op, form):+.1f}%" for op, _head in SHOWN]
            add_row(table, form, cells)
    return "\n".join((wrapped(prototype_line(p)), rendered(table)))


def prototype_line(p: Prototype) -> str:
    """Return where the counts are from, and what they leave out."""
    return (
        f"In a kernel: Linux {p.kernel}. {p.unit[:1].upper()}{p.unit[1:]}, and "
        "what 64-bit words add to those of the same kernel where no PTE has one. Rows of no "
        "word are beside the stock kernel, for which gcc makes other code. All PTEs "
        f"have a word unless the row says otherwise. {p.program}; {p.machine}. Left out: "
        f"{p.leaves_out}."
    )
