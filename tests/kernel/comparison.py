"""A program's answers from the kernel held against a model's.

The model is any object with the methods of ``em.AddressSpace``. It says no as the
kernel does: by OSError with the errno; an access that would get SIGSEGV or SIGBUS
by EFAULT. What it can't express (a bit that another tracker of the VMA holds) it
refuses by an exception named in ``refusals``; then the rest is not compared.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from answers import Answer, Kernel
from programs import ALL_CATEGORIES, OPERATIONS, PAGE, Kind, Operation, Program
from words import set_words, words_of

# Bits of a pagemap word: Linux v6.12 fs/proc/task_mmu.c PM_*; guard since 6.15.
BITS = {
    "present": 63,
    "swap": 62,
    "file": 61,
    "guard": 58,
    "uffd_wp": 57,
    "exclusive": 56,
    "soft_dirty": 55,
}
PRESENT, SWAP, SOFT_DIRTY = (1 << BITS[n] for n in ("present", "swap", "soft_dirty"))
FLAGS = sum(1 << bit for bit in BITS.values())
# A swap entry of this type is a PTE marker, and its offset says which.
MARKER_TYPE = 31
LOW = (1 << 55) - 1

CATEGORY = {name: 1 << i for i, name in enumerate(ALL_CATEGORIES.split("|"))}
CATEGORY["GUARD"] = 1 << 8
SCAN_FLAG = {"WP_MATCHING": 1, "CHECK_WPASYNC": 2}
# UFFD_FEATURE_*: those of events, and those by which userfaultfds differ.
FEATURE = {
    "EVENT_FORK": 1,
    "EVENT_REMAP": 2,
    "EVENT_REMOVE": 3,
    "MISSING_SHMEM": 5,
    "EVENT_UNMAP": 6,
    "SIGBUS": 7,
    "WP_HUGETLBFS_SHMEM": 12,
    "WP_UNPOPULATED": 13,
    "WP_ASYNC": 15,
    "MOVE": 16,
}
# They say how many bytes they did, also when they stop with an error.
FILLS = ("uffd_copy", "uffd_zeropage", "uffd_move")
# What is compared of the result of other operations.
COUNTED = (*FILLS, "set_words")


@dataclass(frozen=True)
class Mismatch:
    """The first difference.

    Parameters
    ----------
    step : int
        Index of the operation after which it was seen.
    kind : str
        ``error``, ``result``, ``event``, ``scan``, ``word`` (of pagemap), ``pagemap``,
        ``metadata``, ``lockless`` or ``exception``.
    where : str
        The page, for words.
    kernel, model : str
        What each said.
    """

    step: int
    operation: Operation
    kind: str
    where: str
    kernel: str
    model: str

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        return (
            f"step {self.step}, {self.operation}: {self.kind}{place}: "
            f"kernel {self.kernel}, model {self.model}"
        )

    @property
    def signature(self) -> tuple[str, str]:
        """What two programs have in common that show the same thing."""
        return self.operation.name, self.kind


@dataclass(frozen=True)
class Refusal:
    """The model can't express this program from here on."""

    step: int
    operation: Operation
    reason: str


def describe(word: int) -> str:
    """Return a pagemap word's flags by name."""
    names = [name for name, bit in BITS.items() if word >> bit & 1]
    if word & SWAP and not word & PRESENT and word & LOW:
        names.append(f"marker {(word & LOW) >> 5}")
    return "|".join(names) or "nothing"


def comparable(words: Any, soft_dirty: bool) -> Any:
    """Return what of pagemap words two kernels can agree on: no frames."""
    words = np.asarray(words, np.uint64)
    flags = FLAGS if soft_dirty else FLAGS & ~SOFT_DIRTY
    top = words >> np.uint64(62)
    marker = (top == 1) & (words & np.uint64(31) == MARKER_TYPE)
    keep = np.where(marker, np.uint64(flags | LOW), np.uint64(flags))
    return words & keep


def _joined(text: str, values: dict[str, int]) -> int:
    if text == "-":
        return 0
    return sum(int(n, 0) if n[0].isdigit() else values[n] for n in text.split("|"))


def arguments(operation: Operation) -> dict[str, Any]:
    """Return an operation's arguments as AddressSpace takes them."""
    found: dict[str, Any] = {}
    kinds = OPERATIONS[operation.name]
    for (name, kind), value in zip(kinds.items(), operation.arguments, strict=True):
        if kind is Kind.FEATURES:
            found[name] = () if value == "-" else tuple(str(value).split("|"))
        elif kind is Kind.CATEGORIES:
            found[name] = _joined(str(value), CATEGORY)
        elif kind is Kind.SCAN_FLAGS:
            found[name] = _joined(str(value), SCAN_FLAG)
        else:
            found[name] = value
    return found


