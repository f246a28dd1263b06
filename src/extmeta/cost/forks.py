"""Fork, write to a share of the child, exit: what sharing at fork costs in the end.

An encoding that shares words at fork copies them when one side writes first. A fork
that is thrown away unwritten doesn't show that, so here each task is a whole life: the
parent forks, the child changes the words of some PTEs, and unmaps everything. Writes go
either to one PTE in each of a share of the tables, or to a share of all PTEs at random,
by an ascending array of vpns.

Everything is timed but what Python does to free the child. The kernel has a page fault
before each write, which is in neither side.
"""

from collections.abc import Callable

import numpy as np

from extmeta.arrays import U64
from extmeta.checks import must, same
from extmeta.cost.measure import Task
from extmeta.cost.tasks import Filled
from extmeta.pagetable import PageTable
from extmeta.rows import LIVES, Life


def written(f: Filled, life: Life, seed: int = 0) -> tuple[U64, U64]:
    """Return the vpns that the child writes, ascending, and their new words.

    A new word is that of the PTE before it, so the kind of words stays as it is.
    """
    vpns, rng = f.load.flagged_vpns, np.random.default_rng(seed)
    if life.of == "tables":
        _, first, held = np.unique(
            vpns // np.uint64(f.table.arch.ptrs_per_pte),
            return_index=True,
            return_counts=True,
        )
        tables = rng.permutation(len(first))[: _share(life, len(first))]
        at = np.sort(first[tables] + rng.integers(held[tables]))
    else:
        at = np.sort(rng.permutation(len(vpns))[: _share(life, len(vpns))])
    return vpns[at], np.roll(f.load.flagged_words, 1, axis=0)[at]


def _share(life: Life, n: int) -> int:
    return min(n, max(round(life.share * n), int(life.share > 0)))


def lived(f: Filled, life: Life) -> Task:
    """Fork, write, exit; the parent has the words it had, unless pages have them."""
    vpns, words = written(f, life)
    span, table, kept = f.load.space.range, f.table, f.load.words
    if table.encoding.by_page:
        # Words that belong to pages are the parent's too.
        table, kept = f.copy(), kept.copy()
        kept[np.searchsorted(f.load.space.vpns, vpns)] = words

    def run(children: list[PageTable]) -> None:
        child = table.fork()
        children.append(child)
        if len(vpns):
            child.store(vpns, words)
        child.unmap(span)

    def check(children: list[PageTable], _result: None) -> None:
        must(len(children) == 1 and len(children[0]) == 0, "PTEs are left")
        same(table.load(f.load.space.vpns), kept, "the parent's words changed")
        child = table.fork()
        child.store(vpns, words)
        same(child.load(vpns), words, "words differ from what was stored")

    return Task(list, run, check, list.clear, each=True)


def task_of(life: Life) -> Callable[[Filled], Task]:
    """Return what makes the task of a life."""
    return lambda f: lived(f, life)


TASKS = {str(life): task_of(life) for life in LIVES}
