"""The guest: what only its kernel shows (soft-dirty), and its counts."""

import itertools
import stat
import subprocess

import answers
import guest
import mutants
import native
import oracle
import pytest
from comparison import compare
from directed import DIRECTED
from programs import Program, random_programs, without_dontunmap
from test_driver import EXCLUSIVE, HERE, PRESENT, SOFT_DIRTY, SWAP, WP
from test_oracle import BY_PAGE, Anonymous, needs_address_space, share_of, simple

from extmeta.cost.kernel import costs, timed
from extmeta.cost.kernel.guest import LARGE, SMALL

# Each boots the guest.
pytestmark = pytest.mark.slow

MAP = f"0 mmap {HERE:#x} 0x4000 rw private|anonymous\n"
CLEARED = f"{MAP}0 write {HERE:#x} 0x4000\n0 clear_refs\n"
AWAY = HERE + 0x10000000
DIRTY, CLEAN = PRESENT | EXCLUSIVE | SOFT_DIRTY, PRESENT | EXCLUSIVE


def there_and_back(away):
    return (
        f"{CLEARED}0 mremap {HERE:#x} 0x4000 0x4000 {away:#x} MAYMOVE|FIXED\n"
        f"0 mremap {away:#x} 0x4000 0x4000 {HERE:#x} MAYMOVE|FIXED"
    )


POPULATE = f"{CLEARED}0 madvise {HERE:#x} 0x4000 DONTNEED\n0 madvise {HERE:#x} 0x4000 "
PROTECT = f"0 uffd_writeprotect {HERE:#x} 0x4000 1"
OUT = f"0 madvise {HERE:#x} 0x4000 PAGEOUT"

# A program, and the word of its first page at the end.
SOFT_DIRTY_FACTS = {
    "a new mapping is soft-dirty": (MAP, SOFT_DIRTY),
    "a write": (f"{MAP}0 write {HERE:#x} 1", DIRTY),
    "cleared": (CLEARED, CLEAN),
    "written after": (f"{CLEARED}0 write {HERE:#x} 1", DIRTY),
    "read after": (f"{CLEARED}0 read {HERE:#x} 1", CLEAN),
    "a mapping in its place": (
        f"{CLEARED}0 munmap {HERE:#x} 0x4000\n{MAP}",
        SOFT_DIRTY,
    ),
    "mprotect there and back": (
        f"{CLEARED}0 mprotect {HERE:#x} 0x4000 r\n0 mprotect {HERE:#x} 0x4000 rw",
        CLEAN,
    ),
    "mremap of pages forces it": (
        f"{CLEARED}0 mremap {HERE + 0x2000:#x} 0x1000 0x1000 {HERE:#x} MAYMOVE|FIXED",
        DIRTY,
    ),
    # Linux v6.12 mm/mremap.c move_normal_pmd(), after try_realign_addr(): what
    # ends at its table's end, moved to such a place, goes with its table.
    "mremap of a table does not": (there_and_back(AWAY), CLEAN),
    "mremap of pages, there and back": (there_and_back(AWAY + 0x1000), DIRTY),
    "swap keeps it clear": (CLEARED + OUT, SWAP),
    "swap keeps it set": (
        f"{CLEARED}0 write {HERE:#x} 1\n{OUT}",
        SWAP | SOFT_DIRTY,
    ),
    "cleared while in swap": (
        f"{MAP}0 write {HERE:#x} 1\n{OUT}\n0 clear_refs",
        SWAP,
    ),
    "DONTNEED drops it": (f"{CLEARED}0 madvise {HERE:#x} 0x4000 DONTNEED", 0),
    "POPULATE_READ leaves it": (POPULATE + "POPULATE_READ", PRESENT),
    "POPULATE_WRITE sets it": (POPULATE + "POPULATE_WRITE", DIRTY),
    "uffd-wp beside it": (
        f"{CLEARED}0 uffd_register {HERE:#x} 0x4000 WP_ASYNC WP\n{PROTECT}",
        CLEAN | WP,
    ),
}


def clocks():
    """The package's own sizes, fewer rounds."""
    return "".join(
        f"time {operation} {pages} 5\n"
        for operation in timed.operations()
        for pages in (SMALL, LARGE)
    )


