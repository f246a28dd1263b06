"""Each architecture's layout, and what every encoding makes of it.

The properties are those that mm/debug_vm_pgtable.c tests at boot: what is put in
an entry is found there again, and is no part of anything else in it.
"""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis.stateful import run_state_machine_as_test

import extmeta as em
from extmeta.arch import ALIASES, ARCHES, arch_named, arch_of
from extmeta.memory.allowance import fail_after
from extmeta.testing.machine import AgainstDict, dump

arches = pytest.mark.parametrize("arch", ARCHES.values(), ids=list(ARCHES))
OLD = [arch_named(name, release="6.12") for name in ARCHES]
rows = pytest.mark.parametrize(
    "arch", [*ARCHES.values(), *OLD], ids=lambda arch: arch.name
)
each = pytest.mark.parametrize("name", ARCHES)


def bit(*numbers):
    return sum(1 << number for number in set(numbers))


def field(shift, bits):
    return (1 << bits) - 1 << shift


# -- the rows -----------------------------------------------------------------


@rows
def test_every_bit_of_a_present_pte_is_named_once(arch):
    taken = [*arch.free, *(present for present, _swap in arch.owned.values())]
    taken += [arch.flag] * (arch.flag_from == "DEVMAP")
    taken += range(arch.pfn_shift, arch.pfn_shift + arch.pfn_bits)
    taken += [n for use in arch.uses for n in range(use.first, use.last + 1)]
    assert sorted(taken) == list(range(64))


@arches
def test_every_bit_of_a_swap_entry_is_named_once(arch):
    swap = arch.swap
    taken = [*swap.free, swap.exclusive, *(own for _pte, own in arch.owned.values())]
    taken += range(swap.type_shift, swap.type_shift + swap.type_bits)
    taken += range(swap.offset_shift, swap.offset_shift + swap.offset_bits)
    taken += [n for use in swap.others for n in range(use.first, use.last + 1)]
    assert sorted(taken) == list(range(64))
    assert set(swap.always) <= {
        n for use in swap.others for n in range(use.first, use.last + 1)
    }


@arches
def test_the_three_kinds_of_entry_can_be_told_apart(arch):
    assert arch.present in arch.base
    assert not arch.none >> arch.present & 1
    settable = {
        *arch.swap.always,
        *arch.swap.free,
        arch.swap.exclusive,
        *range(arch.swap.type_shift, arch.swap.type_shift + arch.swap.type_bits),
        *range(arch.swap.offset_shift, arch.swap.offset_shift + arch.swap.offset_bits),
        *(swap for _pte, swap in arch.owned.values()),
    }
    assert arch.present not in settable
    # A bit that none has not, or lacks, in every swap entry.
    always = bit(*arch.swap.always)
    assert always & ~arch.none or arch.first_slot or arch.swap.offset_inverted


@rows
def test_the_flag_is_free_or_taken_from_a_tracker(arch):
    assert arch.swap_flag in arch.swap.free
    if arch.flag_from == "DEVMAP":
        assert arch.flag == arch.devmap
        assert not arch.free
        assert not arch.owned
    elif arch.flag_from:
        assert arch.flag == arch.owned[arch.flag_from][0]
        assert not arch.free
    else:
        assert arch.flag in arch.free
    made = {*arch.base, *arch.writable, *arch.readonly}
    assert not made & {*arch.free, arch.flag}


@rows
def test_what_mprotect_does_is_told_of_software_bits(arch):
    owned = {pte for pte, _swap in arch.owned.values()}
    assert {*arch.cleared} <= {*arch.free}
    linux = {use.first for use in arch.uses if use.by == "Linux"}
    assert {*arch.unflushed} <= {*arch.free} | owned | linux


