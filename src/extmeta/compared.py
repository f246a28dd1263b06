"""What the fixture `paired` found: data without behaviour, as in `rows`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Compared:
    """A comparison of two callables; a ratio is the other side's over the baseline's.

    Attributes
    ----------
    group, name, baseline : str
    ratio, low, high : float
        Of CPU time: the median, and its interval of 95 %.
    floor : (float, float, float) or None
        The same three of the baseline against itself.
    baseline_ns : float
        CPU time of one run.
    pairs, repeat : int
        Number of pairs, and of runs in a sample.
    waited : float
        Share of the time in which other programs had the processor.
    ram, instructions : (int, int) or None
        Bytes, and instructions of a run: the baseline's, then the other side's.
    """

    group: str
    name: str
    baseline: str
    ratio: float
    low: float
    high: float
    floor: tuple[float, float, float] | None
    baseline_ns: float
    pairs: int
    repeat: int
    waited: float
    ram: tuple[int, int] | None = None
    instructions: tuple[int, int] | None = None

    @property
    def processes(self) -> int:
        """The pairs are of one process, the test's."""
        return 1

    @property
    def ram_ratio(self) -> float | None:
        """RAM over the baseline's, if it was asked for."""
        return _over(self.ram)

    @property
    def instruction_ratio(self) -> float | None:
        """Instructions over the baseline's, if they were counted."""
        return _over(self.instructions)


def _over(sides: tuple[int, int] | None) -> float | None:
    if sides is None:
        return None
    baseline, other = sides
    return other / baseline if baseline else float("inf") if other else 1.0
