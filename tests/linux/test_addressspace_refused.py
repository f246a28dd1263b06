"""A call that is refused changes nothing, but where the kernel itself does."""

import errno

import pytest
from spaces import FIELDS, PAGE, PMD, A, B, make, state, unprotect

import extmeta as em

END = (1 << 47) - PAGE
# What the space of these tests has, from A on; B and what follows is free.
TRACKED, ASYNC = A, A + 4 * PAGE  # by a userfaultfd with a handler, and WP_ASYNC
SHARED, FILE, READ_ONLY = (A + n * PAGE for n in (8, 12, 16))
HOLE = A + 20 * PAGE
SWAPPED = A + 24 * PAGE  # with its last page next to nothing
HUGE = A + 2 * PMD
BOTH = "MAYMOVE|FIXED|DONTUNMAP"
MASKS = {"category_mask": "WRITTEN", "return_mask": "WRITTEN"}


def used(**options):
    """Return a space with something of every kind in it, and its child."""
    a = make("linked", **options)
    a.mmap(A, 8 * PAGE)
    a.mmap(SHARED, 4 * PAGE, "rw", "shared|anonymous")
    a.mmap(FILE, 4 * PAGE, "rw", "private|file")
    a.mmap(READ_ONLY, 4 * PAGE, "r")
    a.mmap(SWAPPED, 4 * PAGE)
    a.mmap(HUGE, 2 * PMD)
    a.madvise(HUGE, 2 * PMD, "HUGEPAGE")
    for start, pages in ((A, 6), (SHARED, 2), (FILE, 2), (SWAPPED, 2), (HUGE, 600)):
        a.write(start, pages * PAGE)
    a.madvise(SWAPPED, PAGE, "PAGEOUT")
    a.madvise(SWAPPED + PAGE, PAGE, "FREE")
    a.uffd_register(SHARED, 4 * PAGE, ("EVENT_FORK",))
    a.uffd_register(ASYNC, 4 * PAGE)
    a.uffd_register(TRACKED, 4 * PAGE, ("WP_UNPOPULATED",), handler=unprotect)
    a.uffd_writeprotect(TRACKED, 16 * PAGE - 4 * PAGE, True)
    return a, a.fork()


