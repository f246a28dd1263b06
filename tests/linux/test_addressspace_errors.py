"""What is refused, by the kernel's errno or by name, and what is left undone."""

import errno

import pytest
from spaces import ENCODINGS, FIELDS, PAGE, PMD, A, B, make, shown, unprotect

import extmeta as em


@pytest.fixture
def space():
    a = make("linked")
    a.mmap(A, 4 * PAGE)
    a.write(A, 2 * PAGE)
    a.clear_refs()
    return a


@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        ("mmap", (A + 1, PAGE), "EINVAL"),
        ("mmap", (A, 0), "EINVAL"),
        ("mmap", ((1 << 47) - PAGE, PAGE), "ENOMEM"),
        ("munmap", (A + 1, PAGE), "EINVAL"),
        ("munmap", (A, 0), "EINVAL"),
        ("munmap", (A, 1 << 47), "EINVAL"),
        ("mprotect", (A + 1, PAGE, "r"), "EINVAL"),
        ("mprotect", (B, PAGE, "r"), "ENOMEM"),
        ("mprotect", (A, 5 * PAGE, "r"), "ENOMEM"),
        ("read", (B,), "EFAULT"),
        ("write", (A + 3 * PAGE, 2 * PAGE), "EFAULT"),
        ("madvise", (A + 1, PAGE, "DONTNEED"), "EINVAL"),
        ("madvise", (A, 5 * PAGE, "DONTNEED"), "ENOMEM"),
        ("madvise", (B, PAGE, "POPULATE_READ"), "ENOMEM"),
        ("madvise", (A, PAGE, "COLLAPSE"), "EINVAL"),
        ("mremap", (A + 1, PAGE, PAGE, B), "EINVAL"),
        ("mremap", (A, PAGE, PAGE, B + 1), "EINVAL"),
        ("mremap", (A, PAGE, 0, B), "EINVAL"),
        ("mremap", (A, 2 * PAGE, 2 * PAGE, A + PAGE), "EINVAL"),
        ("mremap", (B, PAGE, PAGE, A), "EFAULT"),
        ("mremap", (A, 8 * PAGE, 9 * PAGE, B), "EFAULT"),
        ("mremap", (A, 0, PAGE, B), "EINVAL"),
        ("uffd_register", (A + 1, PAGE), "EINVAL"),
        ("uffd_register", (A, PAGE + 1), "EINVAL"),
        ("uffd_register", (A, 0), "EINVAL"),
        ("uffd_register", (PAGE, PAGE), "EINVAL"),
        ("uffd_register", (B, PAGE), "EINVAL"),
        ("uffd_unregister", (B, PAGE), "EINVAL"),
        ("uffd_writeprotect", (A, PAGE, True), "ENOENT"),
        ("uffd_writeprotect", (B, PAGE, True), "ENOENT"),
        ("uffd_writeprotect", (A, 1, True), "EINVAL"),
        ("pagemap", (A + 1, PAGE), "EINVAL"),
    ],
)
def test_what_the_kernel_refuses(space, call, arguments, name):
    with pytest.raises(OSError, match=r"\[Errno") as refused:
        getattr(space, call)(*arguments)
    assert errno.errorcode[refused.value.errno] == name


@pytest.mark.parametrize(
    ("call", "arguments", "kind", "why"),
    [
        ("mmap", (A, PAGE, "rq"), ValueError, "'q'"),
        ("mmap", (A, PAGE, 3), TypeError, "prot: 3"),
        ("mmap", (A, PAGE, "rw", "private"), ValueError, "'private'"),
        ("mmap", (A, PAGE, "rw", "private|shared|file"), ValueError, "flags"),
        ("mmap", (A, PAGE, "rw", 2), TypeError, "flags: 2"),
        ("mmap", (-PAGE, PAGE), ValueError, "-4096"),
        ("mmap", (A, 1.5), TypeError, "1.5"),
        ("mmap", (A, 1 << 64), ValueError, "length"),
        ("madvise", (A, PAGE, "NOTHING"), ValueError, "'NOTHING'"),
        ("madvise", (A, PAGE, 4), TypeError, "advice: 4"),
        ("uffd_register", (A, PAGE, ("MINOR_SHMEM",)), ValueError, "MINOR_SHMEM"),
        ("pagemap_scan", (A, A, "WP"), ValueError, "'WP'"),
        ("pagemap_scan", (A, A, 0, "MINE"), ValueError, "'MINE'"),
        ("pagemap_scan", (A, A, 0, 0, 2.0), TypeError, "category_mask: 2.0"),
        ("pagemap_scan", (A, A, b"x"), TypeError, "flags"),
    ],
)
def test_what_no_call_could_say(space, call, arguments, kind, why):
    before = shown(space)
    with pytest.raises(kind, match=why):
        getattr(space, call)(*arguments)
    assert shown(space) == before


