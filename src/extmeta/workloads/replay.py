"""Plays a workload on the recorded writes of a real process.

The number of rounds and the pages written in each come from a write trace
(`extmeta.captures.trace`) instead of random numbers. At the start the process has the
pages that it writes in any round; pages it only reads were not recorded.
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
    """Play a workload on a trace: `play.play` on `of_trace`, with their errors."""
    return play(workload, of_trace(trace, trace.comm), encoding, progress)


def of_trace(trace: Trace, name: str) -> Process:
    """Return a traced process that starts with all the pages it ever writes.

    Raises CaptureError if nothing was written, or where no process has memory.
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
