"""arm64's contiguous blocks: which there are, and which words break."""

import dataclasses

import numpy as np
import pytest

import extmeta as em
from extmeta import cli
from extmeta.commands import compare as compare_verb
from extmeta.cost import sweep
from extmeta.cost.contpte import alike, blocks
from extmeta.cost.space import full_tables, space_of
from extmeta.linux.pagewords import present
from extmeta.reports import comparison
from extmeta.rows import Blocks, Point

FIELDS = em.Fields(uffd_wp=1)
POINTS = [Point(0.0, ""), Point(0.01, "random"), Point(1.0, "")]


def counted(table, pfns=None):
    vpns, prot = alike(table)
    return blocks(vpns, prot, table.arch.contpte, pfns)


def test_a_block_is_aligned_present_and_alike():
    table = em.PageTable("linked", FIELDS, "arm64")
    table.map(slice(8, 72))
    # [16, 32), [32, 48), [48, 64).
    assert counted(table) == 3
    table.unmap(33)
    assert counted(table) == 2
    table.swap_out(20, 5)
    assert counted(table) == 1
    table.unmap(50)
    table.map(50, writable=False)
    assert counted(table) == 0
    assert counted(em.PageTable("linked", FIELDS, "arm64")) == 0


@pytest.mark.parametrize(("arch", "size"), [("arm64_16k", 128), ("arm64_64k", 32)])
def test_larger_pages_have_larger_blocks(arch, size):
    table = em.PageTable("linked", FIELDS, arch)
    table.map(slice(size - 1, 3 * size))
    assert counted(table) == 2


def test_pages_that_are_known_have_to_be_in_a_row_and_aligned():
    table = em.PageTable("linked", FIELDS, "arm64")
    table.map(slice(0, 48))
    pfns = np.arange(32, 80, dtype=np.uint64)
    assert counted(table, pfns) == 3
    assert counted(table, pfns + np.uint64(1)) == 0
    pfns[20:] += np.uint64(16)
    assert counted(table, pfns) == 2


# An equal word in all of a block leaves it whole, one in a part of it does not; words
# beside the PTEs don't count, but their flag does.
BROKEN = {
    # alike, different, of one PTE
    "inpte": (0, 1, 1),
    "wide": (0, 1, 1),
    "linked": (0, 0, 1),
    "adjacent": (0, 0, 1),
    "adaptive": (0, 0, 1),
    "hash": (0, 0, 0),
    "xarray": (0, 0, 0),
    "page_ext": (0, 0, 0),
}


@pytest.mark.parametrize("encoding", BROKEN)
def test_what_words_break(encoding):
    found = []
    for words in ([3] * 16, [1, 2] * 8, [1] + [0] * 15):
        table = em.PageTable(encoding, em.Fields(age=2), "arm64")
        table.map(slice(0, 64))
        table.store(range(16, 32), words)
        found.append(4 - counted(table))
    assert tuple(found) == BROKEN[encoding]


def test_a_comparison_has_them():
    space = full_tables(2, "arm64_4k")
    rows = list(sweep.ram(space, ["linked", "hash"], FIELDS, POINTS))
    found = {(r.encoding, r.fraction): r for r in rows if isinstance(r, Blocks)}
    assert {r.without for r in found.values()} == {64}
    assert {r.size for r in found.values()} == {16}
    assert {r.known_by for r in found.values()} == {"alignment"}
    assert [found["hash", p.fraction].broken for p in POINTS] == [0, 0, 0]
    few = found["linked", 0.01].broken
    # Ten flags break at most as many blocks, and at 100 % all PTEs are alike again.
    assert 5 <= few <= 10
    assert [found["linked", p.fraction].broken for p in POINTS] == [0, few, 0]
    provenance = {"seed": 0}
    text = comparison.text(rows, provenance)
    assert "Contiguous blocks of 16 PTEs that words break, of 64, at most" in text
    assert max(map(len, text.splitlines())) <= 100
    again, _ = comparison.from_json(comparison.to_json(rows, provenance))
    assert again == rows
    other = sweep.ram(full_tables(2), ["linked"], FIELDS, POINTS)
    assert not any(isinstance(row, Blocks) for row in other)


def test_pages_of_a_capture_are_used_if_it_has_them():
    taken = em.load_capture(next(iter(em.shipped().values())))
    assert space_of(taken, "shipped", "arm64").pfns is None
    entry = taken.entry.copy()
    entry[present(entry)] |= np.uint64(0x1000) + taken.vpn[present(entry)]
    taken = dataclasses.replace(taken, entry=entry)
    space = space_of(taken, "shipped", "arm64")
    rows = sweep.ram(space, ["linked"], FIELDS, POINTS[:1])
    (row, *_) = [r for r in rows if isinstance(r, Blocks)]
    assert row.known_by == "PFNs"
    assert row.without > 0
    space.pfns[:] += np.uint64(1)
    rows = sweep.ram(space, ["linked"], FIELDS, POINTS[:1])
    assert {r.without for r in rows if isinstance(r, Blocks)} == {0}
    assert "words break, of 0." in comparison.text(
        sweep.ram(space, ["linked"], FIELDS, POINTS[:1]), {}
    )


def test_a_comparison_says_what_mprotect_clears():
    cleared = {}
    for arch in ("x86_64", "x86_64@6.12", "arm64@6.12", "ppc64_hash_64k"):
        rows = list(sweep.ram(full_tables(1, arch), [], em.Fields(age=2), POINTS[:1]))
        cleared[arch] = rows[0].cleared
        said = f"mprotect clears bits of a present PTE ({cleared[arch]}) in which inpte has words"
        assert (said in comparison.text(rows, {})) == bool(cleared[arch])
    # The words' bits, and the flag.
    assert cleared == {
        "x86_64": "52-53, 57",
        "x86_64@6.12": "52-53, 56",
        "arm64@6.12": "",
        "ppc64_hash_64k": "11, 14",
    }


def test_a_release_of_which_nothing_can_be_compared(capsys):
    given = ["compare", "node", "--encodings", "linked", "--fractions", "0"]
    for more, why in (
        (["--arch", "loongarch64"], "loongarch64@6.12 has no bit in a PTE"),
        (["--arch", "arm64_4k@6.17"], "'arm64_4k@6.17' is not of release '6.12'"),
        (["--workload", "ages"], "takes no --release"),
    ):
        assert cli.main([*given, *more, "--release", "6.12"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert why in err
    assert compare_verb._comparable(["loongarch64@6.12", "s390x"], FIELDS) == ["s390x"]
    assert "left out: loongarch64@6.12 has no bit" in capsys.readouterr().err