def test_a_space_that_can_not_be():
    with pytest.raises(ValueError, match="'uffd_wp' is one bit, not 2"):
        em.AddressSpace(em.Fields(uffd_wp=2))
    with pytest.raises(ValueError, match="'soft_dirty' is one bit"):
        em.AddressSpace(em.Fields(soft_dirty=8))
    with pytest.raises(ValueError, match="'often'"):
        em.AddressSpace(FIELDS, thp="often")
    with pytest.raises(ValueError, match="'new'"):
        em.AddressSpace(FIELDS, release="new")
    with pytest.raises(TypeError, match="is no Fields"):
        em.AddressSpace("uffd_wp")
    with pytest.raises(KeyError, match="no encoding"):
        em.AddressSpace(FIELDS, "none")
    with pytest.raises(KeyError, match="no architecture"):
        em.AddressSpace(FIELDS, arch="vax")


def test_what_comes_before_an_unmapped_part_is_done(space):
    with pytest.raises(OSError, match="nothing mapped"):
        space.mprotect(A, 5 * PAGE, "r")
    with pytest.raises(OSError, match="can't be accessed"):
        space.madvise(A, PAGE, "POPULATE_WRITE")
    # madvise goes on after a gap, too.
    space.munmap(A + PAGE, PAGE)
    with pytest.raises(OSError, match="not mapped"):
        space.madvise(A, 4 * PAGE, "POPULATE_READ")
    with pytest.raises(OSError, match="not mapped"):
        space.madvise(A, 4 * PAGE, "DONTNEED")
    assert shown(space, A, 4) == "- - - -"


def test_one_userfaultfd_a_vma(space):
    space.uffd_register(A, 2 * PAGE)
    with pytest.raises(OSError, match="another userfaultfd") as refused:
        space.uffd_register(A, 4 * PAGE, ())
    assert refused.value.errno == errno.EBUSY
    # The refused one is not the last used.
    space.uffd_unregister(A, PAGE)
    space.uffd_register(A, 4 * PAGE)
    space.uffd_writeprotect(A, 4 * PAGE, True)
    assert shown(space, A, 4) == "PWX PWX SW SW"


def test_a_part_that_is_not_tracked_ends_the_protection(space):
    space.uffd_register(A, PAGE)
    with pytest.raises(OSError, match="has no userfaultfd"):
        space.uffd_writeprotect(A, 2 * PAGE, True)
    assert shown(space, A, 2) == "PWX PX"


def test_no_access_without_permission(space):
    space.mprotect(A, PAGE, "r")
    space.read(A)
    with pytest.raises(OSError, match="no page to write"):
        space.write(A)
    space.mprotect(A, PAGE, "none")
    with pytest.raises(OSError, match="no page to read"):
        space.read(A)
    assert shown(space, A, 1) == "PX"


def test_past_the_end_of_what_is_mapped():
    a = make("linked")
    a.mmap(A, 2 * PAGE, "rw", "shared|anonymous")
    a.mremap(A, 2 * PAGE, 4 * PAGE, B)
    a.read(B, 2 * PAGE)
    with pytest.raises(OSError, match="past the file's end"):
        a.write(B, 4 * PAGE)
    with pytest.raises(OSError, match="past the file's end"):
        a.read(B + 3 * PAGE)


