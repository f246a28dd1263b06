"""What docs/tlb.md shows: the lost write, the cures, and the flushes that they need.

python benchmarks/tlb.py schedule     the fewest steps to a lost write
python benchmarks/tlb.py cures        every order of the steps, under each cure
python benchmarks/tlb.py flushes      by strategy, on made-up and captured memory
python benchmarks/tlb.py ram          what each encoding holds for generations
"""

import argparse

import extmeta as em
from extmeta.cost.forms import default_forms
from extmeta.linux.tlb import CURES, Setup, explore, pte_generation, timeline
from extmeta.linux.tlb.programs import PROGRAMS, SHORT
from extmeta.reports.figures import size
from extmeta.workloads import DeferredFlush, Process, of_capture, play, synthetic
from extmeta.workloads.recording import Replay

PAGES = 16384
CAPTURES = ("redis", "postgres")


def schedule() -> None:
    """Print the shortest schedule that loses a write where nothing is done."""
    of = Setup(PROGRAMS["protect"])
    print(timeline(of, explore(of).shortest))


def cures() -> None:
    """Print how many states and losses each cure has over the short programs."""
    print("| cure | states | ends | ends with a lost write |\n|---|---|---|---|")
    for cure in [*CURES.values(), pte_generation(1), pte_generation(2)]:
        # The third generation is the first that wraps around in 2 bits.
        found = [
            explore(Setup(programs, cure, table_of=(0, 1), first=2))
            for programs in SHORT.values()
        ]
        counts = (sum(getattr(f, name) for f in found) for name in ("states", "ends"))
        states, ends = (f"{count:,}" for count in counts)
        print(f"| {cure.name} | {states} | {ends} | {sum(f.losses for f in found)} |")


def processes() -> list[Process]:
    """Return made-up memory and some captures."""
    captured = [of_capture(em.load_capture(em.shipped()[n]), n) for n in CAPTURES]
    return [synthetic(PAGES), *captured]


def flushes() -> None:
    """Print the flushes that write faults add to those of the batches."""
    names, rows = [], {}
    for process in processes():
        for placement in ("random", "clustered"):
            load = DeferredFlush(placement=placement)
            names.append(f"{process.name}, {placement}")
            for name, rounds in play(load, process, "linked").counts().items():
                rows.setdefault(name, []).append(f"{sum(rounds):,}")
    print("|", *(f"| {name}" for name in names), "|")
    print("|---" * (len(names) + 1) + "|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def ram() -> None:
    """Print the most that each encoding held beyond `inpte`, for a quarter of the pages."""
    process, widths = synthetic(PAGES // 4), (4, 8, 16)
    bare = _held(DeferredFlush(rounds=2, bits=1), process, "inpte")
    print("|", *(f"| gen of {bits} bits" for bits in widths), "|")
    print("|---" * (len(widths) + 1) + "|")
    for form in default_forms():
        cells = []
        for bits in widths:
            load = DeferredFlush(rounds=2, bits=bits)
            try:
                held = _held(load, process, form)
            except ValueError:
                cells.append("refused")
                continue
            cells.append(size(int((held - bare).max())))
        print(f"| {form} | {' | '.join(cells)} |")


def _held(load, process, form):  # type: ignore[no-untyped-def]
    found = play(load, process, form)
    return Replay(found.recording, form, found.fields, process.arch).verify()


COMMANDS = {each.__name__: each for each in (schedule, cures, flushes, ram)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=COMMANDS)
    COMMANDS[parser.parse_args().what]()
