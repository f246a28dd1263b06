"""What the driver answered: its output as data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import guest
import native
from programs import Program


@dataclass(frozen=True)
class Kernel:
    """What the driver said about the kernel under it."""

    release: str
    soft_dirty: bool
    swap: bool
    thp_swap: bool  # on a device: alloc_swap_scan_cluster() in mm/swapfile.c
    scan: bool
    features: int  # of userfaultfd
    words: str = "-"  # beside PTEs: "linked" or "adjacent"

    @property
    def version(self) -> tuple[int, int]:
        """As in (6, 12): what depends on the kernel's version goes by it."""
        major, minor = self.release.split(".")[:2]
        return int(major), int(minor)

    @classmethod
    def parse(cls, line: str) -> "Kernel":
        said = dict(zip(*[iter(line.split())] * 2, strict=True))
        return cls(
            said["kernel"],
            said["soft_dirty"] == "1",
            said["swap"] != "0",
            said["swap"] == "2",
            said["scan"] == "1",
            int(said["uffd"], 16),
            said["words"],
        )


Event = tuple[int, int, str, int, int, int]


@dataclass(frozen=True)
class Answer:
    """What came of one operation.

    Parameters
    ----------
    result : int
        What the call returned: -1 with ``error``, fork's process number,
        PAGEMAP_SCAN's count of regions, else 0.
    error : str or None
        An errno's name, or SIGSEGV or SIGBUS for an access.
    changes : tuple of (process, addr, pages, word)
        Watched pages that differ from after the operation before; all are 0 at
        first. Of a word all flags, and all of a PTE marker.
    regions, walk_end :
        PAGEMAP_SCAN's: (start, end, categories).
    words : tuple of int
        pagemap's.
    events : tuple of (process, features, kind, int, int, int)
        What userfaultfds were told: features as bits, three addresses.
    stored : tuple of (process, addr, pages, word, step)
        Watched pages whose word has changed. Each page has `step` more.
    lockless : tuple of (process, addr, word)
        Pages whose word was another when it was read without the lock.
    """

    result: int
    error: str | None
    changes: tuple[tuple[int, int, int, int], ...] = ()
    regions: tuple[tuple[int, int, int], ...] = ()
    walk_end: int | None = None
    words: tuple[int, ...] = ()
    events: tuple[Event, ...] = ()
    stored: tuple[tuple[int, int, int, int, int], ...] = ()
    lockless: tuple[tuple[int, int, int], ...] = ()


def parse(output: str) -> tuple[Kernel, list[tuple[Answer, ...]]]:
    """Return the kernel and the answers of each program of a driver's output."""
    lines = iter(output.splitlines())
    kernel = Kernel.parse(next(lines))
    return kernel, list(_programs(lines))


def _programs(lines: Iterator[str]) -> Iterator[tuple[Answer, ...]]:
    answers: list[Answer] = []
    head: list[str] = []
    changes: list[tuple[int, int, int, int]] = []
    regions: list[tuple[int, int, int]] = []
    words: list[int] = []
    events: list[Event] = []
    stored: list[tuple[int, int, int, int, int]] = []
    lockless: list[tuple[int, int, int]] = []

    def finish() -> None:
        if not head:
            return
        error = None if head[1] == "-" else head[1]
        walk_end = int(head[2], 16) if len(head) > 2 else None
        answers.append(
            Answer(
                int(head[0]),
                error,
                tuple(changes),
                tuple(regions),
                walk_end,
                tuple(words),
                tuple(events),
                tuple(stored),
                tuple(lockless),
            )
        )
        for part in (head, changes, regions, words, events, stored, lockless):
            part.clear()

    for line in lines:
        kind, *values = line.split()
        if kind == "=":
            finish()
            head.extend(values)
        elif kind == "s":
            addr, pages, word = (int(v, 16) for v in values[1:])
            changes.append((int(values[0]), addr, pages, word))
        elif kind == "m":
            addr, pages, word, step = (int(v, 16) for v in values[1:])
            stored.append((int(values[0]), addr, pages, word, step))
        elif kind == "k":
            lockless.append((int(values[0]), int(values[1], 16), int(values[2], 16)))
        elif kind == "r":
            start, end, categories = (int(v, 16) for v in values)
            regions.append((start, end, categories))
        elif kind == "e":
            a, b, c = (int(v, 16) for v in values[3:])
            events.append((int(values[0]), int(values[1], 16), values[2], a, b, c))
        elif kind == "w":
            words.append(int(values[0], 16))
        elif kind == "end":
            finish()
            yield tuple(answers)
            answers.clear()


def text(programs: Sequence[Program]) -> str:
    """Return the driver's input for several programs."""
    return "".join(program.text(str(i)) for i, program in enumerate(programs))


def run_native(programs: Sequence[Program]) -> tuple[Kernel, list[tuple[Answer, ...]]]:
    """Run programs on this kernel."""
    return parse(native.run(text(programs)))


def run_guest(programs: Sequence[Program]) -> tuple[Kernel, list[tuple[Answer, ...]]]:
    """Run programs in the guest, in one boot."""
    return parse(guest.run(text(programs)))


def run_patched(
    form: str, programs: Sequence[Program]
) -> tuple[Kernel, list[tuple[Answer, ...]]]:
    """Run programs on the kernel with words in this form, in one boot."""
    return parse(guest.run(text(programs), patched=form))
