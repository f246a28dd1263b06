"""Programs with words: how encodings agree, and what a comparison finds."""

import itertools
import sys

import guest
import native
import numpy as np
import oracle
import pytest
from answers import Answer, Kernel, parse, run_patched
from comparison import Comparison, Mismatch, compare
from programs import (
    FORK_MODES,
    MENUS,
    Program,
    random_programs,
    without_dontunmap,
)
from words import width_of, words_of

import extmeta as em

KERNEL = Kernel("6.12.117", True, True, True, True, 0, "linked")
START, LENGTH = 0x40000000, 0x4000
WRITTEN = f"""watch {START:#x} {LENGTH:#x}
0 mmap {START:#x} {LENGTH:#x} rw private|anonymous
0 write {START:#x} {LENGTH:#x}
0 set_words {START:#x} {LENGTH:#x} 0x5 0x2 0x2
"""
PRESENT, EXCLUSIVE, SOFT_DIRTY = 1 << 63, 1 << 56, 1 << 55
# Words of a fork belong to pages in page_ext, not to PTEs.
BY_PTE = [name for name in em.encodings() if name != "page_ext"]


def with_words(form="linked"):
    """Return the menus of a kernel with words."""
    return [menu.with_words(FORK_MODES[form]) for menu in MENUS]


def answered(program, *last):
    """Return what a right kernel says to `WRITTEN`, with other last answers."""
    new = Answer(0, None, ((0, START, 4, SOFT_DIRTY),))
    there = Answer(0, None, ((0, START, 4, PRESENT | EXCLUSIVE | SOFT_DIRTY),))
    return compare(
        Program.parse(WRITTEN + program),
        [new, there, *last],
        oracle.address_space("linked")(KERNEL),
        KERNEL,
    )


# Pages 0 and 2 have the words 5 and 9.
RIGHT = ((0, START, 1, 5, 0), (0, START + 0x2000, 1, 9, 0))


def test_words_that_are_those_of_the_kernel():
    assert answered("", Answer(2, None, stored=RIGHT)) is None


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("metadata", Answer(2, None, stored=RIGHT[:1])),
        ("metadata", Answer(2, None, stored=(*RIGHT, (0, START + 0x3000, 1, 1, 0)))),
        ("metadata", Answer(2, None, stored=((0, START, 1, 7, 0), RIGHT[1]))),
        ("lockless", Answer(2, None, stored=RIGHT, lockless=((0, START, 0),))),
        ("result", Answer(4, None, stored=RIGHT)),
    ],
)
def test_words_that_differ(kind, answer):
    found = answered("", answer)
    assert isinstance(found, Mismatch)
    assert (found.step, found.kind) == (2, kind)


def test_a_word_that_fork_lost_is_found():
    pages = ((1, START, 4, PRESENT | SOFT_DIRTY), (0, START, 4, PRESENT | SOFT_DIRTY))
    forked = Answer(1, None, pages, stored=((1, START, 1, 5, 0),))
    found = answered("0 fork\n", Answer(2, None, stored=RIGHT), forked)
    assert str(found) == (
        "step 3, 0 fork: metadata at process 1 0x40002000: kernel 0x0, model 0x9"
    )


def test_what_the_driver_prints_of_words():
    kernel, (answers,) = parse(
        "kernel 6.12.117 soft_dirty 1 swap 2 scan 1 uffd 0 words adjacent\n"
        "program t\n= 2 -\nm 0 40000000 3 a0 10\nk 1 40001000 b\nend\nbye\n"
    )
    assert kernel.words == "adjacent"
    assert answers == (
        Answer(
            2,
            None,
            stored=((0, START, 3, 0xA0, 0x10),),
            lockless=((1, START + 0x1000, 0xB),),
        ),
    )


def test_a_mode_comes_back_from_the_text_and_stays_when_shrunk():
    program = Program.parse(f"mode 3\n{WRITTEN}")
    assert Program.parse(program.text()) == program
    assert program.of(program.operations[:1]).mode == 3


