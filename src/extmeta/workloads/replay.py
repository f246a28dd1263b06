"""A workload on what a real process wrote: the rounds of a write trace.

What is drawn at random elsewhere, the pages written in each round and how many rounds
there are, is what was recorded (`extmeta.captures.trace`). There at the beginning is
what the process writes in any round: what it only reads was not recorded.
"""

import numpy as np

from extmeta.captures.capture import FOUR_LEVEL_VPNS, CaptureError
from extmeta.captures.trace import Trace
from extmeta.table.encoding import Encoding
from extmeta.workloads.play import Progress, Result, Workload, play
from extmeta.workloads.process import Process, mappable


def replay(
    trace: Trace,
    workload: Workload,
    encoding: str | Encoding = "linked",
    progress: Progress | None = None,
) -> Result:
    """Play a workload on a trace: `play.play` on `of_trace`.

    Raises
    ------
    CaptureError
        As `of_trace`.
    MismatchError, Refused, ValueError
        As `play.play`.
    """
    return play(workload, of_trace(trace, trace.comm), encoding, progress)


def of_trace(trace: Trace, name: str) -> Process:
    """Return a traced process; there at the beginning is what it ever writes.

    Raises
    ------
    CaptureError
        If nothing was written, or where no process has memory.
    """
    pages = np.unique(trace.vpns)
    if not len(pages):
        raise CaptureError(f"{name}: no page was written")
    vmas: list[list[int]] = trace.vmas.tolist()
    high = vmas[-1][1] > FOUR_LEVEL_VPNS // 2
    rounds = tuple(trace.round(number) for number in range(trace.nr_rounds))
    return mappable(
        Process(
            name,
            tuple((first, stop) for first, stop in vmas),
            pages,
            "x86_64_la57" if high else "x86_64",
            trace=rounds,
        )
    )
