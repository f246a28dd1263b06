"""Which fields of a word exclude or imply each other."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Group = tuple[str, ...]
Groups = Iterable[Iterable[str]]


class Constraint(NamedTuple):
    """One constraint, with the kind and names that the caller gave."""

    kind: str
    names: Group

    def __str__(self) -> str:
        """Return a sentence."""
        if self.kind == "implies":
            return f"{self.names[0]} implies {self.names[1]}"
        if self.kind == "per_vma":
            return f"a VMA has one of {listed(self.names)}"
        if len(self.names) == 2:
            return f"{listed(self.names)} exclude each other"
        return f"at most one of {listed(self.names)} is non-zero"


def listed(names: Sequence[str], last: str = "and") -> str:
    """Return names as in a sentence: "a, b and c"."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
