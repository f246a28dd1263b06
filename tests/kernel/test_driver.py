"""The driver says what Linux is known to do, and refuses what it can't read."""

import errno
import subprocess

import native
import pytest
from answers import Kernel, parse
from comparison import BITS, describe

PRESENT, SWAP, FILE, WP, EXCLUSIVE, SOFT_DIRTY = (
    1 << BITS[n]
    for n in ("present", "swap", "file", "uffd_wp", "exclusive", "soft_dirty")
)
MARKER = SWAP | WP | 63  # type 31, offset 1

# What is asserted: what Linux 6.18 and 6.12 were seen to do, call by call.
HERE = 0x3FFFC000

needs_native = pytest.mark.skipif(bool(native.missing()), reason=native.missing() or "")


def played(run, body, pages=8):
    """Run one program over ``pages`` pages; return states after each operation.

    Each is (error, {process: [word, ...]}).
    """
    text = f"program t\nwatch {HERE:#x} {pages * 4096:#x}\n{body}\nend\n"
    kernel, (answers,) = parse(run(text))
    state, states = {0: [0] * pages}, []
    for answer in answers:
        for process, addr, count, word in answer.changes:
            words = state.setdefault(process, [0] * pages)
            first = (addr - HERE) // 4096
            for page in range(first, first + count):
                words[page] = word & ~(0 if kernel.soft_dirty else SOFT_DIRTY)
        states.append((answer.error, {p: list(w) for p, w in state.items()}))
    return states


@pytest.fixture(scope="module")
def with_swap():
    with native.swap() as reason:
        if reason:
            pytest.skip(reason)
        yield


ASYNC = "WP_ASYNC|WP_UNPOPULATED"
START = f"""0 mmap {HERE:#x} 0x8000 rw private|anonymous
0 write {HERE:#x} 0x4000
0 read {HERE + 0x4000:#x} 0x1000
0 uffd_register {HERE:#x} 0x8000 """
PROTECT = f"\n0 uffd_writeprotect {HERE:#x} 0x8000 1"
WP_ON = " WP" + PROTECT


def last(run, body, process=0):
    error, state = played(run, body)[-1]
    assert error is None
    return state[process]