# ARCH_HAS_PTE_DEVMAP has a bit whether or not ZONE_DEVICE is on. Linux 6.12.117,
# arch/*/include/asm: x86 pgtable_types.h:36, arm64 pgtable-prot.h:20, riscv
# pgtable-bits.h:22, powerpc book3s/64/pgtable.h:91, loongarch pgtable-bits.h:25.
FREE_IN_6_12 = {
    "x86_64": (5, 57),
    "arm64_4k": (1, 57),
    "riscv64_sv48": (0, 9),
    "s390x": (0, -1),
    "ppc64_radix_4k": (0, 11),
    "ppc64_hash_64k": (4, 11),
    "loongarch64": (0, 59),
}


@pytest.mark.parametrize("name", FREE_IN_6_12)
def test_a_release_that_has_devmap_has_a_free_bit_less(name):
    count, devmap = FREE_IN_6_12[name]
    old, new = arch_named(name, release="6.12.117"), arch_named(name, "7.3")
    assert len(old.free) == count
    assert {*new.free} - {*old.free} == ({devmap} if devmap > 0 else set())
    assert old.flag != devmap or old.flag_from == "DEVMAP"
    assert (old.name, old.release) == (f"{name}@6.12", "6.12")
    assert arch_named(old.name) == old == arch_named(old.name, release="6.12")
    assert arch_named(name, "6.16").free == old.free
    same = dataclasses.replace(
        new, name=name, release="6.18", unflushed=ARCHES[name].unflushed
    )
    assert same == ARCHES[name]
    assert arch_named(f"{name}@6.18") is ARCHES[name] is arch_named(name)


def test_releases_that_are_not_known_are_refused():
    known = r"6\.12 to 7\.3 are known"
    for release in ("6.11", "7.4", "new", ""):
        with pytest.raises(ValueError, match=f"'{release}'.*{known}"):
            arch_named("x86_64", release=release)
        with pytest.raises(ValueError, match=f"'{release}'.*{known}"):
            em.PageTable(arch=f"arm64@{release}")
    with pytest.raises(ValueError, match=r"'arm64@6\.12' is not of release '6\.17'"):
        arch_named("arm64@6.12", release="6.17")
    with pytest.raises(KeyError, match=r"'vax@6\.12'"):
        arch_named("vax@6.12")
    with pytest.raises(TypeError, match="arch: 5"):
        em.PageTable(arch=5)
    with pytest.raises(ValueError, match=r"'6\.12'.* 'x86_64' is of 6\.18"):
        arch_of(ARCHES["x86_64"], "6.12")


@pytest.mark.parametrize("arch", OLD, ids=lambda arch: arch.name)
def test_the_flag_of_an_older_release_finds_words(arch):
    fields = em.Fields(**dict.fromkeys(arch.owned, 1), age=3)
    for encoding in ("linked", "adaptive", "adjacent"):
        table = em.PageTable(encoding, fields, arch)
        table.map([1, 2])
        bare = raw(table, 1)
        table.store(1, 5)
        assert raw(table, 1) ^ bare == 1 << arch.flag
        table.swap_out(1, 7)
        child = table.fork()
        child.swap_in(1, 9)
        assert (child.load(1), child.load(2), table.load(1)) == (5, 0, 5)
        child.check()


def test_a_table_takes_an_arch_of_its_own():
    """Also one without a name that is known, and an encoding that reshapes it."""
    mine = dataclasses.replace(ARCHES["arm64_16k"], name="mine")
    for encoding in ("linked", "wide"):
        table = em.PageTable(encoding, arch=mine)
        table.map_huge(0)
        assert (table.arch.name, table.huge_ptes()) == ("mine", 2048)
        assert table.fork().huge_ptes() == 2048


@arches
def test_tables_are_as_large_as_their_entries(arch):
    assert len(arch.table_bytes) == len(arch.level_bits)
    for bits, size in zip(arch.level_bits[:-1], arch.table_bytes[:-1], strict=True):
        # ppc64 hash doubles the middle levels.
        assert size in (8 << bits, 16 << bits)
    entries = 8 << arch.level_bits[-1]
    assert arch.frame_bytes == (2 * entries if arch.rest else entries)
    assert arch.source


