"""What each encoding promises beyond the contract: its memory, its bits."""

import numpy as np
import pytest

import extmeta as em
from extmeta.arch import ARCHES
from extmeta.encodings.inpte import places

FULL = slice(0, 512 * 8)


@pytest.mark.parametrize(
    ("bits", "side_bytes"),
    [(1, 64), (2, 128), (3, 256), (4, 256), (8, 512), (9, 1024), (16, 1024), (17, 2048),
     (32, 2048), (33, 4096), (64, 4096), (65, 8192), (128, 8192), (512, 32768)],
)  # fmt: skip
def test_linked_side_page(bits, side_bytes):
    table = em.PageTable(em.Linked(bits=bits), em.Fields(m=bits))
    table.map(FULL)
    assert table.memory().side == 0
    table.store(700, 1)
    assert table.memory().side == side_bytes
    table.store([700, 701, 2000], 1)
    assert table.memory().side == 2 * side_bytes
    table.store([700, 701], 0)
    assert table.memory().side == side_bytes
    table.unmap(slice(0, 4096))
    assert table.memory().side == table.memory().slack == 0


def test_adjacent_always_doubles_every_table():
    table = em.PageTable("adjacent")
    table.map(FULL)
    assert table.memory().side == table.memory().pte == 8 * 4096
    table.store(FULL, 1)
    assert table.memory().side == 8 * 4096
    assert table.encoding.repointings == 0


def test_adjacent_when_needed_moves_the_table():
    table = em.PageTable(em.Adjacent(when="needed"))
    table.map(FULL)
    ptes = {vpn: view.copy() for vpn, view in table.tables.items()}
    assert table.memory().side == 0
    table.store([5, 6, 513], 1)
    assert table.encoding.repointings == 2
    assert table.memory().side == 2 * 4096
    assert table.memory().pte == 8 * 4096
    table.store([5, 6, 513], 0)
    assert table.memory().side == 0
    for vpn, before in ptes.items():
        assert (table.tables[vpn] == before).all()
    table.store(5, 1)
    assert table.encoding.repointings == 3
    child = table.fork()
    assert child.encoding.repointings == 0
    assert child.memory() == table.memory()


def test_a_table_that_moved_is_found_where_it_is():
    """Tables that get their side pages by a store of vpns that go from one to another."""
    table = em.PageTable(em.Adjacent(when="needed"), em.Fields(meta=64))
    table.map(FULL)
    vpns = np.array([512 * (i % 3) + i for i in range(12)], np.uint64)
    table.store(vpns, vpns + np.uint64(1))
    assert table.encoding.repointings == 3
    assert (table.load(vpns) == vpns + np.uint64(1)).all()
    table.check()


def test_words_that_are_all_zero_move_no_table():
    """An array of zeros once re-pointed every table it was stored to."""
    table = em.PageTable(em.Adjacent(when="needed"))
    table.map(FULL)
    table.store(FULL, np.zeros(4096, np.uint64))
    assert table.encoding.repointings == 0
    table.store(FULL, (np.arange(4096) == 700).astype(np.uint64))
    assert table.encoding.repointings == 1


def test_the_word_is_one_page_after_its_pte():
    table = em.PageTable("adjacent")
    table.map(FULL)
    table.store(FULL, np.arange(1, 4097))
    pages = np.asarray(table.frames_view())
    for first, view in table.tables.items():
        frame = (view.ctypes.data - pages.ctypes.data) // 4096
        assert frame % 2 == 0
        assert (pages[frame + 1] == np.arange(first + 1, first + 513)).all()


def test_inpte_uses_no_memory():
    table = em.PageTable("inpte", em.Fields(m=6))
    table.map(FULL)
    before = table.memory()
    table.store(FULL, 63)
    assert table.memory() == before
    assert before.side == before.index == 0


def test_inpte_places():
    arch = ARCHES["x86_64"]
    assert places(em.Fields(uffd_wp=1, age=2, soft_dirty=1), arch) == (
        [10, 52, 53, 11],
        [2, 4, None, 1],
    )
    # Two bits of that name are not the one that Linux tracks.
    assert places(em.Fields(uffd_wp=2), arch)[0] == [52, 53]


def test_inpte_bits_in_the_entry():
    table = em.PageTable("inpte", em.Fields(uffd_wp=1, age=2, soft_dirty=1))
    table.map(5, pfns=0x1234)
    bare = int(table.tables[0][5])
    table.store(5, uffd_wp=1)
    assert int(table.tables[0][5]) == bare | 1 << 10
    table.store(5, age=2, soft_dirty=1)
    assert int(table.tables[0][5]) == bare | 1 << 10 | 1 << 53 | 1 << 11