def test_programs_use_all_that_there_is_about_words():
    programs = list(itertools.islice(random_programs(1, with_words()), 300))
    names = {o.name for p in programs for o in p.operations}
    assert {"set_words", "compact", "fork", "mremap", "uffd_move"} <= names
    assert {p.mode for p in programs} == {0, 1, 2, 3}
    assert {p.mode for p in itertools.islice(programs_of("adjacent"), 50)} == {0}


def programs_of(form):
    return random_programs(1, with_words(form))


def test_programs_for_other_kernels_have_no_words():
    for program in itertools.islice(random_programs(1), 200):
        assert not program.mode
        assert "set_words" not in program.text()


def perform(comparison, operation):
    """Return an operation's result, or its errno."""
    try:
        return comparison.perform(operation)
    except OSError as error:
        return error.errno


def test_all_encodings_have_the_same_words_after_each_step():
    """Nothing of a kernel is needed for that."""
    for program in itertools.islice(programs_of("linked"), 40):
        models = {
            name: Comparison(program, oracle.address_space(name)(KERNEL), KERNEL)
            for name in BY_PTE
        }
        first = models["linked"]
        for operation in program.operations:
            results = {name: perform(one, operation) for name, one in models.items()}
            if operation.name not in ("fork", "pagemap_scan"):
                assert len(set(results.values())) == 1, (results, program.text())
            for process, start, length in all_watched(first):
                wanted = words_of(first.spaces[process], start, length)
                for name, one in models.items():
                    found = words_of(one.spaces[process], start, length)
                    mask = np.uint64((1 << width_of(name)) - 1)
                    assert np.array_equal(found, wanted & mask), (
                        name,
                        str(operation),
                        program.text(),
                    )


HUGE_PAGE, PAGES = 0x40000000, 512
WHOLE, PART = range(PAGES), range(3, 5)


@pytest.mark.parametrize("name", BY_PTE)
def test_a_huge_page_has_one_word_until_a_part_of_it_gets_another(name):
    program = Program.parse(f"watch {HUGE_PAGE:#x} 0x200000\n")
    one = Comparison(program, oracle.address_space(name)(KERNEL), KERNEL)
    space, mask = one.spaces[0], (1 << width_of(name)) - 1

    def does(text):
        return one.perform(Program.parse(f"0 {text}\n").operations[0])

    def words():
        return words_of(space, HUGE_PAGE, 0x200000).tolist()

    does(f"mmap {HUGE_PAGE:#x} 0x200000 rw private|anonymous")
    does(f"madvise {HUGE_PAGE:#x} 0x200000 HUGEPAGE")
    does(f"write {HUGE_PAGE:#x} 0x200000")
    assert len(space._mm.leaves) == 1
    assert does(f"set_words {HUGE_PAGE:#x} 0x200000 0x5 0 1") == PAGES
    assert len(space._mm.leaves) == 1
    assert words() == [5 & mask] * PAGES
    assert does(f"set_words {HUGE_PAGE + 0x3000:#x} 0x2000 0x6 0 1") == len(PART)
    assert not space._mm.leaves
    assert words() == [(6 if i in PART else 5) & mask for i in WHOLE]


def all_watched(comparison):
    return [(p, *w) for p in comparison.spaces for w in comparison.program.watch]


def test_without_its_kernel_it_says_how_to_build_it(tmp_path, monkeypatch):
    if reason := native.missing():
        pytest.skip(reason)
    monkeypatch.syspath_prepend(guest.ROOT / "kernel")
    kernels = __import__("kernels")
    monkeypatch.setattr(kernels, "FOLDER", tmp_path)
    with pytest.raises(native.Missing, match="make kernel ARGS=oracle-linked"):
        guest.patched_kernel("linked")
    assert str(kernels.HERE) not in sys.path[1:]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORK_MODES)
def test_the_kernel_has_the_words_of_the_model(form):
    if reason := guest.missing(form):
        pytest.skip(reason)
    chosen = filter(without_dontunmap, programs_of(form))
    programs = list(itertools.islice(chosen, 200))
    kernel, given = run_patched(form, programs)
    assert kernel.words == form
    assert not list(oracle.mismatches(programs, kernel, given, "adaptive"))
