"""This kernel's operations, timed.

Two sizes are measured by turns, in an order that changes, each in a process of its
own; their difference over the PTEs between is what one PTE costs. A first round of
each process warms up and is not counted.
"""

import platform
import shlex
from collections.abc import Callable, Sequence

from extmeta.cost.kernel import timed
from extmeta.cost.kernel.costs import Calibration, Cost, cost, refusal, today
from extmeta.cost.origin import cpu_model

# Whole tables, so that both sizes end alike: 16 and 80 MiB of 4 KiB pages. The larger
# the difference, the less of it is noise; much larger, and it is zeroing memory.
SMALL, LARGE = 512 * 8, 512 * 40
ROUNDS = 30
MIN_ROUNDS = 5

Shown = Callable[[int, int, str], object]


def measure(
    command: Sequence[str],
    *,
    rounds: int = ROUNDS,
    small: int = SMALL,
    large: int = LARGE,
    progress: Shown | None = None,
) -> Calibration:
    """Measure what the kernel lets this process measure.

    Parameters
    ----------
    command : sequence of str
        Stored with the result.
    rounds, small, large : int
    progress : callable, optional
        Called with the rounds done, all there are, and what is measured next.
    """
    costs: list[Cost] = []
    refused = {}
    operations = timed.operations()
    for number, operation in enumerate(operations):
        each = []
        try:
            for round_ in range(rounds):
                if progress:
                    done = number * rounds + round_
                    progress(done, len(operations) * rounds, operation)
                took = {}
                for pages in (small, large) if round_ % 2 else (large, small):
                    took[pages] = timed.rounds(operation, pages, 2)[1]
                each.append((took[large] - took[small]) / (large - small))
        except OSError as error:
            refused[operation] = refusal(error.errno or 0, error.strerror or "")
        else:
            costs.append(cost(operation, each))
    return Calibration(
        unit="ns",
        kernel=platform.release(),
        machine=platform.machine(),
        cpu=cpu_model(),
        date=today(),
        command=shlex.join(command),
        small=small,
        large=large,
        rounds=rounds,
        costs=tuple(costs),
        refused=refused,
    )
