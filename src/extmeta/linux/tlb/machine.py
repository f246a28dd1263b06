"""CPUs that write to pages, protect them, and flush TLBs, one step at a time.

A step is what no other CPU can interrupt: an instruction of user space, what is done
under one hold of the page-table lock, the copying of a page, an IPI. States are tuples
that can be hashed; `steps` returns those that may follow.

A page's contents are the number of writes that reached it. A write is lost if in the
end the page that a PTE maps has fewer than were done.

Linux mm/memory.c do_wp_page(), wp_page_copy(); mm/mprotect.c change_protection();
fs/proc/task_mmu.c clear_refs_write().
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from extmeta.linux.tlb.cures import CURES, Cure
from extmeta.linux.tlb.generations import (
    completed,
    pending,
    pending_unless_wrapped,
    stamp,
)

# The writer's value of `State.lock`; else it is the number of readers.
WRITER = -1


class Op(NamedTuple):
    """An operation of a CPU's program on some vpns.

    `kind` is write, protect, unprotect or clear_refs. A write has one vpn. The others
    take write permission from PTEs, as Linux 5.7 to 5.11 does also to unprotect.
    """

    kind: str
    vpns: tuple[int, ...] = (0,)


Program = tuple[Op, ...]


class Pte(NamedTuple):
    """A present PTE, and the generation in its word."""

    frame: int
    write: bool = True
    uffd_wp: bool = False
    soft_dirty: bool = True
    stamp: int = 0


class Cpu(NamedTuple):
    """Where a CPU is in its program, and what the operation has at hand."""

    op: int = 0
    step: int = 0
    # A write fault's: the PTE it found, and the frame it copies to.
    found: Pte | None = None
    new: int = 0
    # A protection's generation.
    generation: int = 0


class State(NamedTuple):
    """Everything that decides what can follow."""

    cpus: tuple[Cpu, ...]
    ptes: tuple[Pte, ...]
    contents: tuple[int, ...]
    # By CPU and vpn: 1 + the frame of a writable entry, or 0.
    tlbs: tuple[tuple[int, ...], ...]
    # By vpn: the writes that were done.
    written: tuple[int, ...]
    tables: tuple[int, ...]
    active: tuple[int, ...]
    newest: int
    lock: int = 0


@dataclass(frozen=True)
class Setup:
    """A program for each CPU, and the rules.

    Attributes
    ----------
    programs : tuple of Program
    cure : Cure
    waits : bool
        A write to a page with uffd-wp waits for an `unprotect`; else the fault clears
        the bit: WP_ASYNC.
    table_of : tuple of int
        The PTE table of each vpn.
    first : int
        The generation before the first.
    """

    programs: tuple[Program, ...]
    cure: Cure = CURES["none"]
    waits: bool = False
    table_of: tuple[int, ...] = (0,)
    first: int = 0

    def __post_init__(self) -> None:
        for op in (op for program in self.programs for op in program):
            if op.kind not in _CHANGES and op.kind != "write":
                there = ", ".join(("write", *_CHANGES))
                raise ValueError(f"operation {op.kind!r} is none of {there}")
            if op.kind == "write" and len(op.vpns) != 1:
                raise ValueError(f"a write has one vpn, not {op.vpns}")
            if not all(0 <= vpn < len(self.table_of) for vpn in op.vpns):
                raise ValueError(f"vpns {op.vpns} are not in [0, {len(self.table_of)})")

    def start(self) -> State:
        """Return the first state: every page writable and cached by every CPU."""
        pages, cpus = len(self.table_of), len(self.programs)
        return State(
            (Cpu(),) * cpus,
            tuple(Pte(frame) for frame in range(pages)),
            # Frames in use: those of PTEs, and two for each CPU in a fault.
            (0,) * (pages + 2 * cpus),
            (tuple(range(1, pages + 1)),) * cpus,
            (0,) * pages,
            (0,) * (1 + max(self.table_of)),
            (),
            self.first,
        )

    def done(self, state: State) -> bool:
        """Return whether every program has ended."""
        return all(
            cpu.op == len(program)
            for cpu, program in zip(state.cpus, self.programs, strict=True)
        )

    def steps(self, state: State) -> Iterator[tuple[int, str, State]]:
        """Yield each step that may be next: its CPU, what it does, and the state after."""
        for number, (cpu, program) in enumerate(
            zip(state.cpus, self.programs, strict=True)
        ):
            if cpu.op < len(program):
                op = program[cpu.op]
                does = _write if op.kind == "write" else _protect
                for what, after in does(self, state, number, cpu, op):
                    yield number, what, after


Steps = Iterator[tuple[str, State]]

# What each operation leaves of a PTE, besides taking write permission.
_CHANGES: dict[str, dict[str, bool]] = {
    "protect": {"uffd_wp": True},
    "unprotect": {"uffd_wp": False},
    "clear_refs": {"soft_dirty": False},
}


def lost(state: State) -> tuple[int, ...]:
    """Return how many writes to each vpn are not in the page that its PTE maps."""
    return tuple(
        written - state.contents[pte.frame]
        for written, pte in zip(state.written, state.ptes, strict=True)
    )


def owed(setup: Setup, state: State, vpn: int) -> bool:
    """Return whether a write fault takes a flush for pending, as its cure asks."""
    cure = setup.cure
    if cure.asks in ("", "mm"):
        return bool(cure.asks and state.active)
    done = completed(state.newest, state.active)
    if cure.asks == "table":
        kept = state.tables[setup.table_of[vpn]]
    else:
        kept = state.ptes[vpn].stamp
    if cure.asks == "pte, unwrapped":
        return pending_unless_wrapped(kept, done, cure.bits)
    return bool(pending(kept, state.newest, done, cure.bits))


def _put(items: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*items[:at], value, *items[at + 1 :])


def _flushed(
    tlbs: tuple[tuple[int, ...], ...], cpu: int, vpns: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    entries = tuple(0 if vpn in vpns else e for vpn, e in enumerate(tlbs[cpu]))
    return _put(tlbs, cpu, entries)


def _flushed_everywhere(state: State, vpn: int) -> tuple[tuple[int, ...], ...]:
    return tuple(_put(entries, vpn, 0) for entries in state.tlbs)


def _write(setup: Setup, state: State, number: int, cpu: Cpu, op: Op) -> Steps:
    (vpn,) = op.vpns
    pte = state.ptes[vpn]
    if cpu.step == 1 and cpu.found is not None:
        copied = _put(state.contents, cpu.new, state.contents[cpu.found.frame])
        cpus = _put(state.cpus, number, cpu._replace(step=2))
        yield "copies", state._replace(contents=copied, cpus=cpus)
    elif cpu.step == 2:
        yield _set(state, number, cpu, vpn)
    elif (entry := state.tlbs[number][vpn]) or pte.write:
        frame = entry - 1 if entry else pte.frame
        stale = entry and (frame != pte.frame or not pte.write)
        yield (
            "writes, stale" if stale else "writes",
            state._replace(
                contents=_put(state.contents, frame, state.contents[frame] + 1),
                tlbs=_put(state.tlbs, number, _put(state.tlbs[number], vpn, frame + 1)),
                written=_put(state.written, vpn, state.written[vpn] + 1),
                cpus=_put(state.cpus, number, Cpu(cpu.op + 1)),
            ),
        )
    elif state.lock != WRITER and not (pte.uffd_wp and setup.waits):
        yield from _fault(setup, state, number, cpu, vpn)


def _fault(setup: Setup, state: State, number: int, cpu: Cpu, vpn: int) -> Steps:
    """do_wp_page(): flush if it must, then reuse the page or begin to copy it.

    mmap_lock is taken in the same step: to take it sooner would only keep others out.
    """
    cure = setup.cure
    pending_flush = owed(setup, state, vpn)
    if pending_flush and cure.then == "wait":
        return
    how = ""
    found = state.ptes[vpn]._replace(uffd_wp=False)
    if pending_flush and cure.then == "flush":
        how = "flushes, "
        found = found._replace(stamp=0)
        state = state._replace(tlbs=_flushed_everywhere(state, vpn))
    state = state._replace(ptes=_put(state.ptes, vpn, found))
    # A fault that copies the page has a reference to it.
    referenced = any(c.found and c.found.frame == found.frame for c in state.cpus)
    if not referenced and not (pending_flush and cure.then == "copy"):
        reused = found._replace(write=True, soft_dirty=True, stamp=0)
        yield how + "reuses", state._replace(ptes=_put(state.ptes, vpn, reused))
    # The page is copied if somebody else has a reference to it, if only for a moment.
    if cure.copies or referenced:
        copying = cpu._replace(step=1, found=found, new=_free_frame(state))
        yield (
            how + "will copy",
            state._replace(cpus=_put(state.cpus, number, copying), lock=state.lock + 1),
        )


def _set(state: State, number: int, cpu: Cpu, vpn: int) -> tuple[str, State]:
    """wp_page_copy(): map the copy, unless the PTE has changed since."""
    what, lock = "starts again", state.lock - 1
    # pte_same() does not see the word.
    if cpu.found is not None and state.ptes[vpn][:4] == cpu.found[:4]:
        what = "maps the copy"
        # ptep_clear_flush()
        state = state._replace(
            ptes=_put(state.ptes, vpn, Pte(cpu.new)),
            tlbs=_flushed_everywhere(state, vpn),
        )
    return what, state._replace(cpus=_put(state.cpus, number, Cpu(cpu.op)), lock=lock)


def _free_frame(state: State) -> int:
    used = {pte.frame for pte in state.ptes}
    used.update(entry - 1 for entries in state.tlbs for entry in entries)
    for cpu in state.cpus:
        if cpu.found is not None:
            used.update((cpu.found.frame, cpu.new))
    return next(f for f in range(len(state.contents)) if f not in used)


def _protect(setup: Setup, state: State, number: int, cpu: Cpu, op: Op) -> Steps:
    """Change PTE by PTE, then flush CPU by CPU."""
    pages, exclusive = len(op.vpns), setup.cure.exclusive
    at, cpus = cpu.step - 1, len(state.cpus)
    on = _put(state.cpus, number, cpu._replace(step=cpu.step + 1))
    if at < 0:
        if state.lock == WRITER or (exclusive and state.lock):
            return
        newest = state.newest + 1
        on = _put(state.cpus, number, cpu._replace(step=1, generation=newest))
        yield (
            "begins",
            state._replace(
                cpus=on,
                newest=newest,
                active=(*state.active, newest),
                lock=WRITER if exclusive else state.lock + 1,
            ),
        )
    elif at < pages:
        yield f"{op.kind}s {op.vpns[at]}", _changed(setup, state, cpu, op, on)
    elif at < pages + cpus:
        tlbs = _flushed(state.tlbs, at - pages, op.vpns)
        yield f"flushes CPU {at - pages}", state._replace(tlbs=tlbs, cpus=on)
    else:
        yield (
            "ends",
            state._replace(
                cpus=_put(state.cpus, number, Cpu(cpu.op + 1)),
                active=tuple(g for g in state.active if g != cpu.generation),
                lock=0 if exclusive else state.lock - 1,
            ),
        )


def _changed(
    setup: Setup, state: State, cpu: Cpu, op: Op, cpus: tuple[Cpu, ...]
) -> State:
    """change_pte_range() for one PTE: a generation is owed if it was writable."""
    vpn = op.vpns[cpu.step - 1]
    pte, tables, asks = state.ptes[vpn], state.tables, setup.cure.asks
    changed = pte._replace(write=False, **_CHANGES[op.kind])
    if pte.write and asks == "table":
        tables = _put(
            tables, setup.table_of[vpn], stamp(cpu.generation, setup.cure.bits)
        )
    elif pte.write and asks.startswith("pte"):
        changed = changed._replace(stamp=stamp(cpu.generation, setup.cure.bits))
    return state._replace(ptes=_put(state.ptes, vpn, changed), tables=tables, cpus=cpus)