# By method: arguments, and the errno or the exception and its text.
REFUSED = {
    "mmap": [
        ((A + 1, PAGE), "EINVAL"),
        ((A, 0), "EINVAL"),
        ((END, PAGE), "ENOMEM"),
        ((A, PAGE, "rq"), "'q'"),
        ((A, PAGE, 3), "prot: 3"),
        ((A, PAGE, "rw", "private"), "'private'"),
        ((A, -1), "-1"),
        ((A, 1.5), "1.5"),
    ],
    "munmap": [
        ((A + 1, PAGE), "EINVAL"),
        ((A, 0), "EINVAL"),
        ((A, END), "EINVAL"),
        ((A, None), "None"),
    ],
    "mprotect": [
        ((A + 1, PAGE, "r"), "EINVAL"),
        ((HOLE, 8 * PAGE, "r"), "ENOMEM"),
        ((A, END, "r"), "ENOMEM"),
        ((A, PAGE, "k"), "'k'"),
    ],
    "mremap": [
        ((A + 1, PAGE, PAGE, B), "EINVAL"),
        ((A, PAGE, PAGE, B + 1), "EINVAL"),
        ((A, PAGE, 0, B), "EINVAL"),
        ((A, PAGE, PAGE, END), "EINVAL"),
        ((A, 2 * PAGE, 2 * PAGE, A + PAGE), "EINVAL"),
        ((A, 0, PAGE, B), "EINVAL"),
        ((B, PAGE, PAGE, A), "EFAULT"),
        ((A, END, PAGE, B), "EFAULT"),
        ((A, 5 * PAGE, 6 * PAGE, B), "EFAULT"),
        ((HOLE, 8 * PAGE, 8 * PAGE, HUGE), "EFAULT"),
        ((A, PAGE, 2 * PAGE, B, BOTH), "EINVAL"),
        ((A, 2 * PAGE, 2 * PAGE, A, BOTH), "EINVAL"),
        ((A, PAGE, PAGE, B, "FIXED"), "EINVAL"),
        ((A, PAGE, PAGE, B, 8), "EINVAL"),
        ((A, PAGE, PAGE, B, "MAYMOVE"), "no FIXED"),
        ((A, PAGE, PAGE, B, "DONTUNMAP"), "no FIXED"),
        ((A, PAGE, PAGE, B, "STAY"), "'STAY'"),
        ((A, PAGE, PAGE), "new_addr: None"),
        ((A, 4 * PAGE, 5 * PAGE, None, ""), "ENOMEM"),
        ((SWAPPED, 4 * PAGE, PMD * 2, None, ""), "ENOMEM"),
        ((SWAPPED, 2 * PAGE, 3 * PAGE, None, ""), "ENOMEM"),
        ((HUGE, 2 * PMD, END, None, ""), "ENOMEM"),
        ((HOLE, PAGE, 2 * PAGE, None, ""), "EFAULT"),
        ((SWAPPED, 5 * PAGE, 6 * PAGE, None, ""), "EFAULT"),
        ((A, PAGE, 0, None, ""), "EINVAL"),
        ((A, 0, PAGE, None, ""), "EINVAL"),
    ],
    "madvise": [
        ((A + 1, PAGE, "DONTNEED"), "EINVAL"),
        ((A, END, "DONTNEED"), "EINVAL"),
        ((HOLE, PAGE, "DONTNEED"), "ENOMEM"),
        ((SHARED, PAGE, "FREE"), "EINVAL"),
        ((FILE, PAGE, "FREE"), "EINVAL"),
        ((A, PAGE, "REMOVE"), "EINVAL"),
        ((FILE, PAGE, "REMOVE"), "EACCES"),
        ((SHARED, PAGE, "WIPEONFORK"), "EINVAL"),
        ((FILE, PAGE, "WIPEONFORK"), "EINVAL"),
        ((A, PAGE, "COLLAPSE"), "EINVAL"),
        ((HUGE + PAGE, PAGE, "COLLAPSE"), "EINVAL"),
        ((READ_ONLY, PAGE, "POPULATE_WRITE"), "EINVAL"),
        ((HOLE, PAGE, "POPULATE_READ"), "ENOMEM"),
        ((A, PAGE, "NOTHING"), "'NOTHING'"),
        ((A, PAGE, 4), "advice: 4"),
        ((A, "1", "FREE"), "'1'"),
    ],
    "read": [((HOLE,), "EFAULT"), ((-1,), "-1"), ((A, 2.0), "2.0")],
    "write": [
        ((HOLE,), "EFAULT"),
        ((READ_ONLY, 4 * PAGE), "EFAULT"),
        ((A, "x"), "'x'"),
    ],
    "uffd_register": [
        ((A + 1, PAGE), "EINVAL"),
        ((A, PAGE + 1), "EINVAL"),
        ((A, 0), "EINVAL"),
        ((PAGE, PAGE), "EINVAL"),
        ((A, END), "EINVAL"),
        ((B, PAGE), "EINVAL"),
        ((ASYNC, PAGE, ("WP_UNPOPULATED",), unprotect), "EBUSY"),
        ((SWAPPED - 20 * PAGE, 24 * PAGE, ()), "EBUSY"),
        ((A, PAGE, ("MINE",)), "'MINE'"),
        ((A, PAGE, 4), "features: 4"),
        ((SWAPPED, PAGE, (), 1), "handler: 1"),
    ],
    "uffd_copy": [
        ((A + 1, PAGE), "EINVAL"),
        ((A, 0), "EINVAL"),
        ((B, PAGE), "ENOENT"),
        ((SWAPPED, PAGE), "ENOENT"),
        ((TRACKED, PAGE), "EEXIST"),
        ((TRACKED, PAGE, "MINE"), "'MINE'"),
    ],
    "uffd_zeropage": [
        ((A, PAGE - 1), "EINVAL"),
        ((B, PAGE), "ENOENT"),
        ((TRACKED, PAGE), "EEXIST"),
        ((TRACKED, PAGE, 4), "mode: 4"),
    ],
    "uffd_move": [
        ((A + 1, A, PAGE), "EINVAL"),
        ((B, A, PAGE), "ENOENT"),
        ((A, B, PAGE), "ENOENT"),
        ((SHARED, A, PAGE), "EINVAL"),
    ],
    "uffd_wake": [((A + 1, PAGE), "EINVAL"), ((A, "x"), "'x'")],
    "uffd_unregister": [
        ((A + 1, PAGE), "EINVAL"),
        ((A, 0), "EINVAL"),
        ((B, PAGE), "EINVAL"),
        ((ASYNC, PAGE), "EINVAL"),
        ((TRACKED, 8 * PAGE), "EINVAL"),
    ],
    "uffd_writeprotect": [
        ((A + 1, PAGE, True), "EINVAL"),
        ((A, PAGE - 1, True), "EINVAL"),
        ((HOLE, PAGE, True), "ENOENT"),
        ((SWAPPED, PAGE, True), "ENOENT"),
    ],
    "pagemap": [((A + 1, PAGE), "EINVAL"), ((A, None), "None")],
    "pagemap_scan": [
        ((A + 1, B), "EINVAL"),
        ((A, B, 4), "EINVAL"),
        ((A, B, 0, 1 << 9), "EINVAL"),
        ((B, A), "EFAULT"),
        ((A, END + PAGE), "EFAULT"),
        ((TRACKED, B, "WP_MATCHING|CHECK_WPASYNC"), "EPERM"),
        ((A, B, "WP"), "'WP'"),
        ((A, B, 0, 0, 2.0), "2.0"),
        ((A, B, "WP_MATCHING", 0, 0, 0, 0, -1), "-1"),
    ],
    "tlb": [((0,), "cpus=1"), ((1,), "cpu: 1")],
    "writes": [((A,), "cpus=1")],
    "deferred_flush": [((), "cpus=1")],
}
NEVER_REFUSED = {"fork", "exit", "clear_refs"}

