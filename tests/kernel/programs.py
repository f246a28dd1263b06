"""Programs of memory operations as data, with a text form both ways.

The text form is the driver's input, so a program printed is a program to run:
``driver < program.txt`` (`Program.text`). Addresses and lengths are in bytes.
"""

import enum
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

PAGE = 4096
PMD = 512 * PAGE


class Kind(enum.Enum):
    """What an argument is."""

    NUMBER = "number"
    PROT = "prot"
    FLAGS = "flags of mmap"
    ADVICE = "advice"
    FEATURES = "features of userfaultfd"
    MODE = "mode of an ioctl of userfaultfd"
    SCAN_FLAGS = "flags of PAGEMAP_SCAN"
    CATEGORIES = "categories"
    REMAP = "flags of mremap"


N, C = Kind.NUMBER, Kind.CATEGORIES

# As the methods of AddressSpace, by name and order of arguments.
OPERATIONS: dict[str, dict[str, Kind]] = {
    "mmap": {"addr": N, "length": N, "prot": Kind.PROT, "flags": Kind.FLAGS},
    "munmap": {"addr": N, "length": N},
    "mprotect": {"addr": N, "length": N, "prot": Kind.PROT},
    "read": {"addr": N, "length": N},
    "write": {"addr": N, "length": N},
    "madvise": {"addr": N, "length": N, "advice": Kind.ADVICE},
    "mremap": {
        "old": N,
        "old_len": N,
        "new_len": N,
        "new_addr": N,
        "flags": Kind.REMAP,
    },
    "fork": {},
    "exit": {},
    "uffd_register": {
        "addr": N,
        "length": N,
        "features": Kind.FEATURES,
        "mode": Kind.MODE,
    },
    "uffd_unregister": {"addr": N, "length": N},
    "uffd_writeprotect": {"addr": N, "length": N, "on": N},
    "uffd_copy": {"addr": N, "length": N, "mode": Kind.MODE},
    "uffd_zeropage": {"addr": N, "length": N, "mode": Kind.MODE},
    "uffd_move": {"dst": N, "src": N, "length": N, "mode": Kind.MODE},
    "uffd_wake": {"addr": N, "length": N},
    "clear_refs": {},
    "pagemap": {"addr": N, "length": N},
    "pagemap_scan": {
        "start": N,
        "end": N,
        "flags": Kind.SCAN_FLAGS,
        "category_inverted": C,
        "category_mask": C,
        "category_anyof_mask": C,
        "return_mask": C,
        "max_pages": N,
        "vec_len": N,
    },
    # Not of AddressSpace: see words.py. Every so many pages get a word, which is
    # `step` more for each page of the range.
    "set_words": {"addr": N, "length": N, "word": N, "step": N, "every": N},
    # Compaction: pages migrate, and nothing shows it.
    "compact": {},
}


@dataclass(frozen=True)
class Operation:
    """One operation of one process: ``1 mprotect 0x40000000 0x1000 r``.

    Parameters
    ----------
    process : int
        0 is there at the start; each fork starts the next number.
    name : str
        A key of `OPERATIONS`.
    arguments : tuple of int or str
        Numbers; names joined by ``|``, ``-`` for none.
    """

    process: int
    name: str
    arguments: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in OPERATIONS:
            raise ValueError(f"no operation {self.name!r}")
        wanted = OPERATIONS[self.name]
        if len(self.arguments) != len(wanted):
            raise ValueError(
                f"{self.name} has {len(wanted)} arguments, not {len(self.arguments)}"
            )
        for (name, kind), value in zip(wanted.items(), self.arguments, strict=True):
            if kind is N and not isinstance(value, int):
                raise ValueError(f"{self.name}: {name} is a number, not {value!r}")

    def __str__(self) -> str:
        values = (f"{v:#x}" if isinstance(v, int) else v for v in self.arguments)
        return " ".join((str(self.process), self.name, *values))

    @classmethod
    def parse(cls, line: str) -> "Operation":
        """Return the operation of a line; ValueError names what is wrong."""
        process, name, *texts = line.split()
        kinds = list(OPERATIONS.get(name, {}).values())
        if len(texts) != len(kinds):
            raise ValueError(f"{line!r}: {len(kinds)} arguments expected")
        return cls(
            int(process),
            name,
            tuple(
                int(t, 0) if kind is N else t
                for kind, t in zip(kinds, texts, strict=True)
            ),
        )


