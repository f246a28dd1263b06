"""Memory set aside, so that operations as under a table's lock allocate nothing."""

import threading

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

import extmeta as em
from extmeta.memory.allowance import fail_after
from extmeta.testing.machine import REFUSED, AgainstDict, dump, ranges, seeds, vpn, vpns

NARROW = em.Fields(uffd_wp=1, soft_dirty=1, age=2)
WIDE = em.Fields(meta=60, age=4)
FORMS = {
    "inpte": NARROW,
    "compact": NARROW,
    "adjacent": WIDE,
    em.Adjacent(when="needed"): WIDE,
    "linked": WIDE,
    em.Linked(bits=512): em.Fields(meta=500, age=12),
    "adaptive": WIDE,
    "wide": WIDE,
    "xarray": WIDE,
    "hash": WIDE,
}
# More than a machine's windows touch, where `wide` halves them.
TABLES = 32


@pytest.fixture(params=FORMS, ids=str)
def form(request):
    return request.param


@pytest.fixture(autouse=True)
def lift_the_limit():
    yield
    fail_after()


class UnderTheLock(AgainstDict):
    """What the kernel does under a table's lock is done without an allocation."""

    def without_memory(self, body, pair, *args):
        pair[0].reserve(TABLES)
        fail_after(0)
        try:
            with em.no_allocation():
                body(self, pair, *args)
        finally:
            fail_after()
            # What was not needed; the invariants tell whether that is all.
            pair[0].reserve(0)
            assert pair[0].reserved.total == 0

    @rule(pair=AgainstDict.tables, at=vpn, count=st.integers(0, 2**20))
    def unmap(self, pair, at, count):
        self.without_memory(AgainstDict.unmap, pair, at, count)

    @rule(pair=AgainstDict.tables, at=vpns | ranges, seed=seeds)
    def store(self, pair, at, seed):
        self.without_memory(AgainstDict.store, pair, at, seed)

    @rule(pair=AgainstDict.tables, at=vpns | ranges, seed=seeds)
    def update(self, pair, at, seed):
        self.without_memory(AgainstDict.update, pair, at, seed)

    @rule(pair=AgainstDict.tables, seed=seeds)
    def update_everywhere(self, pair, seed):
        self.without_memory(AgainstDict.update_everywhere, pair, seed)

    @rule(pair=AgainstDict.tables, at=vpns, seed=seeds)
    def swap_out(self, pair, at, seed):
        self.without_memory(AgainstDict.swap_out, pair, at, seed)

    @rule(pair=AgainstDict.tables, at=vpns, seed=seeds)
    def swap_in(self, pair, at, seed):
        self.without_memory(AgainstDict.swap_in, pair, at, seed)

    @rule(pair=AgainstDict.tables, seed=seeds)
    def split(self, pair, seed):
        table, model = pair
        size = table.huge_ptes()
        base = 16 * size
        if any(v in model.ptes for v in range(base, base + size)):
            table.unmap(slice(base, base + size))
            model.unmap(base, size)
            return
        table.map_huge(base, 7, deposit=seed % 2)
        self.without_memory(UnderTheLock.split_at, pair, base, size, seed)

    def split_at(self, pair, base, size, seed):
        table, model = pair
        for word in self.words(seed, 3):
            if self.unfit(table, base, word, False):
                with pytest.raises(ValueError, match=REFUSED):
                    table.split_huge(base, word)
            else:
                break
        else:
            word = 0
        table.split_huge(base, word, writable=word != 0)
        model.map(range(base, base + size), range(7, 7 + size), word != 0)
        model.store(range(base, base + size), [word] * size)


# On ppc64 tables share a page, and their links lie in an array, which is set aside too.
GIVEN = [
    (form, arch)
    for form in FORMS
    for arch in ("x86_64", "ppc64_radix_64k")
    # Where tables share a page, pairs of them are counted by the page.
    if arch == "x86_64" or form in ("linked", "adaptive", "wide")
]


@pytest.mark.parametrize(("form", "arch"), GIVEN, ids=str)
def test_nothing_is_allocated(form, arch):
    given = {"encoding": form, "fields": FORMS[form], "arch": arch}
    run_state_machine_as_test(type("Machine", (UnderTheLock,), given))


def huge(form, tables=1):
    """Return a table with huge pages, and their first vpns."""
    table = em.PageTable(form, FORMS[form])
    vpns = [8192 + i * table.huge_ptes() for i in range(tables)]
    table.map_huge(vpns)
    return table, vpns