def error_name(operation: Operation, error: OSError) -> str:
    """Return what the driver would have printed for a model's OSError."""
    name = errno.errorcode.get(error.errno or 0, f"errno {error.errno}")
    access = operation.name in ("read", "write")
    return "SIGSEGV" if access and name == "EFAULT" else name


class Comparison:
    """The processes of one program, on the model's side."""

    def __init__(self, program: Program, model: Any, kernel: Kernel) -> None:
        self.program = program
        self.soft_dirty = kernel.soft_dirty
        self.has_words = kernel.words != "-"
        self.spaces: dict[int, Any] = {0: model}
        self.forks = 0
        # What userfaultfds were told in this operation: by space, features' bits.
        self.told: list[tuple[Any, int, Any]] = []
        # What the kernel shows of each process in each watched range.
        self.shown: dict[tuple[int, int], Any] = {}
        # The word beside each PTE there.
        self.stored: dict[tuple[int, int], Any] = {}

    def perform(self, operation: Operation) -> Any:
        """Do an operation on the model; return what its method returned."""
        space = self.spaces[operation.process]
        if operation.name == "fork":
            self.forks += 1
            self.spaces[self.forks] = space.fork()
        elif operation.name == "exit":
            del self.spaces[operation.process]
            if hasattr(space, "exit"):
                space.exit()
            else:
                for start, length in self.program.watch:
                    space.munmap(start, length)
        elif operation.name == "set_words":
            return set_words(space, operation)
        elif operation.name != "compact":
            return self.resolving(space, operation)
        return None

    def resolving(self, space: Any, operation: Operation) -> Any:
        """Call a method; be the monitor that the driver's conductor is.

        An access that waits for somebody to take a page's protection off, or to
        bring a page, raises an exception with the page's ``address``: do it, go on.
        """
        method, values = getattr(space, operation.name), arguments(operation)
        if "EVENT" in str(values.get("features")):
            values["listener"] = self.listener(values["features"])
        waited: set[tuple[int, bool]] = set()
        while True:
            try:
                return method(**values)
            except Exception as fault:
                page = getattr(fault, "address", None)
                missing = getattr(fault, "missing", False)
                if page is None or (page, missing) in waited:
                    raise
                waited.add((page, missing))
                if missing:
                    space.uffd_copy(page & -PAGE, PAGE)
                else:
                    space.uffd_writeprotect(page & -PAGE, PAGE, 0)

    def listener(self, features: Sequence[str]) -> Any:
        """Return what keeps the events of a userfaultfd of these features."""
        bits = sum(1 << FEATURE[name] for name in features)

        def keep(space: Any, event: Any) -> None:
            self.told.append((space, bits, event))

        return keep

    def heard(self) -> list[Any]:
        """Return this operation's events, as the driver's answer has them."""
        number = {id(space): process for process, space in self.spaces.items()}
        told, self.told = self.told, []
        return [
            (number[id(space)], bits, one.kind, one.start, one.end, one.to)
            for space, bits, one in told
        ]

    def difference(
        self, operation: Operation, answer: Answer
    ) -> tuple[str, ...] | None:
        """Perform one; return (kind, where, kernel, model) of a difference."""
        error, returned = None, None
        try:
            returned = self.perform(operation)
        except OSError as failed:
            error = error_name(operation, failed)
            returned = getattr(failed, "characters_written", -1)
        # The model says EFAULT for either signal.
        wanted = "SIGSEGV" if answer.error == "SIGBUS" else answer.error
        if error != wanted:
            return "error", "", wanted or "none", error or "none"
        if operation.name in COUNTED and returned != answer.result:
            return "result", "", str(answer.result), str(returned)
        # A userfaultfd's events keep their order; the driver chooses which to read first.
        events = sorted(answer.events, key=lambda event: event[:2])
        told = sorted(self.heard(), key=lambda event: event[:2])
        if events != told:
            return "event", "", str(events), str(told)
        if operation.name == "pagemap" and not error:
            return self._words(operation, answer.words, returned)
        if operation.name == "pagemap_scan" and not error:
            found = self._scan(answer, returned)
            if found:
                return found
        return self._state(answer) or (
            self._metadata(answer) if self.has_words else None
        )

    def _words(
        self, operation: Operation, words: Sequence[int], returned: Any
    ) -> tuple[str, ...] | None:
        ours = comparable(returned, self.soft_dirty)
        theirs = comparable(words, self.soft_dirty)
        if np.array_equal(theirs, ours):
            return None
        at = int(np.flatnonzero(theirs != ours)[0])
        where = f"{int(operation.arguments[0]) + at * PAGE:#x}"
        return "pagemap", where, describe(int(theirs[at])), describe(int(ours[at]))

    def _scan(self, answer: Answer, returned: Any) -> tuple[str, ...] | None:
        regions, walk_end = returned
        ignored = 0 if self.soft_dirty else CATEGORY["SOFT_DIRTY"]
        theirs = [(s, e, c & ~ignored) for s, e, c in answer.regions]
        ours = [(int(s), int(e), int(c) & ~ignored) for s, e, c in regions]
        if (theirs, answer.walk_end) == (ours, int(walk_end)):
            return None
        return (
            "scan",
            "",
            _regions_text(theirs, answer.walk_end or 0),
            _regions_text(ours, int(walk_end)),
        )

    def _state(self, answer: Answer) -> tuple[str, ...] | None:
        for process, addr, pages, word in answer.changes:
            self._part(self.shown, process, addr, pages)[:] = word
        for process, space in self.spaces.items():
            for start, length in self.program.watch:
                theirs = self.shown.get((process, start))
                if theirs is None:
                    theirs = np.zeros(length // PAGE, np.uint64)
                ours = comparable(space.pagemap(start, length), self.soft_dirty)
                theirs = comparable(theirs, self.soft_dirty)
                if not np.array_equal(theirs, ours):
                    at = int(np.flatnonzero(theirs != ours)[0])
                    return (
                        "word",
                        f"process {process} {start + at * PAGE:#x}",
                        describe(int(theirs[at])),
                        describe(int(ours[at])),
                    )
        return None

    def _part(
        self, of: dict[tuple[int, int], Any], process: int, addr: int, pages: int
    ) -> Any:
        """Return the part of what is known of a process that an answer is about."""
        (start, length), *_ = (w for w in self.program.watch if 0 <= addr - w[0] < w[1])
        whole = of.setdefault((process, start), np.zeros(length // PAGE, np.uint64))
        first = (addr - start) // PAGE
        return whole[first : first + pages]

    def _metadata(self, answer: Answer) -> tuple[str, ...] | None:
        """Compare the words beside PTEs, as far as the model's words are wide."""
        for process, addr, pages, word, step in answer.stored:
            words = word + np.arange(pages, dtype=np.uint64) * np.uint64(step)
            self._part(self.stored, process, addr, pages)[:] = words
        for process, addr, word in answer.lockless:
            under = int(self._part(self.stored, process, addr, 1)[0])
            return (
                "lockless",
                f"process {process} {addr:#x}",
                f"{word:#x}, under the lock {under:#x}",
                "one word",
            )
        for process, space in self.spaces.items():
            for start, length in self.program.watch:
                ours = words_of(space, start, length)
                theirs = self.stored.get((process, start), np.zeros_like(ours))
                theirs = theirs & np.uint64((1 << space.table.fields["word"]) - 1)
                if not np.array_equal(theirs, ours):
                    at = int(np.flatnonzero(theirs != ours)[0])
                    return (
                        "metadata",
                        f"process {process} {start + at * PAGE:#x}",
                        f"{int(theirs[at]):#x}",
                        f"{int(ours[at]):#x}",
                    )
        return None


def _regions_text(regions: list[tuple[int, int, int]], walk_end: int) -> str:
    shown = " ".join(f"[{s:#x}, {e:#x}) {c:#x}" for s, e, c in regions)
    return f"{shown or 'no region'}, walk_end {walk_end:#x}"


def compare(
    program: Program,
    answers: Sequence[Answer],
    model: Any,
    kernel: Kernel,
    refusals: tuple[type[Exception], ...] = (),
) -> Mismatch | Refusal | None:
    """Run a program on a model; return where it first differs from the kernel.

    Parameters
    ----------
    program : Program
    answers : sequence of Answer
        The kernel's, one for each operation.
    model : AddressSpace
        An empty one; it is changed.
    kernel : Kernel
        Whose answers: without MEM_SOFT_DIRTY that bit is not compared, and words only
        if it has them.
    refusals : tuple of exception types
        By which the model says that it can't express something.

    Returns
    -------
    Mismatch, Refusal or None
        After each operation its errno, PAGEMAP_SCAN's answer, and every watched
        pagemap word of every process were compared.
    """
    comparison = Comparison(program, model, kernel)
    for step, (operation, answer) in enumerate(
        zip(program.operations, answers, strict=True)
    ):
        try:
            found = comparison.difference(operation, answer)
        except refusals as refused:
            return Refusal(step, operation, str(refused))
        except Exception as failed:  # noqa: BLE001 any is a finding
            text = f"{type(failed).__name__}: {failed}"
            return Mismatch(step, operation, "exception", "", "none", text)
        if found:
            return Mismatch(step, operation, *found)
    return None
