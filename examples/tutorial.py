"""A process's page tables, a word for each page, and what the words cost.

pip install extmeta
python tutorial.py
"""

import numpy as np

import extmeta as em

# The page tables of a real process. This capture comes with the package;
# em.capture(pid) makes one of a process that runs.
capture = em.load_capture(em.shipped()["redis"])

# Each page gets 10 bits: two that trackers in Linux use, and an age.
fields = em.Fields(uffd_wp=1, soft_dirty=1, age=8)

# All vpns of an x86-64 process.
USER_SPACE = slice(0, 1 << 36)

for encoding in ("linked", "adaptive"):
    table = capture.build(encoding, fields)
    vpns = table.vpns()
    empty = table.memory().total
    # One page of a hundred was written lately, and has an age.
    written = np.random.default_rng(1).choice(vpns, len(vpns) // 100, replace=False)
    table.store(written, soft_dirty=1, age=3)
    found = table.scan(USER_SPACE, fields.mask("soft_dirty"))
    assert sorted(found) == sorted(written)
    extra = table.memory().total - empty
    print(
        f"{encoding}: {len(found)} of {len(vpns):,} pages were written; their words take "
        f"{extra:,} bytes beside {empty:,} bytes of page tables"
    )