@pytest.fixture(scope="module")
def boot():
    """One boot: the facts' answers, plain programs and theirs, and the ticks."""
    if reason := guest.missing():
        pytest.skip(reason)
    facts = [
        Program.parse(f"watch {HERE:#x} 0x1000\n{text}")
        for text, _ in SOFT_DIRTY_FACTS.values()
    ]
    plain = simple(seed=5, count=100)
    output = guest.run(answers.text([*facts, *plain]) + clocks())
    kernel, given = answers.parse(output)
    return kernel, given[: len(facts)], plain, given[len(facts) :], output


def test_it_has_what_the_host_may_lack(boot):
    kernel = boot[0]
    assert kernel.soft_dirty
    assert kernel.swap
    assert kernel.scan


@pytest.mark.parametrize("fact", SOFT_DIRTY_FACTS)
def test_soft_dirty(boot, fact):
    given = boot[1][list(SOFT_DIRTY_FACTS).index(fact)]
    assert all(answer.error is None for answer in given)
    words = [word for a in given for _, addr, _, word in a.changes if addr == HERE]
    assert words[-1] == SOFT_DIRTY_FACTS[fact][1]


def test_a_model_without_soft_dirty_is_found_wrong(boot):
    kernel, _, plain, given, _ = boot
    found = [
        compare(program, its, Anonymous(), kernel)
        for program, its in zip(plain, given, strict=True)
    ]
    assert all(found)
    assert "soft_dirty" in found[0].kernel


def test_instructions_per_pte_repeat(boot):
    """The median round is one into which no interrupt fell, so is its neighbour."""
    rows = costs.of_ticks(boot[-1], SMALL, LARGE)
    assert [row.operation for row in rows] == list(timed.operations())
    # What ships is what any boot of that kernel counts, among other programs too.
    shipped = costs.shipped()
    for row in rows:
        known = shipped.cost(row.operation)
        if boot[0].release == shipped.kernel:
            assert abs(row.median / known.median - 1) < 0.05, (row, known)
    written = next(r for r in rows if r.operation == "pagemap_scan_written")
    assert written.median - written.low < 2


@pytest.fixture(scope="module")
def campaign():
    """A boot of random programs: CI's share of operations with soft-dirty."""
    if reason := guest.missing():
        pytest.skip(reason)
    chosen = filter(without_dontunmap, random_programs(mutants.SEED))
    programs = [*DIRECTED, *itertools.islice(chosen, 1100)]
    assert sum(len(p.operations) for p in programs) >= 10_000
    return programs, *answers.run_guest(programs)


@needs_address_space
def test_address_space_is_linux_with_soft_dirty(campaign, encoding):
    found = list(oracle.mismatches(*share_of(encoding, *campaign), encoding))
    if encoding in BY_PAGE:
        assert found
        return
    assert not found, f"{len(found)} programs; make oracle GUEST=1\n" + oracle.report(
        *found[0], encoding, campaign[1].release
    )


def test_two_boots_are_the_same_to_the_last_tick():
    if reason := guest.missing():
        pytest.skip(reason)
    text = "".join(f"time {op} 64 3\n" for op in timed.operations())
    assert guest.run(text) == guest.run(text)


def test_a_line_that_can_not_be_read_is_named():
    if reason := guest.missing():
        pytest.skip(reason)
    with pytest.raises(native.DriverError, match="line 2: no operation 'frobnicate'"):
        guest.run("program t\n0 frobnicate\n")


def test_the_initramfs_is_one(tmp_path):
    """As the distribution's own cpio reads it."""
    made = guest.cpio(
        [("a", stat.S_IFREG | 0o755, b"12345"), ("d", stat.S_IFDIR | 0o755, b"")]
    )
    assert len(made) % 4 == 0
    try:
        listed = subprocess.run(
            ["cpio", "-itv"], input=made, capture_output=True, check=True
        ).stdout.decode()
    except FileNotFoundError:
        pytest.skip("no cpio to read it with")
    assert [line.split()[0] for line in listed.splitlines()] == [
        "-rwxr-xr-x",
        "drwxr-xr-x",
    ]
