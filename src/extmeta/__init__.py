"""Metadata words beside page-table entries: build tables, operate, measure.

>>> import extmeta as em
>>> fields = em.Fields(uffd_wp=1, soft_dirty=1, age=8)
>>> t = em.PageTable(encoding="linked", fields=fields)
>>> t.map(range(0x1000, 0x1400))
>>> t.store(range(0x1000, 0x1010), age=7)
>>> t.scan(slice(0, 1 << 36), fields.mask("age"), fields.pack(age=7)).size
16
>>> t.memory().side
1024
"""

from extmeta.captures.capture import Capture, CaptureError, load_capture, shipped
from extmeta.captures.process import capture
from extmeta.captures.read import read, read_writes
from extmeta.captures.trace import Trace, load_trace
from extmeta.encodings import classes, encodings, register
from extmeta.encodings.classes import *
from extmeta.encodings.plan import Plan, PlanConflict, plan
from extmeta.encodings.python import PythonEncoding
from extmeta.fields import Fields
from extmeta.interactive.compare import Interrupted, compare
from extmeta.linux import AddressSpace, Refused, UffdEvent, UserFault
from extmeta.memory import Memory
from extmeta.memory.allowance import no_allocation
from extmeta.pagetable import PageTable

__version__ = "0.1.0"

__all__ = [  # noqa: PLE0604
    *(name for name in vars(classes) if name[0].isupper()),
    "AddressSpace",
    "Capture",
    "CaptureError",
    "Fields",
    "Interrupted",
    "Memory",
    "PageTable",
    "Plan",
    "PlanConflict",
    "PythonEncoding",
    "Refused",
    "Trace",
    "UffdEvent",
    "UserFault",
    "__version__",
    "capture",
    "compare",
    "encodings",
    "load_capture",
    "load_trace",
    "no_allocation",
    "plan",
    "read",
    "read_writes",
    "register",
    "shipped",
]
