"""Runs samples in several short-lived processes, one after the other.

Where memory comes to lie is chosen once for each process, and ratios depend on it: of
eight processes, medians of one ratio went from 0.165 to 0.210, and the interval of each
reached 1 %. So a ratio is measured in several processes. Each is a new run of this
interpreter: the kernel chooses its addresses, and the size of its environment, which
moves the stack, differs.

A process gets its work as a pickle on stdin and prints a line of JSON for each result.
"""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

# Processes for each ratio, by default and with --quick. In 400 simulated comparisons of
# processes that differ more than their rounds, intervals of 95 % held the truth in 95 %
# with 8 processes, in 90 % with 4.
PROCESSES = 8
QUICK_PROCESSES = 4

# The most that the environment grows by: the stack's start moves within a page.
PADDING_BYTES = 4096

# The variable that makes it grow. Only a process that `results` started has it.
PADDING = "EXTMETA_PADDING"


def padding(number: int) -> int:
    """Return how many bytes the environment of a process grows by.

    It differs for the first 256 processes, and by multiples of 16 as the stack's
    alignment does. Neighbours are far apart, so that a few processes cover a page.
    """
    return number * 16 * 37 % PADDING_BYTES


def results(command: Sequence[str], work: Any, number: int) -> Iterator[Any]:
    """Run a process and yield what it prints, line by line.

    The process is killed if the caller ends early.

    Parameters
    ----------
    command : sequence of str
        What follows the interpreter, as in ``("-m", "extmeta.cost.sweep")``.
    work : object
        Given to the process as a pickle on its stdin; see `work_given`.
    number : int
        Which of several processes it is, from 0 on.

    Yields
    ------
    object
        The values of the lines of JSON.

    Raises
    ------
    ChildProcessError
        If the process fails, or is killed; with the last line it wrote to stderr.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        PADDING: "x" * padding(number),
    }
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(tempfile.TemporaryFile())
        pickle.dump(work, given)
        given.seek(0)
        told = stack.enter_context(tempfile.TemporaryFile())
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-P", *command],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=told,
                env=environment,
                # Ctrl-C is for this process, which then ends the other.
                process_group=0,
            )
        )
        # After `process` in the stack: so it is killed before it is waited for.
        stack.callback(process.kill)
        yield from map(json.loads, process.stdout or ())
        if status := process.wait():
            told.seek(0)
            raise ChildProcessError(_why(number, status, told.read()))


def _why(number: int, status: int, told: bytes) -> str:
    """Return how a process ended, and the last line that it wrote to stderr."""
    how = f"ended with status {status}"
    if status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
    last = told.decode(errors="replace").splitlines()[-1:]
    return ": ".join((f"measuring process {number + 1} {how}", *last))


def started() -> bool:
    """Return whether `results` started this process."""
    return PADDING in os.environ


def work_given() -> Any:
    """Return the work of this process, which `results` started.

    What an encoding prints from now on goes to stderr, so only `tell` gives results.
    """
    sys.stdout = sys.stderr
    return pickle.load(sys.stdin.buffer)


def tell(result: Any) -> None:
    """Give a result, a value that JSON has, to the process that started this one."""
    print(json.dumps(result), file=sys.__stdout__, flush=True)
