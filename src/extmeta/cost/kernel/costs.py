"""What operations of a kernel cost for each PTE, and the file that stores it.

One JSON file has two parts, measured separately: ``host``, in ns, and ``guest``, in
instructions. It lies in $XDG_CACHE_HOME/extmeta, by default in ~/.cache/extmeta, since
it can be measured again. The package ships the guest's part only, which is repeatable.
"""

import dataclasses
import json
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

FORMAT = "extmeta calibration 1"
FILE = "calibration.json"

# The file's parts.
UNITS = {"host": "ns", "guest": "instructions"}

# Half the 95 % interval of a median: 1.96 standard deviations of a binomial count.
SIGMAS = 1.96

# No more is read: a larger file is no calibration.
MAX_BYTES = 1 << 20


class CalibrationError(Exception):
    """A file is no calibration; the message is one line."""


@dataclass(frozen=True)
class Cost:
    """What an operation costs a PTE.

    Attributes
    ----------
    operation : str
        As timing.c names it.
    median, low, high : float
        The median of the rounds, and its 95 % interval.
    """

    operation: str
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """What a kernel's operations cost, and where that is from.

    Attributes
    ----------
    unit : {"ns", "instructions"}
    kernel, machine, cpu : str
        Release; architecture; what the processor calls itself.
    date, command : str
    small, large, rounds : int
        Pages of the two sizes that are compared, and how often.
    costs : tuple of Cost
    refused : dict of str to str
        Operations that could not be measured, and why.
    """

    unit: str
    kernel: str
    machine: str
    cpu: str
    date: str
    command: str
    small: int
    large: int
    rounds: int
    costs: tuple[Cost, ...]
    refused: dict[str, str]

    def cost(self, operation: str) -> Cost | None:
        """Return what an operation costs, or None if that was not measured."""
        return next((c for c in self.costs if c.operation == operation), None)


def cost(operation: str, each: Sequence[float]) -> Cost:
    """Return the median of rounds, and its interval.

    The ends of the interval are order statistics: no distribution is assumed.
    """
    ranked = sorted(each)
    n = len(ranked)
    rank = max(0, math.floor((n - SIGMAS * math.sqrt(n)) / 2))
    return Cost(operation, statistics.median(ranked), ranked[rank], ranked[-1 - rank])


def of_ticks(output: str, small: int, large: int) -> list[Cost]:
    """Return what lines ``t OPERATION PAGES ROUND TICKS`` say, two sizes of each."""
    ticks: defaultdict[str, dict[int, list[int]]] = defaultdict(
        lambda: {small: [], large: []}
    )
    for line in output.splitlines():
        if line.startswith("t "):
            _, operation, pages, _, took = line.split()
            ticks[operation][int(pages)].append(int(took))
    return [
        cost(
            operation,
            [
                (b - a) / (large - small)
                for a, b in zip(sizes[small], sizes[large], strict=True)
            ],
        )
        for operation, sizes in ticks.items()
    ]


def refusal(number: int, step: str) -> str:
    """Return why an operation could not be measured."""
    return _WHY.get((step, number)) or f"{step}: {os.strerror(number)}"


_WHY = {
    ("userfaultfd", 1): "userfaultfd is not permitted: it needs root, or "
    "vm.unprivileged_userfaultfd=1, or Linux 5.11 up, and no seccomp filter that "
    "forbids it",
    ("userfaultfd", 38): "userfaultfd is not in this kernel",
    ("UFFDIO_API", 22): "this kernel's userfaultfd has no WP_ASYNC (Linux 6.7)",
    ("PAGEMAP_SCAN", 25): "this kernel has no PAGEMAP_SCAN (Linux 6.7)",
    ("soft-dirty", 95): "this kernel has no soft-dirty (CONFIG_MEM_SOFT_DIRTY)",
    ("killed", 4): "the process that measures was killed",
}


# -- the file ------------------------------------------------------------------


def cache() -> Path:
    """Return the cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is to be ignored: XDG base directory specification 0.8.
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base, "extmeta")


def to_json(parts: Mapping[str, Calibration]) -> str:
    """Return parts as JSON."""
    document = {name: dataclasses.asdict(part) for name, part in parts.items()}
    return json.dumps({"format": FORMAT, **document}, indent=1) + "\n"


def from_json(text: str) -> dict[str, Calibration]:
    """Return the parts that `to_json` wrote.

    Raises
    ------
    ValueError
        If the JSON is malformed; the message says how.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"not an {FORMAT}")
    return {name: part(name, found[name]) for name in UNITS if name in found}


def part(name: str, found: Any) -> Calibration:
    """Return a part out of JSON, or raise ValueError."""
    found = found if isinstance(found, dict) else {}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Calibration):
        value = found.get(field.name)
        if field.type in (int, str) and type(value) is not field.type:
            raise ValueError(f"{name}: {field.name} is {str(value)[:40]!r}")
        values[field.name] = value
    if values["unit"] != UNITS[name]:
        raise ValueError(f"{name}: unit is {values['unit'][:40]!r}")
    costs, refused = values["costs"], values["refused"]
    refused = refused if isinstance(refused, dict) else {"": None}
    there = isinstance(costs, list | tuple)
    if not there or not all(isinstance(why, str) for why in refused.values()):
        raise ValueError(f"{name}: costs are {str(costs)[:40]!r}")
    return Calibration(**{**values, "costs": tuple(_cost(name, c) for c in costs)})


def _cost(name: str, found: Any) -> Cost:
    match found:
        case {
            "operation": str(operation),
            "median": int() | float() as median,
            "low": int() | float() as low,
            "high": int() | float() as high,
        } if all(type(x) is not bool and math.isfinite(x) for x in (median, low, high)):
            return Cost(operation, float(median), float(low), float(high))
    raise ValueError(f"{name}: a cost is {str(found)[:60]!r}")


def load(path: Path) -> dict[str, Calibration]:
    """Return the parts of a file; {} if there is none.

    Raises
    ------
    CalibrationError
        If it can't be read, or is no calibration.
    """
    try:
        with path.open("rb") as file:
            return from_json(file.read(MAX_BYTES).decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CalibrationError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise CalibrationError(f"{path}: {error}") from None


def shipped() -> Calibration:
    """Return the guest's costs that come with the package."""
    data = resources.files("extmeta") / "data" / "guest.json"
    return from_json(data.read_text())["guest"]
