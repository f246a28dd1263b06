"""Every order of the steps of some programs, or random ones."""

import random
from collections import deque
from dataclasses import dataclass

from extmeta.linux.tlb.machine import Setup, State, lost

# How likely a CPU takes the next step too. Of 20,000 random schedules of one protect and
# two writes, 8 lose a write with 0, 32 with this, 2 with 0.9.
GOES_ON = 0.5

# What happened: the CPU, what it did, the state after.
Schedule = tuple[tuple[int, str, State], ...]


@dataclass(frozen=True)
class Found:
    """What all orders of the steps come to.

    Attributes
    ----------
    states : int
        States that can be reached.
    ends : int
        Those in which no CPU can go on.
    stuck : int
        Ends in which a program has not ended.
    losses : int
        Ends in which a write is lost.
    shortest : tuple of (int, str, State)
        The fewest steps to one of them, or nothing.
    """

    states: int
    ends: int
    stuck: int
    losses: int
    shortest: Schedule


def explore(setup: Setup) -> Found:
    """Go through every state that some programs can reach, nearest first."""
    start = setup.start()
    came: dict[State, tuple[State, int, str] | None] = {start: None}
    queue = deque([start])
    ends = stuck = losses = 0
    first: State | None = None
    while queue:
        state = queue.popleft()
        last = True
        for cpu, what, after in setup.steps(state):
            last = False
            if after not in came:
                came[after] = state, cpu, what
                queue.append(after)
        if last:
            ends += 1
            stuck += not setup.done(state)
            if any(lost(state)):
                losses += 1
                first = first or state
    schedule: list[tuple[int, str, State]] = []
    while first is not None and (step := came[first]) is not None:
        before, cpu, what = step
        schedule.append((cpu, what, first))
        first = before
    return Found(len(came), ends, stuck, losses, tuple(reversed(schedule)))


def wander(setup: Setup, seed: int, schedules: int) -> int:
    """Take random steps from the start to an end, again and again.

    A CPU mostly goes on until it can't, because uniform draws seldom let one CPU do
    much while another does nothing.

    Returns
    -------
    int
        The schedules that lost a write.
    """
    draw, losses = random.Random(seed).random, 0
    for _each in range(schedules):
        state, last = setup.start(), -1
        while steps := list(setup.steps(state)):
            same = [step for step in steps if step[0] == last]
            if same and draw() < GOES_ON:
                steps = same
            last, _what, state = steps[int(draw() * len(steps))]
        losses += any(lost(state))
    return losses
