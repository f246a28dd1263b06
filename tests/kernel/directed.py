"""Programs for what random ones do too seldom.

Each shows a bug that was planted, or one that there was. The oracle's test and the hunt
for planted bugs begin with them.
"""

from programs import ALL_CATEGORIES, Program

_PAGES = "watch 0x3fffc000 0x8000\nwatch 0x405fc000 0x8000\n"
_NEAR = "watch 0x40000000 0x8000\n0 mmap 0x40000000 0x8000 rw private|anonymous\n"
_HUGE = """watch 0x40000000 0x400000
0 mmap 0x40000000 0x400000 rw private|anonymous
0 madvise 0x40000000 0x400000 HUGEPAGE
"""
_SHARED = "watch 0x40000000 0x8000\n0 mmap 0x40000000 0x8000 rw shared|anonymous\n"

DIRECTED = tuple(
    Program.parse(text)
    for text in (
        # -- swap, and pages freed lazily
        f"""{_NEAR}0 write 0x40000000 0x2000
0 uffd_register 0x40000000 0x8000 WP_UNPOPULATED WP
0 uffd_writeprotect 0x40000000 0x1000 1
0 madvise 0x40000000 0x2000 PAGEOUT
0 read 0x40000000 0x2000""",
        f"""{_NEAR}0 write 0x40000000 0x3000
0 madvise 0x40000000 0x2000 FREE
0 write 0x40000000 0x1000
0 madvise 0x40000000 0x3000 PAGEOUT""",
        # -- parts of huge pages
        f"""{_HUGE}0 write 0x40000000 0x200000
0 madvise 0x40001000 0x3000 COLLAPSE
0 madvise 0x40000000 0x200000 COLLAPSE""",
        # Two processes map one part each of a huge page: it is not split.
        f"""{_HUGE}0 write 0x40001000 0x1000
0 fork
0 munmap 0x40000000 0x5000
1 munmap 0x40005000 0x1fb000
0 madvise 0x401ff000 0x3000 FREE
0 madvise 0x401ff000 0x3000 COLD""",
        # Other pages take the place of those freed of a huge page.
        f"""{_HUGE}0 munmap 0x403de000 0x22000
0 write 0x40100000 0x200000
0 munmap 0x40100000 0x100000
0 write 0x40200000 0x1fd000
0 madvise 0x40000000 0x5000 COLD""",
        # A page of a huge page that another process maps too is not reused.
        f"""{_HUGE}0 write 0x40300000 0x100000
0 fork
1 madvise 0x40201000 0xff000 DONTNEED
0 write 0x40100000 0x200000
0 madvise 0x40100000 0x200000 PAGEOUT""",
        # The PTEs of a huge page that is split are soft-dirty, though it was not.
        f"""{_HUGE}0 write 0x40000000 0x200000
0 clear_refs
0 munmap 0x40000000 0x1000""",
        # A huge page that is given up leaves its table.
        f"""{_HUGE}0 write 0x40000000 0x1000
0 madvise 0x40000000 0x3dc000 FREE
0 madvise 0x40000000 0x400000 PAGEOUT
0 read 0x40002000 0x3000""",
        # -- VMAs
        # Neighbours that become alike but for what a child gets.
        f"""{_PAGES}0 mmap 0x3fffc000 0x8000 rw private|anonymous
0 write 0x3fffc000 0x8000
0 madvise 0x3fffc000 0x4000 DONTFORK
0 mprotect 0x3fffc000 0x4000 r
0 mprotect 0x40000000 0x4000 r
0 fork""",
        # Neighbours that are alike, but have an anon_vma each.
        f"""{_PAGES}0 mmap 0x3fffc000 0x8000 rw private|anonymous
0 uffd_register 0x40000000 0x4000 SIGBUS MISSING
0 write 0x40000000 0x1000
0 write 0x3fffc000 0x1000
0 uffd_unregister 0x40000000 0x4000
0 mremap 0x3fffc000 0x8000 0x7000 0x405fc000 MAYMOVE|FIXED""",
        # Past the end of shared memory: a read maps what is around, a write does
        # not wait for its userfaultfd, a mapping of nothing else has nothing around.
        f"""{_PAGES}0 mmap 0x40000000 0x4000 rw shared|anonymous
0 write 0x40000000 0x1000
0 mremap 0x40002000 0x2000 0x5000 0x0 -
0 fork
1 read 0x40004000 0x1000
0 uffd_register 0x40004000 0x1000 - WP
0 uffd_writeprotect 0x40004000 0x1000 1
0 write 0x40004000 0x1000
0 mremap 0x40006000 0x1000 0x1000 0x405ff000 MAYMOVE|FIXED
0 read 0x405ff000 0x1000""",
        # -- missing pages
        f"""{_NEAR}0 uffd_register 0x40000000 0x8000 SIGBUS|WP_UNPOPULATED MISSING|WP
0 uffd_writeprotect 0x40000000 0x2000 1
0 read 0x40000000 0x1000
0 write 0x40001000 0x1000
0 uffd_copy 0x40000000 0x1000 WP""",
        f"""{_NEAR}0 uffd_register 0x40000000 0x8000 SIGBUS MISSING
0 uffd_register 0x40000000 0x4000 SIGBUS WP
0 read 0x40000000 0x1000
0 read 0x40004000 0x1000""",
        # A fault that finds a page missing has made a table: no huge page fits.
        """watch 0x40000000 0x400000
0 mmap 0x40000000 0x400000 rw private|anonymous
0 uffd_register 0x40000000 0x400000 SIGBUS MISSING
0 read 0x40200000 0x1000
0 uffd_unregister 0x40000000 0x400000
0 madvise 0x40000000 0x400000 HUGEPAGE
0 write 0x40000000 0x1000
0 write 0x40200000 0x1000""",
        f"""{_SHARED}0 write 0x40000000 0x1000
0 madvise 0x40000000 0x8000 DONTNEED
0 uffd_register 0x40000000 0x8000 SIGBUS MISSING
0 uffd_copy 0x40000000 0x2000 -
0 read 0x40001000 0x1000
0 read 0x40000000 0x1000""",
        # -- what a userfaultfd is told
        f"""{_NEAR}0 write 0x40000000 0x8000
0 uffd_register 0x40000000 0x8000 EVENT_FORK|EVENT_REMAP|EVENT_REMOVE|EVENT_UNMAP WP
0 madvise 0x40000000 0x1000 DONTNEED
0 munmap 0x40002000 0x2000
0 mremap 0x40004000 0x2000 0x2000 0x40100000 MAYMOVE|FIXED""",
        # -- UFFDIO_MOVE
        f"""{_NEAR}0 write 0x40000000 0x2000
0 uffd_register 0x40000000 0x8000 - MISSING|WP
0 uffd_writeprotect 0x40000000 0x2000 1
0 madvise 0x40000000 0x2000 PAGEOUT
0 uffd_move 0x40004000 0x40000000 0x2000 -
0 write 0x40004000 0x2000
0 read 0x40000000 0x1000""",
        f"""{_NEAR}0 write 0x40000000 0x2000
0 uffd_register 0x40000000 0x8000 SIGBUS MISSING
0 madvise 0x40000000 0x2000 PAGEOUT
0 fork
0 uffd_move 0x40004000 0x40000000 0x1000 -
1 exit
0 uffd_move 0x40004000 0x40000000 0x1000 -
0 read 0x40000000 0x2000
0 uffd_move 0x40004000 0x40000000 0x1000 -
0 write 0x40001000 0x1000
0 uffd_move 0x40004000 0x40001000 0x1000 -""",
        f"""{_NEAR}watch 0x40600000 0x8000
0 write 0x40000000 0x1000
0 read 0x40001000 0x1000
0 clear_refs
0 mremap 0x40000000 0x8000 0x8000 0x40600000 MAYMOVE|FIXED
0 uffd_register 0x40600000 0x8000 - MISSING
0 uffd_move 0x40604000 0x40600000 0x2000 -""",
        f"""{_HUGE}0 write 0x40000000 0x200000
0 uffd_register 0x40000000 0x400000 - MISSING|WP
0 uffd_writeprotect 0x40000000 0x200000 1
0 uffd_move 0x40200000 0x40000000 0x200000 -
0 pagemap_scan 0x40000000 0x40400000 - - - - {ALL_CATEGORIES} 0 100
0 uffd_move 0x40001000 0x40202000 0x3000 -
0 uffd_copy 0x40000000 0x2000 WP
0 pagemap_scan 0x40000000 0x40400000 - - - - {ALL_CATEGORIES} 0 100
0 write 0x40001000 0x1000""",
    )
)
