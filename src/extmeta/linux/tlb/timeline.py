"""A schedule as text: a line for each step, a column for each CPU."""

from extmeta.linux.tlb.machine import Setup, lost
from extmeta.linux.tlb.orders import Schedule

WIDTH = 24


def timeline(setup: Setup, schedule: Schedule) -> str:
    """Return a schedule for people, with what the pages hold after each step."""
    start = setup.start()
    heads = [f"CPU {number}" for number in range(len(setup.programs))]
    lines = ["".join(f"{head:<{WIDTH}}" for head in heads) + "frame: writes"]
    asked = [
        "; ".join(f"{op.kind} {','.join(map(str, op.vpns))}" for op in program)
        for program in setup.programs
    ]
    lines.append("".join(f"({text})".ljust(WIDTH) for text in asked).rstrip())
    before = start
    for cpu, what, state in schedule:
        column = " " * WIDTH * cpu + what
        held = {pte.frame for pte in state.ptes}
        held.update(c.new for c in state.cpus if c.step == 2)
        held.update(f for f, n in enumerate(state.contents) if n)
        shown = " ".join(
            f"{frame}{'*' if any(p.frame == frame for p in state.ptes) else ''}:"
            f"{state.contents[frame]}"
            for frame in sorted(held)
        )
        lines.append(f"{column:<{WIDTH * len(setup.programs)}}{shown}")
        before = state
    missing = sum(lost(before))
    lines.append(f"{missing} of {sum(before.written)} writes lost; * is mapped")
    return "\n".join(lines)
