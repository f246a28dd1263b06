"""Long campaigns: random programs on the kernel and on every encoding.

    python tests/kernel/oracle.py --operations 100000
    python tests/kernel/oracle.py --operations 100000 --guest
    python tests/kernel/oracle.py --operations 100000 --kernel linked
    python tests/kernel/oracle.py --program FILE

A campaign goes on where it was stopped: its state file has the seed and what is
done. Each mismatch is run again, made smaller and saved as a program; exit 1.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import native
import words
from answers import Kernel, run_guest, run_native, run_patched
from comparison import Mismatch, Refusal, compare
from programs import (
    FORK_MODES,
    HUGE,
    MENUS,
    MISSING_HUGE,
    Menu,
    Program,
    random_programs,
    smaller,
    without_dontunmap,
)
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

import extmeta as em
from extmeta.captures.whole_file import replace
from extmeta.commands.arguments import form_of, refusing

Run = Callable[[Sequence[Program]], tuple[Kernel, list[Any]]]
Model = Callable[[Kernel], Any]

# Programs for one start of the driver. A boot takes as long as a thousand.
BATCH = {"native": 1000, "guest": 3000} | dict.fromkeys(FORK_MODES, 1000)
# Mismatches of one kind that are made smaller; the others are counted.
SHRUNK_OF_A_KIND = 2
# A round in the guest is a boot.
SHRINK_ROUNDS = {"native": 40, "guest": 10} | dict.fromkeys(FORK_MODES, 10)


@dataclass
class State:
    """What a campaign has done so far."""

    where: str
    seed: int
    encodings: list[str]
    batches: int = 0
    programs: int = 0
    operations: int = 0
    kernel: str = ""
    mismatches: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    unsteady: int = 0

    @classmethod
    def load(cls, path: Path) -> "State | None":
        """Return the state in a file, or None if there is none."""
        if not path.exists():
            return None
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        """Write the state: wholly or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, json.dumps(asdict(self), indent=1).encode())


def address_space(encoding: str) -> Model:
    """Return what makes an AddressSpace with the bits and words that a kernel has."""

    def make(kernel: Kernel) -> Any:
        bits = {"uffd_wp": 1, "soft_dirty": 1} if kernel.soft_dirty else {"uffd_wp": 1}
        if kernel.words != "-":
            bits["word"] = words.width_of(encoding)
        space = em.AddressSpace(
            em.Fields(**bits),
            encoding,
            arch="x86_64",
            release=kernel.release,
            thp_swap=kernel.thp_swap,
        )
        if kernel.words != "-":
            words.follow_the_prototype(space)
        return space

    return make


def refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions by which AddressSpace says it can't express a thing."""
    found = getattr(em, "Refused", None)
    return (found,) if found else ()


def check(
    programs: Sequence[Program], run: Run, model: Model
) -> list[Mismatch | Refusal | None]:
    """Run programs on the kernel and a model; return each one's first mismatch."""
    kernel, answers = run(programs)
    return [
        compare(program, given, model(kernel), kernel, refusals())
        for program, given in zip(programs, answers, strict=True)
    ]


def mismatches(
    programs: Sequence[Program],
    kernel: Kernel,
    answers: Sequence[Any],
    encoding: str,
) -> Iterator[tuple[Program, Mismatch]]:
    """Yield the programs of which an encoding's AddressSpace says something else."""
    model = address_space(encoding)
    for program, given in zip(programs, answers, strict=True):
        found = compare(program, given, model(kernel), kernel, refusals())
        if isinstance(found, Mismatch):
            yield program, found


def shrink(
    program: Program, mismatch: Mismatch, run: Run, model: Model, rounds: int = 40
) -> tuple[Program, Mismatch]:
    """Return the smallest program found that shows a mismatch of this kind.

    All candidates of a round run together: in the guest a run is a boot.
    """
    for _ in range(rounds):
        cut = program.of(program.operations[: mismatch.step + 1])
        candidates = smaller(cut)
        for candidate, found in zip(
            candidates, check(candidates, run, model), strict=True
        ):
            if isinstance(found, Mismatch) and found.signature == mismatch.signature:
                program, mismatch = candidate, found
                break
        else:
            return cut, mismatch
    return program.of(program.operations[: mismatch.step + 1]), mismatch


