"""The encodings of this package, in the order of the reports: the baseline first.

A new one is its own module and a line here. Its name is its module's. Its class is
public in `extmeta`.
"""
# The aliases let type checkers see the names in `extmeta` too.
# ruff: noqa: I001, PLC0414

from extmeta.encodings.inpte import InPte as InPte
from extmeta.encodings.compact import Compact as Compact
from extmeta.encodings.adjacent import Adjacent as Adjacent
from extmeta.encodings.linked import Linked as Linked
from extmeta.encodings.adaptive import Adaptive as Adaptive
from extmeta.encodings.wide import Wide as Wide
from extmeta.encodings.page_ext import PageExt as PageExt
from extmeta.encodings.xarray import XArray as XArray
from extmeta.encodings.hash import Hash as Hash
