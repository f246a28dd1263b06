"""The operations of `loops` as tasks to be timed, beside the bulk forms of `tasks`.

fork loop    fork entry by entry; words as the encoding forks a table's: copied at once
             or shared
fork each    fork entry by entry; each entry's flag is tested and its word copied alone
update loop  write-protect entry by entry, then set one bit of the table's words at once
unmap loop   forget the table's words at once, then clear entry by entry

Each task has as many struct pages as its space has PTEs.
"""

from collections.abc import Callable

from extmeta import rows
from extmeta.checks import must, same
from extmeta.cost.loops import Loops
from extmeta.cost.measure import Task
from extmeta.cost.placement import lanes_of
from extmeta.cost.tasks import Filled
from extmeta.pagetable import PageTable


def _fork(f: Filled, each: bool) -> Task:
    vpns, expected = f.load.space.vpns, f.load.words
    loops = Loops(len(vpns), each)
    # Its PTEs become write-protected, so it is no other task's table.
    table = f.copy()

    def check(children: list[PageTable], _result: None) -> None:
        must(len(children) == 1, "no child")
        same(len(children[0]), len(table), "PTEs of the child")
        same(children[0].load(vpns), expected, "words differ from the parent's")

    return Task(
        list,
        lambda children: children.append(loops.fork(table)),
        check,
        list.clear,
        each=True,
    )


def fork(f: Filled) -> Task:
    """Fork entry by entry, words at once; the child is freed afterwards, untimed."""
    return _fork(f, each=False)


def fork_each(f: Filled) -> Task:
    """Fork entry by entry, words one by one."""
    return _fork(f, each=True)


def update(f: Filled) -> Task:
    """Write-protect entry by entry, and set a bit of every word."""
    vpns, span = f.load.space.vpns, f.load.space.range
    over = range(span.start, span.stop)
    keep = f.load.lanes((1 << 64 * f.table.encoding.lanes) - 1)
    add = lanes_of(f.load.set_bit, f.table.encoding.lanes)
    loops, table = Loops(len(vpns)), f.copy()

    def check(table: PageTable, _result: None) -> None:
        expected = f.load.words | f.load.lanes(f.load.set_bit)
        same(table.load(vpns), expected, "words differ from what was set")

    return Task(
        lambda: table,
        lambda table: loops.write(table, over, keep, add),
        check,
        f.refill,
        each=True,
    )


def unmap(f: Filled) -> Task:
    """Unmap the range entry by entry in a copy that owns its words.

    Huge pages stay, with the PTE tables deposited for them.
    """
    span = f.load.space.range
    loops = Loops(len(f.load.space.vpns))

    def check(table: PageTable, _result: None) -> None:
        must(len(table) == 0, "PTEs are left")
        table.unmap(span)
        held = table.memory()
        must(held.side == held.index == held.pte == 0, f"memory is left: {held}")

    return Task(
        f.copy,
        lambda table: loops.unmap(table, range(span.start, span.stop)),
        check,
        each=True,
    )


TASKS: dict[str, Callable[[Filled], Task]] = dict(
    zip(rows.LOOPS, (fork, fork_each, update, unmap), strict=True)
)