@dataclass(frozen=True)
class Program:
    """Operations, and the ranges whose pages are shown after each of them.

    Parameters
    ----------
    operations : tuple of Operation
    watch : tuple of (int, int)
        Addresses and lengths in bytes.
    mode : int
        How fork copies words: EXTMETA_IOC_MODE of ``kernel/extmeta.h``.
    """

    operations: tuple[Operation, ...]
    watch: tuple[tuple[int, int], ...]
    mode: int = 0

    def __post_init__(self) -> None:
        alive, next_number = {0}, 1
        for operation in self.operations:
            if operation.process not in alive:
                raise ValueError(f"{operation}: no process {operation.process}")
            if operation.name == "fork":
                alive.add(next_number)
                next_number += 1
            elif operation.name == "exit":
                alive.discard(operation.process)

    def text(self, name: str = "-") -> str:
        """Return the driver's input; a name has no blanks."""
        lines = [f"program {name}"]
        lines += [f"watch {start:#x} {length:#x}" for start, length in self.watch]
        lines += [f"mode {self.mode}"] if self.mode else []
        lines += [str(operation) for operation in self.operations]
        return "\n".join([*lines, "end", ""])

    @classmethod
    def parse(cls, text: str) -> "Program":
        """Return the one program of a text."""
        operations, watch, mode = [], [], 0
        for line in text.splitlines():
            word = line.split(maxsplit=1)[0] if line.strip() else "#"
            if word == "watch":
                start, length = line.split()[1:]
                watch.append((int(start, 0), int(length, 0)))
            elif word == "mode":
                mode = int(line.split()[1])
            elif not word.startswith("#") and word not in ("program", "end"):
                operations.append(Operation.parse(line))
        return cls(tuple(operations), tuple(watch), mode)

    def of(self, operations: Sequence[Operation]) -> "Program":
        """Return a program with other operations."""
        return replace(self, operations=tuple(operations))


# ---- making programs ----


@dataclass(frozen=True)
class Menu:
    """What programs are made of.

    Parameters
    ----------
    windows : tuple of (int, int)
        The ranges that operations are about, in bytes.
    lengths : tuple of int
        Lengths in bytes that ranges have; a window's granule is the smallest.
    weights : dict
        How often each operation is chosen. One that is missing never is.
    """

    windows: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    weights: dict[str, int]
    advice: tuple[str, ...]
    maps: tuple[str, ...] = ("private|anonymous",) * 3 + ("shared|anonymous",)
    features: tuple[str, ...] = (
        "WP_ASYNC|WP_UNPOPULATED",
        "WP_ASYNC|WP_UNPOPULATED",
        "WP_ASYNC",
        "WP_UNPOPULATED",
        "-",
        "WP_ASYNC|EVENT_FORK|EVENT_REMAP",
        "WP_UNPOPULATED|EVENT_FORK|EVENT_REMAP",
        "EVENT_FORK",
        "WP_ASYNC|EVENT_REMAP",
    )
    modes: tuple[str, ...] = ("WP",)
    processes: int = 3
    fork_modes: tuple[int, ...] = ()  # Program.mode; none if there are no words

    def with_words(self, fork_modes: tuple[int, ...]) -> "Menu":
        """Return the menu with operations on words, for private anonymous memory.

        What becomes of the words of files is not modelled.
        """
        weights = {**self.weights, "set_words": 16, "compact": 1}
        return replace(
            self, weights=weights, fork_modes=fork_modes, maps=("private|anonymous",)
        )

    def without(self, *names: str) -> "Menu":
        """Return the menu without some operations or advice."""
        weights = {n: w for n, w in self.weights.items() if n not in names}
        advice = tuple(a for a in self.advice if a not in names)
        return replace(self, weights=weights, advice=advice)


