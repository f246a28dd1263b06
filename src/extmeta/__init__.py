"""Metadata words beside page-table entries: build, operate, measure.

>>> import extmeta as em
>>> fields = em.Fields(uffd_wp=1, soft_dirty=1, age=8)
>>> t = em.PageTable(encoding="linked", fields=fields)
>>> t.map(range(0x1000, 0x1400))
>>> t.store(range(0x1000, 0x1010), age=7)
>>> t.scan(0, 1 << 36, fields.mask("age"), fields.pack(age=7)).size
16
>>> t.memory().side
1024
"""

from extmeta.capture import Capture, CaptureError, capture, load_capture, shipped
from extmeta.encodings import encodings, register
from extmeta.encodings.adaptive import Adaptive
from extmeta.encodings.adjacent import Adjacent
from extmeta.encodings.inpte import InPte
from extmeta.encodings.linked import Linked
from extmeta.fields import Fields
from extmeta.memory import Memory
from extmeta.pagetable import PageTable
from extmeta.space import AddressSpace, Refused, UserFault

__all__ = [
    "Adaptive",
    "AddressSpace",
    "Adjacent",
    "Capture",
    "CaptureError",
    "Fields",
    "InPte",
    "Linked",
    "Memory",
    "PageTable",
    "Refused",
    "UserFault",
    "capture",
    "encodings",
    "load_capture",
    "register",
    "shipped",
]