def report(program: Program, mismatch: Mismatch, encoding: str, kernel: str) -> str:
    """Return a mismatch as a program to run, which says what it shows."""
    return (
        f"# {mismatch}\n"
        f"# encoding {encoding}, Linux {kernel}\n"
        "# What the kernel does: compile tests/kernel/{driver,words,timing,guest}.c\n"
        "# into one static program and give it this file on stdin.\n"
        "# Both: python tests/kernel/oracle.py --program THIS_FILE\n"
        f"{program.text('mismatch')}"
    )


class Campaign:
    """Programs by the batch until enough operations are done."""

    def __init__(
        self,
        state: State,
        directory: Path,
        run: Run,
        models: dict[str, Model],
        console: Console,
        batch: int,
        menus: tuple[Menu, ...] = MENUS,
    ) -> None:
        self.state = state
        self.directory = directory
        self.run = run
        self.models = models
        self.console = console
        self.batch = batch
        self.menus = menus
        self.shrunk: dict[tuple[str, str], int] = {}

    def next_batch(self) -> None:
        """Run one batch and save the state: what is interrupted is not counted."""
        seed = self.state.seed * 1_000_003 + self.state.batches
        made = random_programs(seed, self.menus)
        if self.state.where in FORK_MODES:
            made = filter(without_dontunmap, made)
        programs = list(itertools.islice(made, self.batch))
        kernel, answers = self.run(programs)
        self.state.kernel = kernel.release
        wrong = self.differing(programs, kernel, answers, count=True)
        if wrong:
            # Once more: the kernel may have done something else by chance.
            doubtful = list(dict.fromkeys(program for _, program, _ in wrong))
            kernel, answers = self.run(doubtful)
            again = self.differing(doubtful, kernel, answers)
            for encoding, program, found in again:
                self.mismatch(program, found, encoding)
            steady = {program for _, program, _ in again}
            for encoding, program, found in wrong:
                if program not in steady:
                    steady.add(program)
                    self.state.unsteady += 1
                    self.save("unsteady", program, found, encoding)
        self.state.batches += 1
        self.state.programs += len(programs)
        self.state.operations += sum(len(p.operations) for p in programs)
        self.state.save(self.directory / "state.json")

    def differing(
        self,
        programs: Sequence[Program],
        kernel: Kernel,
        answers: Sequence[Any],
        *,
        count: bool = False,
    ) -> list[tuple[str, Program, Mismatch]]:
        """Return which programs differ by encoding; count those that are refused."""
        wrong = []
        for encoding, model in self.models.items():
            for program, given in zip(programs, answers, strict=True):
                found = compare(program, given, model(kernel), kernel, refusals())
                if isinstance(found, Mismatch):
                    wrong.append((encoding, program, found))
                elif found and count:
                    self.count(self.state.refusals, encoding)
        return wrong

    def mismatch(self, program: Program, found: Mismatch, encoding: str) -> None:
        """Count a mismatch; the first ones of a kind are made small and saved."""
        self.count(self.state.mismatches, encoding)
        signature = found.signature  # what one encoding shows, the next will too
        self.shrunk[signature] = self.shrunk.get(signature, 0) + 1
        if self.shrunk[signature] > SHRUNK_OF_A_KIND:
            return
        small, found = shrink(
            program,
            found,
            self.run,
            self.models[encoding],
            SHRINK_ROUNDS[self.state.where],
        )
        self.save("mismatch", small, found, encoding)

    @staticmethod
    def count(counts: dict[str, int], encoding: str) -> None:
        """Count one more."""
        counts[encoding] = counts.get(encoding, 0) + 1

    def save(self, name: str, program: Program, found: Mismatch, encoding: str) -> None:
        """Save a program and say where."""
        text = report(program, found, encoding, self.state.kernel)
        number = len(list(self.directory.glob(f"{name}-*.txt"))) + 1
        path = self.directory / f"{name}-{number}.txt"
        self.directory.mkdir(parents=True, exist_ok=True)
        replace(path, text.encode())
        self.console.print(
            f"{path}\n{text}", markup=False, highlight=False, soft_wrap=True
        )

    def go_on(self, operations: int) -> None:
        """Run until so many operations are done, with a bar."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("operations, {task.fields[found]} mismatches"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task(
                self.state.where,
                total=operations,
                completed=self.state.operations,
                found=sum(self.state.mismatches.values()),
            )
            while self.state.operations < operations:
                self.next_batch()
                bar.update(
                    task,
                    completed=self.state.operations,
                    found=sum(self.state.mismatches.values()),
                )


def summary(state: State) -> str:
    """Return what was done, one line for each encoding."""
    head = (
        f"{state.operations:,} operations in {state.programs:,} programs on Linux "
        f"{state.kernel} ({state.where}), seed {state.seed}, "
        f"{state.unsteady} unsteady"
    )
    lines = [
        f"{encoding:<12}{state.mismatches.get(encoding, 0):>8,} mismatches"
        f"{state.refusals.get(encoding, 0):>8,} refused"
        for encoding in state.encodings
    ]
    return "\n".join([head, *lines])


def run_program(path: Path, run: Run, encodings: Sequence[str]) -> int:
    """Run one saved program on the kernel and each encoding, and tell."""
    program = Program.parse(path.read_text())
    kernel, (given,) = run([program])
    print(f"Linux {kernel.release}")
    for operation, answer in zip(program.operations, given, strict=True):
        print(f"  {operation}: {answer.result} {answer.error or ''}")
    status = 0
    for encoding in encodings:
        found = compare(
            program, given, address_space(encoding)(kernel), kernel, refusals()
        )
        print(f"{encoding:<12}{found or 'agrees'}")
        status |= isinstance(found, Mismatch)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run a campaign; 0 if nothing differs, 1 if something does, 2 if it can't."""
    parser = argparse.ArgumentParser(
        description="Random programs of memory operations on the kernel and on every "
        "encoding. Goes on where it was stopped."
    )
    parser.add_argument("--operations", type=int, default=20_000, metavar="N")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--guest", action="store_true", help="in the qemu guest")
    where.add_argument(
        "--kernel",
        choices=list(FORK_MODES),
        help="in a guest whose kernel has words beside PTEs in this form",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--huge", action="store_true", help="huge pages only")
    parser.add_argument(
        "--encodings",
        nargs="+",
        type=refusing(form_of),
        default=list(em.encodings()),
        metavar="NAME",
    )
    parser.add_argument("--program", type=Path, help="run this one, and tell")
    parser.add_argument(
        "--directory",
        type=Path,
        help="for the state and what is found (build/oracle/WHERE-SEED)",
    )
    args = parser.parse_args(argv)
    console = Console(stderr=True)
    where = args.kernel or ("guest" if args.guest else "native")
    run: Run = run_guest if args.guest else run_native
    menus: tuple[Menu, ...] = (HUGE, MISSING_HUGE) if args.huge else MENUS
    if args.kernel:
        run = partial(run_patched, args.kernel)
        menus = tuple(menu.with_words(FORK_MODES[args.kernel]) for menu in menus)
    if not hasattr(em, "AddressSpace"):
        console.print("oracle: this extmeta has no AddressSpace to compare with")
        return 2
    name = f"{where}{'-huge' * args.huge}-{args.seed}"
    directory = args.directory or Path(__file__).parents[2] / "build" / "oracle" / name
    with native.swap() if where == "native" else nullcontext() as no_swap:
        if no_swap:
            console.print(f"oracle: no swap: {no_swap}; PAGEOUT is left out")
            menus = tuple(menu.without("PAGEOUT") for menu in menus)
        try:
            if args.program:
                return run_program(args.program, run, args.encodings)
            state = State.load(directory / "state.json") or State(
                where, args.seed, args.encodings
            )
            if state.encodings != args.encodings:
                console.print(
                    f"oracle: {directory} is of {' '.join(state.encodings)}: "
                    "give another --seed or --directory",
                    soft_wrap=True,
                )
                return 2
            models = {name: address_space(name) for name in state.encodings}
            campaign = Campaign(
                state, directory, run, models, console, BATCH[where], menus
            )
            campaign.go_on(args.operations)
        except native.Missing as reason:
            console.print(f"oracle: {reason}")
            return 2
        except native.DriverError as failed:
            console.print(f"oracle: the driver failed: {failed}", markup=False)
            return 2
        except KeyboardInterrupt:
            console.print("oracle: stopped; the same command goes on from here")
            return 130
    print(summary(state))
    return 1 if state.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
