"""The running kernel in the place of an AddressSpace, so that cases run on it too.

Operations are gathered as a program of `tests/kernel`; what asks for an answer runs
all of it anew, in a process of its own, which takes 2 ms.
"""

import errno

import answers
import numpy as np
import pytest
from programs import Operation, Program

import extmeta as em

# What the driver's userfaultfds have anyway, or leave out.
IMPLIED = {"PAGEFAULT_FLAG_WP", "EVENT_REMOVE"}
ROOM = 4000  # regions that the driver has room for


class Running:
    """A process on the running kernel, with the methods that cases use.

    What it can't do skips the test: soft-dirty, and a writer that waits, as the
    driver resolves its faults by itself.
    """

    # For its sizes.
    table = em.PageTable("inpte", em.Fields(uffd_wp=1), "x86_64")

    def __init__(self, swapless=None):
        self._swapless = swapless
        self._process = 0
        self._operations = []
        self._processes = [0]

    def _add(self, name, *values):
        self._operations.append(Operation(self._process, name, values))

    def _ask(self, name, *values):
        """Do an operation and return its answer; the kernel's no is an OSError."""
        asked = Operation(self._process, name, values)
        done = [*self._operations, asked]
        _about, ((*before, last),) = answers.run_native([Program(tuple(done), ())])
        for operation, answer in zip(done, before, strict=False):
            assert answer.error is None, f"{operation}: {answer.error}"
        if last.error:
            raise OSError(getattr(errno, last.error), f"[Errno] unknown {asked}")
        if name == "pagemap_scan":
            self._operations.append(asked)
        return last

    def mmap(self, addr, length, prot="rw", flags="private|anonymous"):
        self._add("mmap", addr, length, prot, flags)

    def munmap(self, addr, length):
        self._add("munmap", addr, length)

    def mprotect(self, addr, length, prot):
        self._add("mprotect", addr, length, prot)

    def mremap(self, old, old_len, new_len, new_addr):
        self._add("mremap", old, old_len, new_len, new_addr, "MAYMOVE|FIXED")

    def madvise(self, addr, length, advice):
        if advice == "PAGEOUT" and self._swapless:
            pytest.skip(self._swapless)
        self._add("madvise", addr, length, advice)

    def read(self, addr, length=1):
        self._add("read", addr, length)

    def write(self, addr, length=1):
        self._add("write", addr, length)

    def fork(self):
        self._add("fork")
        child = Running(self._swapless)
        child._operations, child._processes = self._operations, self._processes
        child._process = len(self._processes)
        self._processes.append(child._process)
        return child

    def exit(self):
        self._add("exit")

    def uffd_register(self, addr, length, features=("WP_ASYNC",), *, handler=None):
        if handler is not None:
            self.writer_waits()
        wanted = "|".join(sorted(set(features) - IMPLIED)) or "-"
        self._add("uffd_register", addr, length, wanted, "WP")

    def uffd_unregister(self, addr, length):
        self._add("uffd_unregister", addr, length)

    def uffd_writeprotect(self, addr, length, on):
        self._add("uffd_writeprotect", addr, length, int(on))

    def clear_refs(self):
        self.soft_dirty()

    def pagemap(self, addr, length):
        return np.array(self._ask("pagemap", addr, length).words, np.uint64)

    def pagemap_scan(
        self,
        start,
        end,
        flags=0,
        category_inverted=0,
        category_mask=0,
        category_anyof_mask=0,
        return_mask=0,
        max_pages=0,
        vec_len=None,
    ):
        masks = (
            str(mask or "-")
            for mask in (
                *(flags, category_inverted, category_mask),
                *(category_anyof_mask, return_mask),
            )
        )
        room = ROOM if vec_len is None else vec_len
        found = self._ask("pagemap_scan", start, end, *masks, max_pages, room)
        return found.regions, found.walk_end

    @staticmethod
    def soft_dirty():
        pytest.skip("soft-dirty is not asked of the running kernel: it may have none")

    @staticmethod
    def writer_waits():
        pytest.skip("the driver resolves faults by itself")
