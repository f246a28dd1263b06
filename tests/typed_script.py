"""What users write; tests/test_typing.py has mypy --strict read it. It runs, too."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import extmeta as em
from extmeta.rows import Ram

fields = em.Fields(uffd_wp=1, soft_dirty=1, age=8)
table = em.PageTable("adaptive", fields)
vpns = np.arange(0x1000, 0x1100, dtype=np.uint64)
table.map(vpns)
table.store(vpns, age=np.arange(256) % 200)
table.store(range(0x1000, 0x1002), [1, 2])
table.store(np.uint64(0x1003), fields.pack(age=7))
assert_type(table.load(vpns), NDArray[np.uint64])
assert_type(table.load([0x1000, 0x1001], "age"), NDArray[np.uint64])
assert_type(table.load(slice(0, 8)), NDArray[np.uint64])
assert_type(table.load(range(8)), NDArray[np.uint64])
assert_type(table.load(0x1000), int)
assert_type(table.load(np.uint64(5)), int)
assert_type(table.flagged(vpns), NDArray[np.bool_])
assert_type(table.flagged(5), bool)
assert_type(table.scan(slice(0, 1 << 36), fields.mask("age"), 0), NDArray[np.uint64])
ptes, words = table.snapshot(vpns)
assert_type(table.unchanged(vpns, ptes, words), NDArray[np.bool_])
assert_type(table.snapshot(5), tuple[int, int])
assert_type(table.memory().total, int)
assert_type(table.fork().copy(), em.PageTable)
leaf_vpns, _pfns, _deposited = table.leaves()
first: np.uint64 = leaf_vpns.sum() + table.tables[0x1000][0]
capture = em.load_capture(em.shipped()["redis"])
assert_type(capture.build("linked", fields), em.PageTable)
with em.no_allocation():
    table.update(vpns, clear=1)
assert_type(capture.vmas, NDArray[np.void])
result = em.compare(
    [capture, "redis"], {"age": 8}, encodings=["linked"], arch=["x86_64", "arm64"]
)
assert_type(result.verdict, list[str])
assert_type(result.to_json(), str)
names = [row.encoding for row in result.rows if isinstance(row, Ram)]
assert names