def test_inpte_refuses_to_swap_a_word_that_would_not_fit():
    table = em.PageTable("inpte", em.Fields(uffd_wp=1, age=3))
    table.map([5, 6])
    table.store([5, 6], [0b0011, 0b0101])
    pte = int(table.tables[0][5])
    with pytest.raises(ValueError, match=r"0x6: InPte.*bits 0x4 of word 0x5 in a"):
        table.swap_out([5, 6], 1)
    assert int(table.tables[0][5]) == pte
    table.swap_out(5, 1)
    assert table.load(5) == 0b0011
    assert table.scan(slice(0, 512), 0b0010).tolist() == [5]
    assert table.scan(slice(0, 512), 0b0100).tolist() == [6]


@pytest.mark.parametrize("encoding", ["adjacent", "linked"])
def test_the_flag_is_bit_57_and_bit_4_when_swapped(encoding):
    table = em.PageTable(encoding)
    table.map([5, 6])
    table.store(5, 2**64 - 1)
    assert int(table.tables[0][5]) >> 57 & 1
    assert not int(table.tables[0][6]) >> 57 & 1
    table.swap_out([5, 6], [9, 10])
    assert int(table.tables[0][5]) >> 4 & 1
    assert not int(table.tables[0][6]) >> 4 & 1
    assert table.load([5, 6]).tolist() == [2**64 - 1, 0]


def test_wide_doubles_every_table_and_adds_a_level():
    table = em.PageTable("wide")
    assert table.arch.level_bits == (4, 8, 8, 8, 8)
    table.map(FULL)
    memory = table.memory()
    assert memory == em.Memory(upper=4 * 4096, pte=16 * 4096, side=0, index=0)
    table.store(FULL, np.arange(1, 4097))
    assert table.memory() == memory
    la57 = em.PageTable("wide", arch="x86_64_la57")
    assert la57.arch.level_bits == (5, 8, 8, 8, 8, 8)
    assert la57.arch.nr_vpns == 2**45


def test_wide_keeps_the_word_beside_its_pte():
    table = em.PageTable("wide")
    table.map(FULL, writable=False)
    bare = {first: view.copy() for first, view in table.tables.items()}
    table.store(FULL, np.arange(1, 4097))
    pages = np.asarray(table.frames_view())
    for first, view in table.tables.items():
        at = view.ctypes.data - pages.ctypes.data
        assert at % 4096 == 0
        assert view.strides == (16,)
        pairs = pages[at // 4096].reshape(256, 2)
        # No flag: the PTEs are as they were.
        assert (pairs[:, 0] == bare[first]).all()
        assert (pairs[:, 1] == np.arange(first + 1, first + 257)).all()
    pairs = pages[(table.tables[0].ctypes.data - pages.ctypes.data) // 4096]
    assert pairs[10:12].all()
    table.unmap(5)
    assert not pairs[10:12].any()


def test_wide_keeps_all_of_a_swapped_word():
    table = em.PageTable("wide")
    table.map([5, 6])
    table.store([5, 6], [2**64 - 1, 0])
    table.swap_out([5, 6], [9, 10])
    assert table.load([5, 6]).tolist() == [2**64 - 1, 0]
    table.swap_in([5, 6], [1, 2])
    assert table.load([5, 6]).tolist() == [2**64 - 1, 0]
    with pytest.raises(ValueError, match=r"Wide\(\) holds 64 bits .* needs 65"):
        em.PageTable("wide", em.Fields(a=65))


@pytest.mark.parametrize("thp", ["0", "1"])
def test_huge_page_switch(monkeypatch, thp):
    monkeypatch.setenv("EXTMETA_THP", thp)
    table = em.PageTable()
    table.map(slice(0, 512 * 1100))
    assert len(table) == 512 * 1100
    table.check()


@pytest.mark.parametrize("encoding", sorted(set(em.encodings()) - {"inpte", "compact"}))
def test_a_vpn_named_twice_ends_with_its_last_word(encoding):
    """Words with the highest bit lie elsewhere in an xarray than others."""
    table = em.PageTable(encoding, em.Fields(m=64))
    table.map(range(0x1000, 0x1010))
    high = 1 << 63 | 1
    table.store(0x1000, high)
    held = table.memory()
    for words in ([5, high], [0, high], [high, 5], [5, high], [high, high]):
        table.store([0x1000, 0x1001, 0x1000], [words[0], 7, words[1]])
        assert [table.load(vpn) for vpn in (0x1000, 0x1001)] == [words[1], 7]
    table.store(0x1001, 0)
    table.trim()
    assert table.memory().side <= held.side
    table.check()