@needs_native
class TestKnownFacts:
    def test_write_protection_leaves_markers_where_there_is_no_page(self):
        words = last(native.run, START + ASYNC + WP_ON)
        assert words[:4] == [PRESENT | WP | EXCLUSIVE] * 4
        assert words[4] == PRESENT | WP
        assert words[5:] == [MARKER] * 3

    def test_without_wp_unpopulated_there_are_no_markers(self):
        words = last(native.run, START + "-" + WP_ON)
        assert words[5:] == [0] * 3

    @pytest.mark.parametrize("features", [ASYNC, "WP_UNPOPULATED"])
    def test_a_write_takes_the_bit_away(self, features):
        """Async by itself; else since the conductor resolves the fault."""
        body = START + features + WP_ON + f"\n0 write {HERE:#x} 1"
        words = last(native.run, body + f"\n0 write {HERE + 0x5000:#x} 1")
        assert words[0] == words[5] == PRESENT | EXCLUSIVE
        assert words[1] == PRESENT | WP | EXCLUSIVE

    def test_a_marker_comes_in_with_its_page(self):
        body = START + ASYNC + WP_ON + f"\n0 read {HERE + 0x5000:#x} 1"
        assert last(native.run, body)[5] == PRESENT | WP

    @pytest.mark.parametrize(
        ("features", "kept"), [(ASYNC, False), (ASYNC + "|EVENT_FORK", True)]
    )
    def test_a_child_has_the_bits_only_by_event_fork(self, features, kept):
        words = last(native.run, START + features + WP_ON + "\n0 fork", process=1)
        assert words[0] == PRESENT | (WP if kept else 0)
        assert words[5] == (MARKER if kept else 0)

    @pytest.mark.parametrize(
        ("features", "kept"), [(ASYNC, False), (ASYNC + "|EVENT_REMAP", True)]
    )
    def test_mremap_keeps_the_bits_only_by_event_remap(self, features, kept):
        away = HERE + 0x10000000
        body = START + features + WP_ON
        for old, new in ((HERE, away), (away, HERE)):
            body += f"\n0 mremap {old:#x} 0x8000 0x8000 {new:#x} MAYMOVE|FIXED"
        words = last(native.run, body)
        assert words[0] == PRESENT | EXCLUSIVE | (WP if kept else 0)
        assert words[5] == (MARKER if kept else 0)

    def test_dontneed_drops_the_bit_of_anonymous_memory_only(self):
        zap = f"\n0 madvise {HERE:#x} 0x8000 DONTNEED"
        assert last(native.run, START + ASYNC + WP_ON + zap) == [0] * 8
        shared = (START + ASYNC).replace("private", "shared")
        assert last(native.run, shared + WP_ON + zap) == [MARKER] * 8

    def test_unregister_clears_bits_and_markers(self):
        body = START + ASYNC + WP_ON + f"\n0 uffd_unregister {HERE:#x} 0x8000"
        words = last(native.run, body)
        assert words == [PRESENT | EXCLUSIVE] * 4 + [PRESENT, 0, 0, 0]

    def test_the_bit_survives_swap(self, with_swap):
        out = f"\n0 madvise {HERE:#x} 0x8000 PAGEOUT"
        states = played(
            native.run, START + ASYNC + WP_ON + out + f"\n0 read {HERE:#x} 1"
        )
        assert states[-2][1][0][:4] == [SWAP | WP] * 4
        assert states[-1][1][0][:2] == [PRESENT | WP | EXCLUSIVE, SWAP | WP]

    def test_the_bit_is_set_and_cleared_while_swapped(self, with_swap):
        out = f"\n0 madvise {HERE:#x} 0x8000 PAGEOUT"
        body = START + ASYNC + " WP" + out + PROTECT
        assert last(native.run, body)[0] == SWAP | WP
        off = f"\n0 uffd_writeprotect {HERE:#x} 0x1000 0"
        assert last(native.run, body + off)[:2] == [SWAP, SWAP | WP]

    def test_a_pages_exclusiveness_comes_back_when_the_child_ends(self):
        body = START + ASYNC + " WP\n0 fork"
        assert last(native.run, body)[0] == PRESENT
        assert last(native.run, body + "\n1 exit")[0] == PRESENT | EXCLUSIVE
        wrote = played(native.run, body + f"\n1 write {HERE:#x} 1")[-1][1]
        assert wrote[0][:2] == [PRESENT | EXCLUSIVE, PRESENT]
        assert wrote[1][:2] == [PRESENT | EXCLUSIVE, PRESENT]

    def test_a_scan_that_protects_what_it_finds(self):
        scan = f"0 pagemap_scan {HERE:#x} {HERE + 0x8000:#x}"
        text = f"""program t
            {START}{ASYNC} WP
            {scan} WP_MATCHING|CHECK_WPASYNC - WRITTEN - WRITTEN 0 100
            {scan} - - WRITTEN - WRITTEN 0 100
            0 write {HERE + 0x1000:#x} 1
            {scan} - - WRITTEN - WRITTEN 0 100
            {scan} - - PRESENT - PRESENT 1 100"""
        _, (answers,) = parse(native.run(text))
        assert answers[-5].regions == ((HERE, HERE + 0x8000, 2),)
        assert answers[-4].regions == ()
        assert answers[-2].regions == ((HERE + 0x1000, HERE + 0x2000, 2),)
        assert answers[-1].regions == ((HERE, HERE + 0x1000, 8),)
        assert answers[-1].walk_end == HERE + 0x1000

    @pytest.mark.parametrize(
        ("operation", "error"),
        [
            ("write 0x50000000 1", "SIGSEGV"),
            ("read 0x50000000 1", "SIGSEGV"),
            ("munmap 0x50000001 0x1000", "EINVAL"),
            ("madvise 0x50000000 0x1000 DONTNEED", "ENOMEM"),
            ("mprotect 0x50000000 0x1000 r", "ENOMEM"),
            ("mremap 0x50000000 0x1000 0x1000 0x60000000 MAYMOVE|FIXED", "EFAULT"),
            ("uffd_writeprotect 0x50000000 0x1000 1", "ENOENT"),
            ("pagemap_scan 0 0x1000 - - - - 0x200 0 1", "EINVAL"),
        ],
    )
    def test_errors_have_their_names(self, operation, error):
        _, (answers,) = parse(native.run(f"program t\n0 {operation}\nend\n"))
        assert (answers[0].result, answers[0].error) == (-1, error)

    def test_each_program_starts_anew(self):
        text = START + ASYNC + WP_ON
        assert played(native.run, text)[-1] == played(native.run, text)[-1]
        two = f"program a\n{text}\nend\nprogram b\n0 read {HERE:#x} 1\nend\n"
        _, (_, answers) = parse(native.run(two))
        assert answers[0].error == "SIGSEGV"