def test_mremap_in_releases():
    """Since 6.17 it moves several VMAs, and refuses before it unmaps."""

    def two_vmas(release):
        a = make("linked", release=release)
        a.mmap(A, 4 * PAGE)
        a.write(A, 4 * PAGE)
        a.mprotect(A, 2 * PAGE, "r")
        a.mmap(B, 4 * PAGE)
        a.write(B)
        a.clear_refs()
        return a

    a = two_vmas("6.12")
    with pytest.raises(OSError, match="leave a VMA"):
        a.mremap(A, 4 * PAGE, 4 * PAGE, B)
    assert shown(a, A, 4) == "PX PX PX PX"
    assert shown(a, B, 1) == "-"
    with pytest.raises(OSError, match="nothing mapped") as refused:
        a.mremap(B, PAGE, PAGE, B)
    assert refused.value.errno == errno.EFAULT
    a = two_vmas("6.18")
    with pytest.raises(OSError, match="overlap") as refused:
        a.mremap(B + 4 * PAGE, PAGE, PAGE, B + 4 * PAGE)
    assert refused.value.errno == errno.EINVAL
    a.mremap(A, 4 * PAGE, 4 * PAGE, B)
    assert shown(a, B, 4) == "PXD PXD PXD PXD"
    with pytest.raises(OSError, match="no page to write"):
        a.write(B)
    with pytest.raises(OSError, match="leave a VMA"):
        a.mremap(B, 4 * PAGE, 5 * PAGE, A)
    assert shown(a, B, 4) == "PXD PXD PXD PXD"


def test_mremap_shrinks_grows_and_duplicates(space):
    space.mremap(A, 4 * PAGE, PAGE, B)
    assert shown(space, A, 4) == "- - - -"
    assert shown(space, B, 2) == "PXD -"
    space.mremap(B, PAGE, 3 * PAGE, A)
    space.write(A + 2 * PAGE)
    assert shown(space, A, 4) == "PXD - PXD -"
    space.mmap(B, 2 * PAGE, "rw", "shared|anonymous")
    space.write(B)
    space.mremap(B, 0, 2 * PAGE, B + PMD)
    space.read(B + PMD)
    assert shown(space, B, 1) == "PFD"
    assert shown(space, B + PMD, 1) == "PFD"


class Narrow:
    """What an encoding says that has no room for a word."""

    @staticmethod
    def refuse(*_arguments):
        raise ValueError("no place for bits 0x1")


def test_what_the_encoding_refuses(space, monkeypatch):
    """A word that no swap entry can hold: Refused, and nothing paged out."""
    a = em.AddressSpace(em.Fields(age=6), "inpte")
    a.mmap(A, 4 * PAGE)
    a.write(A, 2 * PAGE)
    a.table.update(slice(A >> 12, (A >> 12) + 4), set=0x3F)
    before = shown(a, A, 4)
    with pytest.raises(em.Refused, match="no place for bits"):
        a.madvise(A, 4 * PAGE, "PAGEOUT")
    assert shown(a, A, 4) == before
    a.table.update(slice(A >> 12, (A >> 12) + 4), clear=0x3F)
    a.madvise(A, 4 * PAGE, "PAGEOUT")
    assert shown(a, A, 4) == "S S - -"
    a.table.check()


def test_a_marker_that_can_not_be(space):
    """A marker that the encoding refuses leaves nothing behind."""
    space.uffd_register(A, 4 * PAGE)
    mm = space._mm
    change = mm.change_words

    def refuse(vpns, clear=0, set_=0):
        if isinstance(vpns, slice):
            change(vpns, clear, set_)
        else:
            mm.refusable(Narrow.refuse)

    mm.change_words = refuse
    with pytest.raises(em.Refused, match="no place"):
        space.uffd_writeprotect(A, 4 * PAGE, True)
    assert shown(space, A, 4) == "PWX PWX - -"
    space.table.check()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_exit_leaves_nothing(encoding):
    a = make(encoding)
    a.mmap(A, 2 * PMD)
    a.madvise(A, PMD, "HUGEPAGE")
    a.write(A, 2 * PMD)
    a.madvise(A + PMD, PMD, "PAGEOUT")
    child = a.fork()
    a.exit()
    assert len(a.table) == 0
    assert a.table.memory().pte == a.table.memory().side == 0
    assert shown(child, A, 1) == "PXD"
    child.exit()
    assert len(child.table) == 0


def test_a_handler_is_callable_and_is_kept_by_a_child(space):
    with pytest.raises(TypeError, match="handler: 1"):
        space.uffd_register(A, PAGE, (), handler=1)
    space.uffd_register(A, PAGE, ("EVENT_FORK",), handler=unprotect)
    space.uffd_writeprotect(A, PAGE, True)
    child = space.fork()
    child.write(A)
    assert shown(child, A, 1) == "PXD"
    assert shown(space, A, 1) == "PWX"
