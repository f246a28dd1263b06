"""Times this kernel's operations.

Two sizes are measured by turns, in alternating order, each in its own process; the
difference in time over the difference in PTEs is the cost of a PTE. The first round of
each process warms up and is not counted.
"""

import platform
import shlex
from collections.abc import Callable, Sequence

from extmeta.cost.kernel import timed
from extmeta.cost.kernel.costs import Calibration, Cost, cost, refusal
from extmeta.cost.origin import cpu_model, today

# 16 and 80 MiB of 4 KiB pages, both in whole PTE tables. A larger difference has less
# noise, but if it is much larger, zeroing memory dominates.
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
