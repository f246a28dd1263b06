"""Public objects go through pickle and copy as they are."""

import copy
import inspect
import multiprocessing
import pickle

import numpy as np
import pytest

import extmeta as em
from extmeta.arch import arch_named
from extmeta.testing.machine import dump

SMALL = em.Fields(uffd_wp=1, soft_dirty=1, age=1)
WAYS = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def conflict():
    with pytest.raises(em.PlanConflict) as caught:
        em.plan(em.Fields(a=1, b=1), excludes=[("a", "b")], implies=[("a", "b")])
    return caught.value


def space():
    made = em.AddressSpace(em.Fields(uffd_wp=1, soft_dirty=1))
    made.mmap(1 << 30, 1 << 16)
    made.write(1 << 30, 8192)
    return made


def trace():
    return em.Trace(
        vpns=np.array([1], np.uint64),
        rounds=np.array([0, 1]),
        vmas=np.array([[1, 2]], np.uint64),
        interval=1.0,
        comm="a",
        release="6.18",
        how="WP_ASYNC",
    )


def filled(encoding="linked", arch="x86_64"):
    """Return a table with everything that a table can hold."""
    table = em.PageTable(encoding, SMALL, arch)
    size = table.huge_ptes()
    table.map(range(5, 600), writable=False)
    table.map([700, 701, 9 * size], pfns=[7, 8, 9])
    swapped = [6, 700]
    table.swap_out(swapped, [3, table.arch.nr_slots - 1])
    if not table.encoding.by_page:
        table.store(swapped, [1, 2])
    table.store(range(10, 20), [1, 2, 4, 1, 2, 4, 1, 2, 4, 0])
    table.map_huge(12 * size, pfns=size)
    table.map_huge(13 * size, pfns=2 * size, deposit=True)
    return table


class Doubles(em.PythonEncoding):
    """Keeps words in a dict."""

    def __init__(self):
        self.words = {}

    def load(self, vpns):
        return [self.words.get(vpn, 0) for vpn in vpns.tolist()]

    def store(self, vpns, words):
        self.words |= dict(zip(vpns.tolist(), words.tolist(), strict=True))

    def side_bytes(self):
        return 8 * len(self.words)


# With several architectures only RAM is compared.
ARCHES = ("x86_64", "arm64_4k")

# One of each public class, and how to tell that another is equal.
EXAMPLES = {
    "AddressSpace": (space, lambda a: a.pagemap(1 << 30, 1 << 16).tolist()),
    "Capture": (lambda: em.load_capture(em.shipped()["redis"]), lambda c: c.sha256),
    "CaptureError": (lambda: em.CaptureError("process 5 has exited"), str),
    "Fields": (lambda: SMALL, lambda f: (f, hash(f), f.mask("age"))),
    "Memory": (lambda: filled().memory(), lambda m: m),
    "Interrupted": (
        lambda: em.Interrupted(em.compare("redis", encodings="linked", arch=ARCHES)),
        lambda e: (str(e), e.result.rows),
    ),
    "PageTable": (filled, dump),
    "Plan": (lambda: em.plan(SMALL, excludes=[("uffd_wp", "soft_dirty")]), repr),
    "PlanConflict": (conflict, lambda e: (str(e), e.field, e.constraints)),
    "PythonEncoding": (Doubles, lambda e: (repr(e), type(e))),
    "Refused": (lambda: em.Refused("no bit"), str),
    "Trace": (trace, lambda t: (t.vpns.tolist(), t.comm, t.interval)),
    "UffdEvent": (lambda: em.UffdEvent("REMAP", 1, 2, 3), tuple),
    "UserFault": (lambda: em.UserFault(4096), lambda e: (str(e), e.address)),
    **{
        type(recipe).__name__: (lambda recipe=recipe: recipe, repr)
        for recipe in (
            *(em.Adaptive(), em.Adjacent(when="needed"), em.Linked(bits=128)),
            *(em.Hash(), em.InPte(), em.PageExt(), em.Wide(), em.XArray()),
            em.Compact(per_vma=[("uffd_wp", "soft_dirty")]),
        )
    },
}


def test_every_public_class_has_an_example():
    public = {n for n in em.__all__ if inspect.isclass(getattr(em, n))}
    assert public == set(EXAMPLES)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_copy_is_equal(name, way):
    make, shown = EXAMPLES[name]
    first = make()
    second = WAYS[way](first)
    assert type(second) is type(first)
    assert shown(second) == shown(first)
    for array in vars(second).values() if name in ("Capture", "Trace") else ():
        assert not isinstance(array, np.ndarray) or not array.flags.writeable


def entries(table):
    """Return the live entries; their flags and words are in them."""
    return {vpn: view.tolist() for vpn, view in table.tables.items()}


@pytest.mark.parametrize("arch", ["x86_64", "s390x", "ppc64_hash_64k", "arm64_64k"])
def test_a_table_of_every_encoding(encoding, arch):
    try:
        table = filled(encoding, arch_named(arch).name)
    except (KeyError, ValueError) as error:
        pytest.skip(str(error))  # not every encoding holds these fields
    again = WAYS["pickle"](table)
    assert entries(again) == entries(table)
    assert [x.tolist() for x in again.leaves()] == [x.tolist() for x in table.leaves()]
    assert dump(again) == dump(table)
    again.check()
    # They share nothing, and count pfns on from the same one.
    before = dump(table)
    again.map(3)
    again.update(range(10, 600), set=1)
    assert dump(table) == before
    table.map(3)
    assert table.snapshot(3)[0] >> table.arch.pfn_shift == (
        again.snapshot(3)[0] >> table.arch.pfn_shift
    )


def test_what_vmas_have_chosen_is_copied():
    fields = em.Fields(uffd_wp=1, soft_dirty=1)
    table = em.PageTable(em.Compact(per_vma=[("uffd_wp", "soft_dirty")]), fields)
    table.encoding.choose(100, 200, "soft_dirty")
    table.map([50, 150])
    table.store([50, 150], [1, 2])
    for way in WAYS.values():
        again = way(table)
        assert again.load([50, 150]).tolist() == [1, 2]
        with pytest.raises(ValueError, match="soft_dirty holds it"):
            again.store(150, 1)


def test_a_copy_of_an_address_space_is_its_own():
    first = space()
    for way in WAYS.values():
        second = way(first)
        second.munmap(1 << 30, 4096)
        assert first.pagemap(1 << 30, 4096)[0] != 0


def flagged_in(table, results):
    results.put((len(table), table.scan(slice(0, 600), 1).tolist()))


def test_a_table_is_sent_to_a_spawned_process():
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    table = filled()
    child = context.Process(target=flagged_in, args=(table, results))
    child.start()
    assert results.get(timeout=120) == (
        len(table),
        table.scan(slice(0, 600), 1).tolist(),
    )
    child.join()