# What the kernel has done already when it refuses the rest, and why.
PARTLY = {
    "mprotect: VMA by VMA, up to what is not mapped": (
        ("mprotect", SHARED, 16 * PAGE, "none"),
        "ENOMEM",
    ),
    "madvise: goes on after what is not mapped": (
        ("madvise", SWAPPED - 4 * PAGE, 8 * PAGE, "DONTNEED"),
        "ENOMEM",
    ),
    "madvise: VMA by VMA, up to what this advice is not for": (
        ("madvise", A, 12 * PAGE, "FREE"),
        "EINVAL",
    ),
    "POPULATE: page by page": (
        ("madvise", FILE, 8 * PAGE, "POPULATE_WRITE"),
        "EINVAL",
    ),
    "COLLAPSE: table by table": (("madvise", HUGE, 4 * PMD, "COLLAPSE"), "ENOMEM"),
    "a read: page by page": (("read", FILE, 12 * PAGE), "EFAULT"),
    "a write: page by page": (("write", FILE, 8 * PAGE), "EFAULT"),
    "uffd_writeprotect: VMA by VMA, up to one without a userfaultfd": (
        ("uffd_writeprotect", SHARED, 8 * PAGE, False),
        "ENOENT",
    ),
    "pagemap_scan: VMA by VMA, up to one without WP_ASYNC": (
        ("pagemap_scan", ASYNC, FILE, "WP_MATCHING|CHECK_WPASYNC"),
        "EPERM",
    ),
    "mremap of several VMAs: one by one, up to one with a userfaultfd": (
        ("mremap", FILE, 20 * PAGE, 20 * PAGE, B),
        "EFAULT",
    ),
}


def refuse(space, expected, name, *arguments):
    """Call a method that refuses; tell whether the state is as before."""
    before = state(space)
    if name == "uffd_register" and len(arguments) == 4:
        *arguments, handler = arguments
        keywords = {"handler": handler}
    else:
        keywords = {}
    if expected.startswith("E"):
        with pytest.raises(OSError, match=r"\[Errno") as refused:
            getattr(space, name)(*arguments, **keywords)
        assert errno.errorcode[refused.value.errno] == expected
    else:
        with pytest.raises((TypeError, ValueError), match=expected) as wrong:
            getattr(space, name)(*arguments, **keywords)
        assert not isinstance(wrong.value, em.Refused)
    return state(space) == before


def test_every_method_is_here():
    public = {n for n in dir(em.AddressSpace) if not n.startswith("_")}
    assert public - {"table"} == set(REFUSED) | NEVER_REFUSED


@pytest.mark.parametrize("method", REFUSED)
def test_a_refused_call_changes_nothing(method):
    space, child = used()
    for arguments, expected in REFUSED[method]:
        assert refuse(space, expected, method, *arguments), arguments
        space.table.check()
    child.exit()
    space.exit()


@pytest.mark.parametrize("why", PARTLY)
def test_the_kernel_has_done_a_part(why):
    space, _child = used()
    space.uffd_register(SWAPPED, 4 * PAGE)
    space.write(ASYNC)
    space.mprotect(HUGE, PAGE, "r")
    space.mprotect(HUGE, PAGE, "rw")
    (name, *arguments), expected = PARTLY[why]
    assert not refuse(space, expected, name, *arguments)
    space.table.check()


def test_a_kernel_without_the_trackers_refuses_them():
    a = em.AddressSpace(em.Fields(age=1))
    a.mmap(A, PAGE)
    assert refuse(a, "EINVAL", "uffd_register", A, PAGE)
    assert refuse(a, "EINVAL", "uffd_unregister", B, PAGE)
    assert refuse(a, "ENOENT", "uffd_writeprotect", A, PAGE, True)


@pytest.mark.parametrize(
    ("release", "name", "expected"),
    [
        ("6.7", "SOFT_DIRTY", "EINVAL"),
        ("6.8", "SOFT_DIRTY", None),
        ("6.14", "GUARD", "EINVAL"),
        ("6.15", "GUARD", None),
    ],
)
def test_categories_that_a_release_does_not_know(release, name, expected):
    a = em.AddressSpace(FIELDS, release=release)
    a.mmap(A, PAGE)
    if expected:
        assert refuse(a, expected, "pagemap_scan", A, A + PAGE, 0, 0, 0, 0, name)
    else:
        a.pagemap_scan(A, A + PAGE, return_mask=name)


def test_what_the_one_bit_refuses():
    """Two trackers with one bit: Refused before anything is changed."""
    a = em.AddressSpace(
        em.Fields(uffd_wp=1, soft_dirty=1),
        em.Compact(per_vma=[("uffd_wp", "soft_dirty")]),
    )
    a.mmap(A, 4 * PAGE)
    a.write(A, 2 * PAGE)
    a.mmap(B, PAGE)
    a.clear_refs()
    a.mmap(B + PAGE, PAGE)
    a.uffd_register(B + PAGE, PAGE, ())
    before = state(a)
    for call in (lambda: a.uffd_register(A, PAGE, (), handler=unprotect), a.clear_refs):
        with pytest.raises(em.Refused):
            call()
        assert state(a) == before