WEIGHTS = {
    "read": 6,
    "write": 10,
    "uffd_writeprotect": 7,
    "pagemap_scan": 7,
    "madvise": 7,
    "fork": 3,
    "mprotect": 3,
    "mremap": 4,
    "mmap": 2,
    "munmap": 2,
    "uffd_register": 3,
    "uffd_unregister": 1,
    "clear_refs": 3,
    "exit": 1,
}

# A few pages on both sides of the end of a PTE table (and, at 1 GiB, of a PMD
# table), and another place of that kind to move them to.
PAGES = Menu(
    windows=((0x3FFFC000, 8 * PAGE), (0x405FC000, 8 * PAGE)),
    lengths=tuple(n * PAGE for n in (1, 1, 1, 2, 3, 4, 5, 8)),
    weights=WEIGHTS,
    advice=(
        *("DONTNEED", "DONTNEED", "PAGEOUT", "PAGEOUT"),
        *("POPULATE_READ", "POPULATE_READ", "POPULATE_WRITE", "POPULATE_WRITE"),
        *("REMOVE", "REMOVE"),
        *("FREE", "COLD", "DONTFORK", "DOFORK", "WIPEONFORK", "KEEPONFORK"),
    ),
)

HUGE = Menu(
    windows=((0x40000000, 2 * PMD), (0x40600000, 2 * PMD)),
    lengths=(
        *(PAGE, PAGE, 3 * PAGE, 64 * PAGE, PMD // 2, PMD, PMD, 2 * PMD),
        *(PMD - PAGE, PMD + PAGE),
    ),
    weights=WEIGHTS,
    advice=(
        *("HUGEPAGE", "HUGEPAGE", "HUGEPAGE", "NOHUGEPAGE", "COLLAPSE", "COLLAPSE"),
        *("DONTNEED", "PAGEOUT", "POPULATE_READ", "POPULATE_WRITE"),
        *("COLD", "COLD", "FREE", "FREE", "DONTFORK", "WIPEONFORK"),
    ),
    maps=("private|anonymous",),
)

# Missing pages, brought by COPY, ZEROPAGE and MOVE, and events.
FILLS = {
    **dict(WEIGHTS, uffd_copy=9, uffd_zeropage=5, uffd_move=9, uffd_wake=1),
    "uffd_register": 5,
}
FILL_FEATURES = (
    "-",
    "SIGBUS",
    "SIGBUS|WP_ASYNC|WP_UNPOPULATED",
    "SIGBUS|WP_UNPOPULATED",
    "WP_ASYNC|WP_UNPOPULATED",
    "WP_UNPOPULATED|MISSING_SHMEM|MOVE",
    "EVENT_FORK|EVENT_REMAP|EVENT_REMOVE|EVENT_UNMAP",
    "SIGBUS|EVENT_FORK|EVENT_REMAP|EVENT_REMOVE|EVENT_UNMAP",
    "WP_ASYNC|EVENT_REMOVE|EVENT_UNMAP",
)
FILL_MODES = ("MISSING|WP", "MISSING|WP", "MISSING", "MISSING", "WP")
MISSING = replace(
    PAGES,
    weights=FILLS,
    advice=(*PAGES.advice, "DONTNEED", "PAGEOUT", "PAGEOUT"),
    maps=("private|anonymous",) * 4 + ("shared|anonymous", "private|file"),
    features=FILL_FEATURES,
    modes=FILL_MODES,
)
MISSING_HUGE = replace(
    HUGE, weights=FILLS, features=FILL_FEATURES, modes=(*FILL_MODES, "WP", "WP")
)

SCANS = (
    # flags, inverted, mask, anyof, return
    ("-", "-", "-", "-", "ALL"),
    ("WP_MATCHING|CHECK_WPASYNC", "-", "WRITTEN", "-", "WRITTEN"),
    ("WP_MATCHING", "-", "WRITTEN", "-", "ALL"),
    ("WP_MATCHING|CHECK_WPASYNC", "-", "WRITTEN|PRESENT", "-", "ALL"),
    ("-", "-", "WRITTEN", "-", "WRITTEN"),
    ("-", "-", "-", "PRESENT|SWAPPED", "ALL"),
    ("-", "PRESENT", "PRESENT", "-", "ALL"),
    ("-", "WRITTEN", "WRITTEN", "-", "WRITTEN|PRESENT|SWAPPED"),
    ("-", "-", "-", "FILE|PFNZERO", "FILE|PFNZERO"),
    ("-", "-", "SOFT_DIRTY", "-", "SOFT_DIRTY|WRITTEN"),
    ("WP_MATCHING", "-", "-", "WRITTEN|SOFT_DIRTY", "ALL"),
    ("-", "-", "WPALLOWED", "-", "WPALLOWED|WRITTEN"),
)
# What mremap does: mostly it moves.
REMAPS = ("MAYMOVE|FIXED",) * 4 + ("MAYMOVE|FIXED|DONTUNMAP",) * 2 + ("-", "-")
ALL_CATEGORIES = "WPALLOWED|WRITTEN|FILE|PRESENT|SWAPPED|PFNZERO|HUGE|SOFT_DIRTY"

# Operations that do something only where a userfaultfd is.
OF_MISSING = ("uffd_copy", "uffd_zeropage", "uffd_move")
OF_REGISTERED = ("uffd_writeprotect", *OF_MISSING)
# A word has room for `step` more in each page that is watched: below 2^62. All words are
# odd, so that one bit of them tells whether there is a word.
WORDS = range(1, 1 << 61, 2)
STEPS = (0, 0, 2, 1 << 40)

Choose = Callable[[Sequence[Any]], Any]
Range = tuple[int, int]  # address, length


@dataclass
class Memory:
    """About what a process has: so that most operations find something to do."""

    mapped: set[int]  # page addresses
    registered: set[int]
    present: set[int]

    @staticmethod
    def runs(pages: set[int]) -> list[Range]:
        """Return pages as ranges."""
        found: list[list[int]] = []
        for page in sorted(pages):
            if found and sum(found[-1]) == page:
                found[-1][1] += PAGE
            else:
                found.append([page, PAGE])
        return [(start, length) for start, length in found]

    def follow(self, operation: Operation) -> None:
        """Take note of an operation (but for its failing)."""
        name, values = operation.name, operation.arguments
        if name in ("fork", "exit", "clear_refs", "pagemap_scan", "compact"):
            return
        if name == "uffd_move":
            self.present -= pages_of((values[1], values[2]))
            self.present |= pages_of((values[0], values[2])) & self.mapped
            return
        pages = pages_of(values)
        if name in ("read", "write", "uffd_copy", "uffd_zeropage"):
            self.present |= pages & self.mapped
        elif name == "madvise" and values[2] == "DONTNEED":
            self.present -= pages
        elif name in ("mmap", "munmap"):
            self.registered -= pages
            self.present -= pages
            self.mapped = self.mapped | pages if name == "mmap" else self.mapped - pages
        elif name == "uffd_register":
            self.registered |= pages & self.mapped
        elif name == "uffd_unregister":
            self.registered -= pages
        elif name == "mremap" and pages <= self.mapped:
            if "DONTUNMAP" not in values[4]:
                self.mapped -= pages
                self.registered -= pages
            start = values[3] if "FIXED" in values[4] else values[0]
            self.mapped |= pages_of((start, values[2]))
            was_there = bool(pages & self.present)
            self.present -= pages
            if was_there:
                self.present |= pages_of((start, min(values[1:3])))

    def fork(self, features: str) -> "Memory":
        """Return what the child has."""
        inherits = "EVENT_FORK" in features
        registered = set(self.registered if inherits else ())
        return Memory(set(self.mapped), registered, set(self.present))


def pages_of(values: Sequence[Any]) -> set[int]:
    """Return the page addresses of a range."""
    return set(range(values[0], values[0] + values[1], PAGE))


class Maker:
    """Makes one program; every decision is one of ``choose(sequence)``."""

    def __init__(self, choose: Choose, menu: Menu) -> None:
        self.choose = choose
        self.menu = menu
        self.features = choose(menu.features)
        self.mode = choose(menu.modes)
        self.memory = {0: Memory(set(), set(), set())}
        self.forks = 0
        self.operations: list[Operation] = []

    def add(self, process: int, name: str, *arguments: int | str) -> None:
        """Add an operation."""
        operation = Operation(process, name, arguments)
        self.operations.append(operation)
        if name == "fork":
            self.forks += 1
            self.memory[self.forks] = self.memory[process].fork(self.features)
        elif name == "exit":
            del self.memory[process]
        else:
            self.memory[process].follow(operation)

    def where(self, process: int, name: str) -> list[Range]:
        """Return where an operation finds something to do."""
        memory = self.memory[process]
        pages = memory.registered if name in OF_REGISTERED else memory.mapped
        if name == "set_words" and memory.present:
            pages = memory.present
        if name in OF_MISSING and self.choose((True, True, False)):
            pages = memory.registered - memory.present
        return memory.runs(pages)

    def range(self, process: int, name: str) -> Range:
        """Choose a range for an operation: mostly where something is."""
        choose, menu = self.choose, self.menu
        runs = self.where(process, name)
        if not runs or choose((False, False, False, False, False, False, True)):
            runs = list(menu.windows)
        start, length = choose(runs)
        size = min(choose(menu.lengths), length)
        # Large ones lie across two huge pages, or inside one, every other time.
        large = size >= PMD // 2 and size % (PMD // 2) == 0
        granule = choose((PMD // 2, PMD // 2, PAGE)) if large else PAGE
        places = range(0, length - size + 1, granule)
        if len(places) > 32:  # the ends, the middle, and what is beside them
            middle = len(places) // 2
            near = [*places[:3], *places[middle - 2 : middle + 2], *places[-3:]]
            return start + choose(near), size
        return start + choose(places), size

    def remap(self, process: int, addr: int, length: int) -> tuple[int | str, ...]:
        """Choose mremap's arguments: where to, how long, and what stays."""
        choose, menu = self.choose, self.menu
        flags = choose(REMAPS)
        longer, shorter = length + 3 * PAGE, max(length - PAGE, PAGE)
        if flags == "-":
            runs = self.memory[process].runs(self.memory[process].mapped)
            if runs and choose((True, True, False)):  # up to where a VMA ends
                start, size = choose(runs)
                addr = max(start, start + size - length)
            return addr, length, choose((longer, shorter, length, longer)), 0, flags
        new = choose((length,) * 8 + (longer, shorter))
        start, size = choose(menu.windows[1:] * 2 + menu.windows[:1])
        granule = PMD if length >= PMD else PAGE
        places = range(0, size - length + 1, granule) or (0,)
        return addr, length, new, start + choose(places[:9]), flags

    def arguments(self, process: int, name: str) -> tuple[int | str, ...]:
        """Choose an operation's arguments."""
        if not OPERATIONS[name]:
            return ()
        choose, menu = self.choose, self.menu
        addr, length = self.range(process, name)
        if name == "mmap":
            addr, length = choose((*menu.windows, (addr, length), (addr, length)))
            return addr, length, choose(("rw", "rw", "rw", "r")), choose(menu.maps)
        if name == "mprotect":
            return addr, length, choose(("rw", "rw", "r", "none"))
        if name == "madvise":
            advice = choose(menu.advice)
            if advice == "COLLAPSE" and choose((True, True, False)):
                return addr & -PMD, PMD, advice
            return addr, length, advice
        if name == "mremap":
            return self.remap(process, addr, length)
        if name == "uffd_register":
            return addr, length, self.features, choose((self.mode, *menu.modes))
        if name in ("uffd_copy", "uffd_zeropage"):
            modes = ("-", "-", "WP", "DONTWAKE", "WP|DONTWAKE")
            return addr, length, choose(modes if name == "uffd_copy" else modes[::3])
        if name == "uffd_move":
            memory = self.memory[process]
            pages = memory.present if choose((True, True, False)) else memory.mapped
            runs = [run for run in memory.runs(pages) if run[1] >= length]
            start, size = choose(runs or menu.windows)
            granule = PMD if length >= PMD else PAGE
            places = range(0, size - length + 1, granule) or (0,)
            modes = ("-", "-", "ALLOW_SRC_HOLES", "ALLOW_SRC_HOLES", "DONTWAKE")
            return addr, start + choose(places), length, choose(modes)
        if name == "uffd_writeprotect":
            return addr, length, choose((1, 1, 0))
        if name == "pagemap_scan":
            scan = [ALL_CATEGORIES if a == "ALL" else a for a in choose(SCANS)]
            limits = choose(((0, 1000),) * 4 + ((1, 1000), (2, 1000), (0, 1), (3, 2)))
            return addr, addr + length, *scan, *limits
        if name == "set_words":
            if "HUGEPAGE" in menu.advice and choose((True, False)):
                # One word for all of what may be a huge page.
                return addr & -PMD, PMD, choose((0, *WORDS[:3], WORDS[-1])), 0, 1
            every = choose((1, 1, 1, 2, 3))
            if choose((False, False, False, False, True)):
                return addr, length, 0, 0, every
            return addr, length, choose(WORDS), choose(STEPS), every
        return addr, length


def make(choose: Choose, menu: Menu = PAGES, longest: int = 16) -> Program:
    """Return a program; every decision is one of ``choose(sequence)``.

    With ``random.Random(seed).choice`` it is a campaign's, with hypothesis's
    ``sampled_from`` it shrinks (towards the first of each sequence).
    """
    names = [name for name, weight in menu.weights.items() for _ in range(weight)]
    maker = Maker(choose, menu)
    # Nothing happens without memory, so it comes first, mostly all of it.
    whole = menu.windows[0]
    first = choose((whole, whole, maker.range(0, "mmap")))
    maker.add(0, "mmap", *first, "rw", choose(menu.maps))
    if "HUGEPAGE" in menu.advice and choose((True, True, False)):
        maker.add(0, "madvise", *whole, "HUGEPAGE")
    fills = "uffd_move" in menu.weights
    if fills and choose((False, False, True)):
        maker.add(0, "write", whole[0], choose(menu.lengths))
    if "uffd_register" in menu.weights and choose((True, True, True, False)):
        maker.add(0, "uffd_register", *whole, maker.features, maker.mode)
    if fills and choose((True, False)):
        other = menu.windows[1]
        maker.add(0, "mmap", *other, "rw", choose(menu.maps))
        if "HUGEPAGE" in menu.advice and choose((True, True, False)):
            maker.add(0, "madvise", *other, "HUGEPAGE")
        maker.add(0, "write", other[0], choose(menu.lengths))
    for _ in range(choose(range(1, longest + 1))):
        process, name = choose(list(maker.memory)), choose(names)
        if (name == "fork" and maker.forks + 1 >= menu.processes) or (
            name == "exit" and process == 0
        ):
            name = "write"
        maker.add(process, name, *maker.arguments(process, name))
    mode = choose(menu.fork_modes) if menu.fork_modes else 0
    return Program(tuple(maker.operations), menu.windows, mode)


@st.composite
def programs(draw: st.DrawFn, menu: Menu = PAGES, longest: int = 16) -> Program:
    """A hypothesis strategy for programs."""
    return make(lambda options: draw(st.sampled_from(options)), menu, longest)


# Few with huge pages: they take ten times as long to compare.
MENUS = (PAGES,) * 22 + (MISSING,) * 15 + (HUGE,) + (MISSING_HUGE,) * 2

# How fork copies words in each kernel with words: linked copies or shares side pages,
# without and with a count of flags.
FORK_MODES = {"linked": (0, 1, 2, 3), "adjacent": (0,), "adaptive": (0, 1, 2, 3)}


def random_programs(seed: int, menus: Sequence[Menu] = MENUS) -> Iterator[Program]:
    """Yield programs without end, the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        yield make(rng.choice, rng.choice(menus))


def without_dontunmap(program: Program) -> bool:
    """Tell if there is no MREMAP_DONTUNMAP, whose VMAs are modelled as 6.18 has them."""
    return not any("DONTUNMAP" in str(o) for o in program.operations)


# ---- making them smaller ----


def _without(program: Program, gone: range) -> Program | None:
    """Return the program without some operations, its processes renumbered."""
    numbers, next_old, kept = {0: 0}, 1, []
    for i, operation in enumerate(program.operations):
        stays = i not in gone and operation.process in numbers
        if operation.name == "fork":
            if stays:
                numbers[next_old] = len(numbers)
            next_old += 1
        if stays:
            kept.append(replace(operation, process=numbers[operation.process]))
    if len(kept) == len(program.operations) or not kept:
        return None
    return program.of(kept)


def smaller(program: Program) -> list[Program]:
    """Return programs a step smaller than this one, the boldest first.

    Runs of operations left out; then single arguments made simpler: fewer
    pages, no other process, no second name.
    """
    count = len(program.operations)
    found: list[Program | None] = []
    size = count // 2
    while size:
        found += [
            _without(program, range(first, first + size))
            for first in range(count - size, -1, -size)
        ]
        size //= 2
    for i, operation in enumerate(program.operations):
        before, after = program.operations[:i], program.operations[i + 1 :]
        found += [
            program.of((*before, simpler, *after)) for simpler in _simpler(operation)
        ]
    return [p for p in dict.fromkeys(found) if p]


def _simpler(operation: Operation) -> Iterator[Operation]:
    """Yield the operation with fewer pages, or with one name less."""
    values = list(operation.arguments)
    for i, (name, kind) in enumerate(OPERATIONS[operation.name].items()):
        value = values[i]
        if isinstance(value, str):
            names = value.split("|")
            if len(names) > 1 and kind is not Kind.FLAGS:
                for k in range(len(names)):
                    fewer = "|".join(names[:k] + names[k + 1 :])
                    yield _with(operation, {i: fewer})
        elif name in ("length", "old_len"):
            for less in dict.fromkeys((PAGE, value // 2 // PAGE * PAGE, value - PAGE)):
                if not 0 < less < value:
                    continue
                # mremap's new length too, so that it goes on moving only.
                lengths = {1: less, 2: less} if name == "old_len" else {i: less}
                # From the end, then from the start: either page may matter.
                yield _with(operation, lengths)
                starts = (0, 1) if operation.name == "uffd_move" else (0,)
                shifted = {k: int(values[k]) + value - less for k in starts}
                yield _with(operation, {**lengths, **shifted})
        elif name in ("max_pages", "step") and value:
            yield _with(operation, {i: 0})
        elif name == "every" and value > 1:
            yield _with(operation, {i: 1})


def _with(operation: Operation, values: dict[int, int | str]) -> Operation:
    arguments = (values.get(i, v) for i, v in enumerate(operation.arguments))
    return replace(operation, arguments=tuple(arguments))
