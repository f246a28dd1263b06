"""Writes that a deferred flush loses: found in the broken variants, none in the others."""

import os
import re
from itertools import product

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from extmeta.linux.tlb import (
    CURES,
    Op,
    Setup,
    explore,
    pte_generation,
    timeline,
    wander,
)
from extmeta.linux.tlb.generations import completed, pending, stamp
from extmeta.linux.tlb.programs import LONG, PROGRAMS, SHORT, WRITE

# The programs that lose no write even where nothing is done about it.
SAFE = "clear_refs beside protect"
SOUND = {name: cure for name, cure in CURES.items() if cure.mended}
SOUND |= {f"pte generation, {bits}": pte_generation(bits) for bits in (1, 2)}


def setup(programs, cure, **values):
    return Setup(programs, cure, table_of=(0, 1), **values)


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("programs", SHORT)
def test_no_order_of_the_steps_loses_a_write(name, programs):
    found = explore(setup(PROGRAMS[programs], SOUND[name]))
    assert found.losses == found.stuck == 0
    assert found.shortest == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("programs", LONG)
def test_no_order_of_longer_programs_loses_a_write(name, programs):
    for waits in (False, True):
        assert not explore(setup(PROGRAMS[programs], SOUND[name], waits=waits)).losses


@pytest.mark.parametrize("cure", ["none", "no reuse"])
@pytest.mark.parametrize("programs", sorted(SHORT.keys() - {SAFE}))
def test_the_lost_write_is_found(cure, programs):
    found = explore(setup(PROGRAMS[programs], CURES[cure]))
    assert found.losses
    after = found.shortest[-1][2]
    assert sum(after.contents[pte.frame] for pte in after.ptes) < sum(after.written)


@pytest.mark.slow
@pytest.mark.parametrize("programs", LONG)
def test_the_lost_write_of_longer_programs_is_found(programs):
    assert explore(setup(PROGRAMS[programs], CURES["none"])).losses


def test_the_shortest_schedule_is_that_of_the_thread():
    """DDA15360-D6D4-46A8-95A4-5EE34107A407@gmail.com."""
    of = Setup(PROGRAMS["protect"])
    schedule = explore(of).shortest
    did = [what for _cpu, what, _state in schedule]
    order = ["protects 0", "will copy", "copies", "writes, stale", "maps the copy"]
    at = [did.index(what) for what in order]
    assert at == sorted(at)
    assert [schedule[n][0] for n in at] == [0, 1, 1, 2, 1]
    shown = timeline(of, schedule)
    assert shown.splitlines()[-1] == "1 of 2 writes lost; * is mapped"


def test_stale_writes_without_a_copy_are_not_lost():
    """Since 5.19 a page that one PTE has alone is not copied."""
    of = setup(PROGRAMS["protect"], CURES["exclusive pages"])
    seen, todo, stale = set(), [of.start()], 0
    while todo:
        for _cpu, what, after in of.steps(todo.pop()):
            stale += what == "writes, stale"
            if after not in seen:
                seen.add(after)
                todo.append(after)
    assert stale


def test_no_tlb_has_more_than_its_pte_when_no_flush_is_pending():
    of = setup(PROGRAMS["clear_refs beside protect"], CURES["pte generation"])
    seen, todo, checked = set(), [of.start()], 0
    while todo:
        state = todo.pop()
        if not state.active:
            for entries, (vpn, pte) in product(state.tlbs, enumerate(state.ptes)):
                assert entries[vpn] in (0, pte.frame + 1)
                assert not entries[vpn] or pte.write
                checked += 1
        for _cpu, _what, after in of.steps(state):
            if after not in seen:
                seen.add(after)
                todo.append(after)
    assert checked > 1000


# -- generations that wrap around --------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_a_generation_may_wrap_around_anywhere(bits):
    programs = ((Op("protect"), Op("protect")), (WRITE,), (WRITE,))
    for first in range((1 << bits) - 1):
        found = explore(Setup(programs, pte_generation(bits), first=first))
        assert found.losses == found.stuck == 0


def test_a_comparison_that_forgets_to_wrap_loses_a_write():
    cure = CURES["pte generation, unwrapped"]
    wrapped = [
        explore(Setup(PROGRAMS["protect"], cure, first=first)).losses
        for first in range(3)
    ]
    assert wrapped[0] == 0
    assert any(wrapped)


@hypothesis.given(
    bits=st.integers(1, 16),
    newest=st.integers(0, 1 << 70),
    active=st.lists(st.integers(0, 100_000), max_size=4),
    ago=st.integers(0, 200_000),
)
def test_a_pending_generation_is_always_seen(bits, newest, active, ago):
    active = [newest - n for n in active if n < newest]
    done = completed(newest, active)
    generation = max(0, newest - ago)
    found = pending(stamp(generation, bits), newest, done, bits)
    assert found or generation <= done
    assert not pending(0, newest, done, bits)
    if not active:
        assert not found
    if generation > newest - (1 << bits) + 1:
        # As long as the numbers have not wrapped around, nothing else is seen.
        assert found == (generation > done)


def test_many_stamps_are_compared_at_once():
    stamps = np.arange(16)
    found = pending(stamps, 1000, 996, 4)
    assert found.tolist() == [pending(int(n), 1000, 996, 4) for n in stamps]
    assert found.sum() == 4


def test_a_generation_has_1_to_64_bits():
    for bits in (0, 65):
        with pytest.raises(ValueError, match=str(bits)):
            pte_generation(bits)


# -- random schedules --------------------------------------------------------------

PIECES = 12
# EXTMETA_SCHEDULES=1000000 is a campaign of some minutes.
SCHEDULES = int(os.environ.get("EXTMETA_SCHEDULES", "100000"))
EACH = SCHEDULES // PIECES // len(SOUND) + 1


@pytest.mark.parametrize("name", SOUND)
def test_random_schedules_lose_nothing(name):
    programs = PROGRAMS["two pages"]
    assert wander(setup(programs, SOUND[name]), seed=1, schedules=50) == 0


def test_random_schedules_find_the_lost_write():
    assert wander(setup(PROGRAMS["protect"], CURES["none"]), seed=1, schedules=5000)


@pytest.mark.slow
@pytest.mark.parametrize("piece", range(PIECES))
def test_many_random_schedules_lose_nothing(piece):
    every = [*PROGRAMS.values()]
    for number, cure in enumerate(SOUND.values()):
        of = setup(every[(piece + number) % len(every)], cure, first=piece)
        assert wander(of, seed=piece, schedules=EACH) == 0


# -- bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "told"),
    [
        (Op("read"), "read"),
        (Op("write", (0, 1)), "(0, 1)"),
        (Op("protect", (2,)), "(2,)"),
    ],
)
def test_an_impossible_program_is_refused(op, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        setup(((op,),), CURES["none"])