def test_a_split_is_one_step(form):
    """It is refused before anything changes, and its words are all there."""
    table, (vpn,) = huge(form)
    size = table.huge_ptes()
    before = dump(table)
    for wrong, text in (
        (lambda: table.split_huge(vpn + 1), "not the first of a huge page"),
        (lambda: table.split_huge(0), "not the first of a huge page"),
        (lambda: table.split_huge(vpn, 1 << 600), "0x1000"),
        (lambda: table.split_huge(vpn, 1, pfns=[1, 2]), "2 pfns"),
        (lambda: table.split_huge(-1), "-1"),
    ):
        with pytest.raises(ValueError, match=text):
            wrong()
        assert dump(table) == before
    with em.no_allocation(), pytest.raises(MemoryError):
        table.split_huge(vpn, 3)
    assert dump(table) == before
    table.split_huge(vpn, 3, pfns=np.arange(90, 90 + size))
    assert len(table) == size
    words = table.load(slice(vpn, vpn + size))
    assert np.all((words if words.ndim == 1 else words[:, 0]) == 3)
    table.check()


def test_what_each_needs():
    """What is taken of what was set aside, in bytes: a split of a table of 4 KiB, with
    no word, with one that fits a link, and with one that does not."""
    taken = {}
    for form in FORMS:
        for word in (0, 3, (1 << 64) - 1):
            table, (vpn,) = huge(form)
            if word >> table.fields.bits:
                continue
            # Two leaves make a huge page where the tables of `wide` are half as long.
            table.reserve(2)
            before = table.reserved
            with em.no_allocation():
                table.split_huge(vpn, word)
            after = table.reserved
            taken[str(form), word] = before.pte - after.pte, before.side - after.side
    assert taken["inpte", 3] == taken["compact", 3] == (4096, 0)
    assert taken["wide", 3] == (8192, 0)
    assert taken["linked", 0] == taken["adaptive", 0] == (4096, 0)
    assert taken["adaptive", 3] == (4096, 0)
    assert taken["adaptive", (1 << 64) - 1] == (4096, 8)
    assert taken["linked", 3] == (4096, 4096)
    assert taken["Adjacent(when='needed')", 3] == (4096, 4096)
    assert taken["Linked(bits=512)", 3] == (4096, 32768)
    assert taken["hash", 3][1] > 512 * 16


def test_zap_clear_and_swap_of_words_that_are_not_shared_need_nothing():
    """But where clearing makes words differ that were one."""
    for form, fields in FORMS.items():
        table = em.PageTable(form, fields)
        table.map(slice(0, 512))
        words = np.random.default_rng(1).integers(1, 4, 512, np.uint64)
        if fields.bits > 64:
            words = np.stack([words, *[words * 0] * 7], axis=1)
        table.store(slice(0, 512), words)
        fail_after(0)
        with em.no_allocation():
            table.update(slice(100, 200), clear=1)
            if form not in ("inpte", "compact"):
                table.swap_out(slice(0, 512), np.arange(1, 513))
                table.swap_in(slice(0, 512), np.arange(1, 513))
            table.unmap(slice(50, 350))
            table.unmap(slice(0, 512))
        fail_after()
        assert len(table) == 0


def test_reserve_is_all_or_nothing(form):
    table, _vpns = huge(form)
    empty = table.memory()
    table.reserve(2)
    held = table.reserved
    assert held.pte == 2 * 4096
    assert table.memory().pte == empty.pte + held.pte
    for k in [*range(40), 10_000]:
        fail_after(k)
        try:
            table.reserve(7)
            break
        except MemoryError:
            assert table.reserved == held
        finally:
            fail_after()
    assert k > 0
    assert table.fork().reserved.total == 0
    assert table.copy().reserved.total == 0
    table.reserve(2)
    assert table.reserved == held
    table.reserve(0)
    assert table.reserved.total == 0
    assert table.memory() == empty


def test_what_is_wrong():
    table = em.PageTable("adaptive")
    with pytest.raises(ValueError, match="-1"):
        table.reserve(-1)
    with pytest.raises(TypeError, match=r"2\.5"):
        table.reserve(2.5)
    with pytest.raises(MemoryError, match="are available"):
        table.reserve((1 << 32) - 1)
    assert table.reserved.total == 0
    with pytest.raises(ValueError, match="PageExt"):
        em.PageTable("page_ext").reserve(1)


def test_a_family_s_memory_is_each_one_s_own():
    """What a parent has set aside is not in what its child holds."""
    parent = em.PageTable("adaptive", WIDE)
    parent.map(slice(0, 512))
    parent.store(slice(0, 512), np.arange(512, dtype=np.uint64))
    child = parent.fork()
    alone = child.memory()
    parent.reserve(3)
    assert child.memory().side == alone.side
    assert parent.memory().side == alone.side + parent.reserved.side
    del parent
    child.unmap(slice(0, 512))
    assert child.memory().side == 0


def test_it_holds_for_one_thread():
    """Others allocate meanwhile, and it ends with its block, error or not."""
    table, other = em.PageTable("linked"), em.PageTable("linked")
    for each in (table, other):
        each.map(slice(0, 512))
    with em.no_allocation():
        thread = threading.Thread(target=other.store, args=(slice(0, 512), 5))
        thread.start()
        thread.join()
        assert other.load(0) == 5
        with pytest.raises(MemoryError):
            table.store(0, 5)
        with em.no_allocation():
            pass
        with pytest.raises(MemoryError):
            table.store(0, 5)
    table.store(0, 5)
