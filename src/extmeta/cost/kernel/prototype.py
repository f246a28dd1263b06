"""What a prototype in a real kernel costs: words beside PTE tables in Linux 6.12.

The package ships the counts. They are the kernel's own, of whole operations, so reports
print them before any number of the model.
"""

import json
from dataclasses import dataclass
from importlib import resources

FORMAT = "extmeta prototype 1"
STOCK = "stock"
NO_WORD = "no word"


def beside(form: str) -> str:
    """Return what a form is set beside: the same kernel where no PTE has a word.

    A compiler makes other code of a function with hooks, so another kernel differs by more
    than words. Where there is no word, that is the stock kernel.
    """
    if form.endswith(NO_WORD):
        return STOCK
    name = "in the loop" if form.endswith("in the loop") else form.partition(",")[0]
    return f"{name}, {NO_WORD}"


@dataclass(frozen=True)
class Prototype:
    """Instructions of a kernel's operations, with and without words.

    Attributes
    ----------
    kernel, machine, program, unit, leaves_out : str
        What was counted where, and what a count leaves out.
    forms : tuple of str
        `STOCK` first.
    costs : dict of str to dict of str to float
        Instructions a PTE by operation and form.
    """

    kernel: str
    machine: str
    program: str
    unit: str
    leaves_out: str
    forms: tuple[str, ...]
    costs: dict[str, dict[str, float]]

    def extra(self, operation: str, form: str) -> float:
        """Return what a form adds to an operation of `beside` it, as a share."""
        cost = self.costs[operation]
        return cost[form] / cost[beside(form)] - 1


def shipped() -> Prototype:
    """Return the counts that come with the package."""
    found = json.loads(
        (resources.files("extmeta") / "data" / "prototype.json").read_text()
    )
    if found.pop("format") != FORMAT:
        raise ValueError(f"data/prototype.json is not an {FORMAT}")
    # No report prints these.
    del found["misses"]
    return Prototype(**{**found, "forms": tuple(found["forms"])})
