"""Look at page-table entries with numpy, while the page table is in use.

pip install extmeta
python inspect_tables.py
"""

import numpy as np

import extmeta as em

table = em.load_capture("redis").build("linked", em.Fields(age=8))
arch = table.arch

# Each PTE table is a read-only uint64 array. It is the table itself, not a copy.
first, entries = max(table.tables.items(), key=lambda item: np.count_nonzero(item[1]))
present = np.flatnonzero(entries >> np.uint64(arch.present) & np.uint64(1))
print(f"The fullest PTE table maps {len(present)} pages from vpn {first:#x} on.")

writable = np.count_nonzero(entries[present] >> np.uint64(arch.write) & np.uint64(1))
print(f"{writable} of them may be written without a fault.")

# A word beside the table shows in the entry as a flag bit. The array sees the change.
flag = np.uint64(1 << arch.flag)
before = np.count_nonzero(entries & flag)
table.store(first + present[:10].astype(np.uint64), age=3)
after = np.count_nonzero(entries & flag)
print(f"PTEs with a flag, before and after 10 words were stored: {before}, {after}.")

counts = np.array([np.count_nonzero(view) for view in table.tables.values()])
for low, high in ((1, 64), (65, 256), (257, 512)):
    number = np.count_nonzero((counts >= low) & (counts <= high))
    print(f"{number:3} PTE tables have {low} to {high} entries.")