def test_plain_names():
    for plain, name in ALIASES.items():
        assert arch_named(plain) is ARCHES[name]
        assert em.PageTable(arch=plain).arch.name == name
    with pytest.raises(KeyError, match=r"'ppc64'; there are x86_64, .*arm64_4k"):
        arch_named("ppc64")


# Empty; PFN 0x1234 writable and dirty, read-only; device 3's page 0x55 of one that
# was writable. By hand from the headers' masks, not from the rows.
ENTRIES = {
    "x86_64": (0, 0x1234067, 0x1234025, 3 << 59 | (0x55 ^ 2**50 - 1) << 9 | 8),
    "arm64_4k": (0, 0x88000001234F43, 0x1234FC3, 0x550C4),
    "arm64_64k": (0, 0x88000012340F43, 0x12340FC3, 0x550C4),
    "riscv64_sv39": (0, 0x48D0D7, 0x48D053, 0x551C0),
    "s390x": (0x400, 0x123403D, 0x1234215, 0x55E0C),
    "ppc64_radix_4k": (0, 0xC000000001234186, 0xC000000001234104, 0x4000000000055023),
    "ppc64_hash_64k": (0, 0xC000000012340186, 0xC000000012340104, 0x4000000000550023),
    "loongarch64": (0, 0x48D039F, 0x48D009D, 0x55830000),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_as_linux_makes_them(name):
    table = em.PageTable("linked", arch=name)
    table.map([1, 3], 0x1234)
    table.map(2, 0x1234, writable=False)
    table.swap_out(3, 3 << table.arch.swap.offset_bits | 0x55)
    assert table.tables[0][:4].tolist() == list(ENTRIES[name])
    table.unmap(slice(0, 2))
    assert raw(table, 1) == ENTRIES[name][0]


# -- what encodings make of them ----------------------------------------------


def widest(encoding, arch):
    """Return the widest fields that the encoding holds there, and their table.

    Fields that don't fit are refused, and the message says where.
    """
    trackers = dict.fromkeys(arch.owned, 1)
    tried = [em.Fields(meta=64)]
    tried += [em.Fields(**trackers, meta=n) for n in (12, 6, 2, 1)]
    tried += [em.Fields(**trackers)] if trackers else []
    for fields in tried:
        try:
            return fields, em.PageTable(encoding, fields, arch.name)
        except ValueError as error:
            refused = str(error)
        if not (arch.name in refused and re.search(r"\d+ (free )?bits", refused)):
            raise AssertionError(f"{encoding} does not say why: {refused}")
    raise AssertionError(f"{encoding} holds nothing on {arch.name}")


def places(table):
    """Return a few vpns at each edge of the table."""
    arch = table.arch
    n = arch.ptrs_per_pte
    return np.array([0, 1, n - 1, n, 3 * n + n // 2, arch.nr_vpns - 1], np.uint64)


def raw(table, vpn):
    n = table.arch.ptrs_per_pte
    return int(table.tables[int(vpn) // n * n][int(vpn) % n])


def patterns(bits):
    """Return words that fill, alternate and single out bits."""
    ones = (1 << bits) - 1
    striped = 0x5555555555555555 & ones
    return sorted({ones, striped, ones ^ striped, 1, 1 << bits - 1, 0})


@arches
def test_a_word_is_no_part_of_what_hardware_and_linux_read(arch, encoding):
    fields, table = widest(encoding, arch)
    pfns = [0, 1, (1 << arch.pfn_bits) - 1, 1 << arch.pfn_bits - 1, 5, 6]
    vpns = places(table)
    ours = bit(*arch.free, arch.flag, *(pte for pte, _swap in arch.owned.values()))
    for writable in (True, False):
        table.map(vpns, pfns, writable=writable)
        bare = [raw(table, v) for v in vpns]
        for entry, pfn in zip(bare, pfns, strict=True):
            assert entry >> arch.pfn_shift & field(0, arch.pfn_bits) == pfn
            assert bool(entry >> arch.write & 1) == writable
            assert entry >> arch.present & 1
            assert not entry & ours
            for inverse in arch.readonly:
                assert bool(entry >> inverse & 1) != writable
        for word in patterns(fields.bits):
            table.store(vpns, word)
            assert table.load(vpns).tolist() == [word] * len(vpns)
            assert table.scan(slice(0, arch.nr_vpns), word).tolist() == vpns.tolist()
            for v, before in zip(vpns, bare, strict=True):
                assert (raw(table, v) ^ before) & ~ours == 0
            table.check()
        table.store(vpns, 0)
        assert [raw(table, v) for v in vpns] == bare
        table.unmap(slice(0, arch.nr_vpns))
        assert len(table) == 0


@arches
def test_a_word_and_a_swap_slot_do_not_touch(arch, encoding):
    fields, table = widest(encoding, arch)
    swap = arch.swap
    vpns = places(table)
    slots = [
        arch.first_slot,
        arch.nr_slots - 1,
        0x5555555555555555 % arch.nr_slots,
        0xAAAAAAAAAAAAAAAA % arch.nr_slots,
        1 << swap.offset_bits,
        arch.nr_slots // 2 + 1,
    ]
    ours = bit(*swap.free, *(own for _pte, own in arch.owned.values()))
    for writable in (True, False):
        for word in patterns(fields.bits):
            if table.encoding.unfit(0, word, True):
                continue
            table.map(vpns, writable=writable)
            present = [raw(table, v) for v in vpns]
            table.store(vpns, word)
            table.swap_out(vpns, slots)
            assert table.load(vpns).tolist() == [word] * len(vpns)
            assert table.scan(slice(0, arch.nr_vpns), word).tolist() == vpns.tolist()
            for v, slot in zip(vpns, slots, strict=True):
                entry = raw(table, v)
                offset = entry >> swap.offset_shift & field(0, swap.offset_bits)
                if swap.offset_inverted:
                    offset ^= field(0, swap.offset_bits)
                device = entry >> swap.type_shift & field(0, swap.type_bits)
                assert device << swap.offset_bits | offset == slot
                assert bool(entry >> swap.exclusive & 1) == writable
                assert not entry >> arch.present & 1
                assert entry != arch.none
                assert entry & bit(*swap.always) == bit(*swap.always)
                named = (
                    field(swap.type_shift, swap.type_bits)
                    | field(swap.offset_shift, swap.offset_bits)
                    | bit(*swap.always, swap.exclusive)
                )
                assert entry & ~named & ~ours == 0
            # Written while swapped out, and in a copy.
            table.store(vpns, 0)
            table.store(vpns, word)
            child = table.fork()
            assert dump(child)[-1] == dump(table)[-1]
            table.swap_in(vpns, [p >> arch.pfn_shift & 0xFF for p in present])
            assert table.load(vpns).tolist() == [word] * len(vpns)
            table.check()
            child.check()
            table.store(vpns, 0)
            for v, before in zip(vpns, present, strict=True):
                assert (raw(table, v) ^ before) & ~field(
                    arch.pfn_shift, arch.pfn_bits
                ) == 0
            table.unmap(slice(0, arch.nr_vpns))


@arches
def test_words_move_with_their_ptes(arch, encoding):
    fields, table = widest(encoding, arch)
    n = table.arch.ptrs_per_pte
    vpns = np.arange(n - 3, 2 * n + 3, dtype=np.uint64)
    words = vpns * np.uint64(0x9E3779B97F4A7C15) & np.uint64((1 << fields.bits) - 1)
    table.map(vpns)
    table.store(vpns, words)
    before = [raw(table, v) for v in vpns]
    far = table.arch.nr_vpns - 4 * n + 1
    table.move(slice(n - 3, n - 3 + n + 6), far)
    assert not table.flagged(vpns).any()
    there = np.arange(far, far + n + 6, dtype=np.uint64)
    assert (table.load(there) == words).all()
    assert [raw(table, v) for v in there] == before
    found = table.scan(slice(0, table.arch.nr_vpns), 0)
    assert (found == there).all()
    table.check()


@each
def test_slot_0_is_refused_where_its_entry_is_none(name):
    arch = ARCHES[name]
    table = em.PageTable("linked", arch=name)
    table.map(5, writable=False)
    if not arch.first_slot:
        table.swap_out(5, 0)
        assert len(table) == 1
        table.check()
        return
    before = dump(table)
    with pytest.raises(ValueError, match=f"slot 0 .* {name}"):
        table.swap_out(5, 0)
    assert dump(table) == before


def test_in_pte_words_are_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"s390x.*age=1.*there are 0, 1 missing"):
        em.PageTable("inpte", em.Fields(soft_dirty=1, age=1), "s390x")
    table = em.PageTable("inpte", em.Fields(soft_dirty=1), "s390x")
    table.map(3)
    table.store(3, 1)
    assert raw(table, 3) & 0b10
    table.swap_out(3, 7)
    assert table.load(3) == 1


# -- memory -------------------------------------------------------------------


def test_adjacent_costs_nothing_where_half_a_page_lies_idle():
    """s390: the words are where the kernel had PGSTEs."""
    held = {}
    for encoding in ("inpte", "adjacent", "linked"):
        table = em.PageTable(encoding, em.Fields(soft_dirty=1), "s390x")
        table.map(slice(0, 10 * 256))
        table.store(slice(0, 10 * 256), 1)
        held[encoding] = table.memory()
    assert held["inpte"].pte == 10 * 4096
    assert held["inpte"].upper == 2 * 16384
    assert held["adjacent"] == held["inpte"]
    assert held["linked"].side == 10 * 32

    table = em.PageTable("adjacent", arch="s390x")
    table.map(slice(0, 256))
    table.store(slice(0, 256), np.arange(1, 257))
    page = np.asarray(table.frames_view())
    frame = (table.tables[0].ctypes.data - page.ctypes.data) // 4096
    assert page[frame, 256:].tolist() == list(range(1, 257))
    assert em.PageTable(em.Adjacent(when="needed"), arch="s390x").encoding.order == 0


def test_fragments_share_a_page():
    table = em.PageTable("inpte", em.Fields(soft_dirty=1), "ppc64_radix_64k")
    table.map(0)
    # A root of 64 KiB, two tables of 4 KiB in one page, a PTE table in another.
    assert table.memory().upper == 2 * 65536
    assert table.memory().pte == 65536
    table.map(slice(1, 256 * 32))
    assert table.memory().pte == 65536
    table.map(256 * 32)
    assert table.memory().pte == 2 * 65536
    assert table.memory().index == 0
    table.unmap(slice(0, 256 * 32))
    assert table.memory().pte == 65536
    table.unmap(256 * 32)
    assert (table.memory().pte, table.memory().upper) == (0, 65536)
    table.check()


def test_a_link_for_each_fragment_is_paid_for():
    """One link in struct page can't name 256 tables."""
    table = em.PageTable("linked", arch="ppc64_radix_64k")
    table.map(slice(0, 300 * 32))
    assert table.memory().index == 0
    table.store(5, 1)
    assert table.memory().index == 16 * 256
    assert table.memory().side == 256
    table.store(100, 1)
    assert table.memory().index == 16 * 256
    child = table.fork()
    assert child.memory().index == 16 * 256
    table.store(299 * 32, 1)
    assert table.memory().index == 2 * 16 * 256
    table.store([5, 299 * 32], 0)
    assert table.memory().index == 16 * 256
    table.unmap(slice(0, 128))
    assert table.memory().index == table.memory().side == 0
    assert child.memory().index == 16 * 256
    child.check()


OPERATIONS = {
    "map": lambda t: t.map(slice(0x90000, 0x90400)),
    "store": lambda t: t.store(slice(0, 0x400), 1),
    "update": lambda t: t.update(slice(0, 2**30), set=1),
    "fork": lambda t: t.fork(),
    "move": lambda t: t.move(slice(0x1F0, 0x3F0), 0x50003),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["s390x", "ppc64_radix_64k", "ppc64_hash_64k"])
@pytest.mark.parametrize(
    "encoding", ["linked", "adjacent", em.Adjacent(when="needed")], ids=repr
)
def test_memory_that_cannot_be_had(encoding, name, operation):
    """Whichever allocation fails, links of fragments too, nothing has changed."""
    table = em.PageTable(encoding, arch=name)
    table.map(slice(0, 0x400))
    table.store(slice(0x200, 0x300), 5)
    before, memory = dump(table), table.memory()
    failures = 0
    try:
        while True:
            fail_after(failures)
            try:
                OPERATIONS[operation](table)
                break
            except MemoryError:
                failures += 1
            fail_after()
            table.check()
            assert dump(table) == before
            assert table.memory().index == memory.index
    finally:
        fail_after()
    table.check()
    if operation in ("map", "fork", "move"):
        assert failures > 0


@pytest.mark.parametrize("when", ["always", "needed"])
def test_adjacent_to_a_fragment(when):
    table = em.PageTable(em.Adjacent(when=when), arch="ppc64_radix_64k")
    table.map(slice(0, 128 * 32))
    table.store(slice(0, 128 * 32), 7)
    memory = table.memory()
    # 128 pairs of 256 + 256 bytes fill a page, and their counts of flags.
    assert memory.side == 128 * 256
    assert memory.index >= 16 * 256
    assert (memory.pte + memory.side) % 65536 == 0
    if when == "always":
        assert memory.pte + memory.side == 65536
    table.check()
    table.update(slice(0, 128 * 32), clear=7)
    table.check()
    assert table.memory().index == 0


def test_adjacent_to_hidx():
    """The second half of ppc64 hash's table is taken; words lie behind it."""
    table = em.PageTable("adjacent", arch="ppc64_hash_64k")
    table.map(slice(0, 256))
    table.store(slice(0, 256), 7)
    memory = table.memory()
    assert memory.side == 4096
    assert memory.pte + memory.side == 65536
    page = np.asarray(table.frames_view())
    frame = (table.tables[0].ctypes.data - page.ctypes.data) // 4096
    assert not page[frame, 256:].any()
    assert (page[frame + 1, :256] == 7).all()


@pytest.mark.parametrize(
    ("name", "upper"),
    [
        ("x86_64", 3 * 4096),
        ("arm64_16k", 2 * 16384),
        ("arm64_64k", 2 * 65536),
        ("riscv64_sv57", 4 * 4096),
        ("s390x", 2 * 16384),
        ("ppc64_radix_4k", 65536 + 2 * 4096),
        ("ppc64_hash_64k", 65536),
        ("loongarch64", 2 * 16384),
    ],
)
def test_upper_tables(name, upper):
    table = em.PageTable("inpte", em.Fields(**first_field(name)), name)
    table.map(5)
    assert table.memory().upper == upper
    table.map(table.arch.nr_vpns - 1)
    table.unmap(slice(0, table.arch.nr_vpns))
    table.check()
    assert table.memory().pte == 0


def first_field(name):
    return dict.fromkeys(list(ARCHES[name].owned)[:1], 1) or {"age": 1}


# -- every operation, beside a dict -------------------------------------------


@pytest.mark.parametrize(
    "name", ["s390x", "arm64_64k", "ppc64_radix_64k", "riscv64_sv39", "loongarch64"]
)
@pytest.mark.parametrize(
    "encoding",
    ["inpte", "linked", "adjacent", "wide", em.Adjacent(when="needed")],
    ids=repr,
)
def test_against_dict(name, encoding):
    fields = em.Fields(a=9, b=30)
    if encoding == "inpte":
        fields = em.Fields(**first_field(name))
    machine = type(
        "Machine",
        (AgainstDict,),
        {"encoding": encoding, "fields": fields, "arch": name},
    )
    run_state_machine_as_test(machine)
