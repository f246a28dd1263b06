"""What a prototype in a real kernel costs: words beside PTE tables in Linux 6.12.

The package ships the counts. They are the kernel's own, of whole operations, so reports
print them before any number of the model.
"""

import json
from dataclasses import dataclass
from importlib import resources

FORMAT = "extmeta prototype 1"
STOCK = "stock"


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
        """Return what a form adds to the stock kernel's operation, as a share."""
        return self.costs[operation][form] / self.costs[operation][STOCK] - 1


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
