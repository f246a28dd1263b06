"""Count the words of a page table in Cython.

pip install extmeta cython setuptools
python setup.py build_ext --inplace
python main.py
"""

import heatmap
import numpy as np

import extmeta as em

table = em.PageTable("linked", em.Fields(age=4))
table.map(range(100_000))
table.store(range(100_000), age=np.arange(100_000) % 10)

counts = heatmap.histogram(table, first=0, pages=100_000, bits=4)
for age, pages in enumerate(counts[:10]):
    print(f"{pages:,} pages have age {age}.")
