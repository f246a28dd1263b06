"""What the XArray holds: nodes as the kernel has them, no more than are needed."""

import pytest

import extmeta as em

NODE = 576


def made(bits=64):
    table = em.PageTable("xarray", em.Fields(m=bits))
    table.map(range(8192))
    table.map(2**36 - 1)
    return table


@pytest.mark.parametrize(
    ("vpns", "leaves", "uppers"),
    [([0], 0, 0), ([5], 1, 0), ([0, 63], 1, 0), ([64], 1, 1), ([0, 64], 2, 1),
     ([0, 4096], 2, 3), ([2**36 - 1], 1, 5), ([0, 2**36 - 1], 2, 9),
     (range(4096), 64, 1)],
)  # fmt: skip
def test_nodes(vpns, leaves, uppers):
    table = made()
    for order in (list(vpns), list(vpns)[::-1]):
        for vpn in order:
            table.store(vpn, 1)
        table.check()
        assert table.memory().side == leaves * NODE
        assert table.memory().index == uppers * NODE
        assert table.flagged(order).all()
        table.store(order, 0)
        table.check()
        assert table.memory().side == table.memory().index == table.memory().slack == 0


def test_the_tree_is_lowered():
    table = made()
    table.store([0, 70, 5000, 2**36 - 1], 1)
    for last, nodes in ((2**36 - 1, 6), (5000, 3), (70, 0)):
        table.store(last, 0)
        assert (table.memory().side + table.memory().index) // NODE == nodes
        table.check()
    assert table.load(0) == 1


def test_a_word_of_64_bits_lies_apart():
    """A slot has 63 bits (xa_mk_value)."""
    table = made()
    table.store([0, 1], [2**63 - 1, 2**63])
    assert table.memory().side == NODE + 8
    assert table.load([0, 1]).tolist() == [2**63 - 1, 2**63]
    assert table.scan(slice(0, 64), 2**63).tolist() == [1]
    table.store([0, 1], [2**64 - 1, 2**63 + 1])
    assert table.memory().side == NODE + 16
    child = table.fork()
    table.update([0, 1], clear=2**63)
    assert table.memory().side == NODE
    assert table.load([0, 1]).tolist() == [2**63 - 1, 1]
    assert child.load([0, 1]).tolist() == [2**64 - 1, 2**63 + 1]
    # In the head, without a node.
    child.store(1, 0)
    assert child.memory().side == 8
    assert child.fork().load(0) == 2**64 - 1
    child.check()
    table.check()


def test_7_nodes_to_a_page():
    table = made()
    table.store(range(0, 4096, 64), 1)
    memory = table.memory()
    assert memory.side + memory.index == 65 * NODE
    assert memory.side + memory.index + memory.slack == 10 * 4096


def test_a_lone_word_at_0_takes_no_node_however_it_came():
    table = em.PageTable("xarray", em.Fields(age=8))
    table.map(range(24))
    table.store([0], [1])
    table.check()
    assert table.memory().side == table.memory().index == 0


@pytest.mark.parametrize("first", [0, 512])
@pytest.mark.parametrize(
    "clear",
    [
        lambda t, vpn: t.update([vpn], clear=255),
        lambda t, vpn: t.update(slice(vpn, vpn + 1), clear=255),
        lambda t, vpn: t.store([vpn], 0),
        lambda t, vpn: t.scan(slice(vpn, vpn + 1), 255, 1, clear=255),
        lambda t, vpn: t.unmap(vpn),
    ],
)
def test_a_leaf_goes_with_its_last_word(first, clear):
    """Also if its PTE table has words in other leaves."""
    table = em.PageTable("xarray", em.Fields(age=8))
    table.map([first, first + 500])
    table.store([first + 500], 1)
    held = table.memory().side
    table.store([first], 1)
    assert table.memory().side > held
    clear(table, first)
    table.check()
    assert table.memory().side == held
