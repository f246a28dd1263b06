"""The chart of a real kernel with words beside its PTE tables."""

from collections.abc import Mapping

from extmeta.cost.kernel.prototype import STOCK, Prototype
from extmeta.reports.document.dots import dots_chart
from extmeta.reports.document.pictures import Chart, Value

# A row's label has 24 letters at most.
SHORTER = {
    " copied in the loop": "",
    "side page copied at once": "page at once",
}


def prototype_chart(
    p: Prototype, name: str, title: str, operations: Mapping[str, str]
) -> Chart:
    """Return what words add to a kernel's operations, in percent of its instructions.

    ``operations`` has the series' name of each of the kernel's operations.
    """
    forms = {_shorter(form): form for form in p.forms if form != STOCK}
    extra = {
        (short, label): 100 * p.extra(operation, form)
        for short, form in forms.items()
        for operation, label in operations.items()
    }
    return dots_chart(
        name,
        f"{title}, Linux {p.kernel.split(',')[0]}",
        "instructions added to the same kernel's",
        "percent",
        list(forms),
        list(operations.values()),
        {at: Value(added, added, added) for at, added in extra.items()},
        lambda row, label: f"{extra[row, label]:+.1f}%",
        encodings=False,
    )


def _shorter(form: str) -> str:
    for text, other in SHORTER.items():
        form = form.replace(text, other)
    return form
