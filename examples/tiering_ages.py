"""Find cold pages: how many intervals ago was each page of a process accessed?

Every interval, a page that was accessed gets age 0, and all others grow older by 1.
Pages of the highest age are cold, and may move to slower memory. A word of 0 is no word,
so pages that are in use take no memory beside the page table.

pip install extmeta
python tiering_ages.py
"""

import numpy as np

import extmeta as em

OLDEST = 15
INTERVALS = 20

fields = em.Fields(uffd_wp=1, age=4)
table = em.load_capture("redis").build("adaptive", fields)
vpns = table.vpns()
without_words = table.memory().total
rng = np.random.default_rng(1)

# A tenth of the pages is hot. In each interval half of these are accessed, and one in a
# thousand of the other pages.
hot = rng.random(len(vpns)) < 0.1
chance = np.where(hot, 0.5, 0.001)

for _interval in range(INTERVALS):
    accessed = rng.random(len(vpns)) < chance
    older = np.minimum(table.load(vpns, "age") + np.uint64(1), np.uint64(OLDEST))
    # uffd_wp belongs to another user, and store() leaves it as it is.
    table.store(vpns, age=np.where(accessed, np.uint64(0), older))

everywhere = slice(0, table.arch.nr_vpns)
cold = table.scan(everywhere, fields.mask("age"), fields.pack(age=OLDEST))
wrong = np.count_nonzero(np.isin(vpns[hot], cold))
extra = table.memory().total - without_words
print(f"After {INTERVALS} intervals {len(cold):,} of {len(vpns):,} pages are cold.")
print(f"{wrong} of the {np.count_nonzero(hot):,} hot pages are among them.")
print(f"The ages take {extra:,} bytes beside {without_words:,} bytes of page tables.")