@needs_native
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("program t\n0 frobnicate 1", "line 2: no operation 'frobnicate'"),
        ("program t\n0 munmap 1", "munmap: 1 arguments are too few"),
        ("program t\n0 munmap 1 2 3", "munmap: more than 2 arguments"),
        ("program t\n0 munmap 0x1z 2", "'0x1z' is not a number"),
        ("program t\n0 munmap -1 2", "'-1' is not a number"),
        ("program t\n0 madvise 0 0x1000 MAYBE", "'MAYBE' is not a name"),
        ("program t\n1 fork", "no process 1"),
        ("program t\n0 fork\n1 exit\n1 fork", "no process 1"),
        ("program t\n0", "process 0 does what?"),
        ("program t\nwatch 1", "watch has two arguments"),
        ("program t\nwatch 0 0x10000000", "more than 2048 watched pages"),
        ("0 fork", "'0' is outside of a program"),
        ("time nothing 1 1", "no operation 'nothing' to time"),
        ("program t\n0 pagemap_scan 0 0 - - - - - 0 9999", "vec_len 9999"),
    ],
)
def test_what_can_not_be_read_is_refused(text, message):
    with pytest.raises(native.DriverError, match=message.replace("?", r"\?")):
        native.run(text + "\n")


@needs_native
def test_comments_and_blank_lines_are_skipped():
    _, answers = parse(native.run("# a\n\nprogram t\n  # b\n0 fork\nend\n"))
    assert [a.result for a in answers[0]] == [1]


@needs_native
def test_the_kernel_is_introduced():
    kernel = Kernel.parse(native.run("").splitlines()[0])
    assert kernel.release == subprocess.check_output(["uname", "-r"], text=True).strip()
    assert kernel.scan
    assert kernel.features & 1


@needs_native
def test_every_operation_has_its_ticks():
    names = "fork uffd_wp_on uffd_wp_off pagemap_scan_written pagemap_scan_present"
    names += " pagemap clear_refs munmap mprotect mremap"
    text = "".join(f"time {name} 64 3\n" for name in names.split())
    output = native.run(text)
    lines = [x.split() for x in output.splitlines() if x.startswith("t ")]
    there = [n for n in names.split() if n != "clear_refs"]
    if Kernel.parse(output.splitlines()[0]).soft_dirty:
        there = names.split()
    else:
        assert f"- clear_refs {errno.EOPNOTSUPP} soft-dirty" in output
    assert [x[1] for x in lines] == [n for n in there for _ in range(3)]
    assert all(int(x[4]) > 0 for x in lines)


def test_flags_are_described_by_name():
    assert describe(PRESENT | WP) == "present|uffd_wp"
    assert describe(MARKER) == "swap|uffd_wp|marker 1"
    assert describe(0) == "nothing"
