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
from extmeta.captures.trace import Trace, load_trace
from extmeta.encodings import encodings, register
from extmeta.encodings.adaptive import Adaptive
from extmeta.encodings.adjacent import Adjacent
from extmeta.encodings.compact import Compact
from extmeta.encodings.hash import Hash
from extmeta.encodings.inpte import InPte
from extmeta.encodings.linked import Linked
from extmeta.encodings.page_ext import PageExt
from extmeta.encodings.plan import Plan, PlanConflict, plan
from extmeta.encodings.python import PythonEncoding
from extmeta.encodings.wide import Wide
from extmeta.encodings.xarray import XArray
from extmeta.fields import Fields
from extmeta.linux import AddressSpace, Refused, UffdEvent, UserFault
from extmeta.memory import Memory
from extmeta.memory.allowance import no_allocation
from extmeta.pagetable import PageTable

__version__ = "0.1.0"

__all__ = [
    "Adaptive",
    "AddressSpace",
    "Adjacent",
    "Capture",
    "CaptureError",
    "Compact",
    "Fields",
    "Hash",
    "InPte",
    "Linked",
    "Memory",
    "PageExt",
    "PageTable",
    "Plan",
    "PlanConflict",
    "PythonEncoding",
    "Refused",
    "Trace",
    "UffdEvent",
    "UserFault",
    "Wide",
    "XArray",
    "__version__",
    "capture",
    "encodings",
    "load_capture",
    "load_trace",
    "no_allocation",
    "plan",
    "register",
    "shipped",
]
