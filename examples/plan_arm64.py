"""Do my own fields fit the free bits of arm64's page-table entries?

pip install extmeta
python plan_arm64.py
"""

import extmeta as em

# A tracker of Linux, and what a tiering daemon wants to know about each page.
fields = em.Fields(uffd_wp=1, tier=2, pinned=1)


def told(plan: em.Plan) -> str:
    """Return a sentence about a plan."""
    verdict = "they fit" if plan.fits else f"{plan.missing} too few are free"
    return (
        f"{plan.combinations} words need {plan.bits} bits, a present PTE of "
        f"{plan.arch.name} has {plan.available}: {verdict}."
    )


independent = em.plan(fields, arch="arm64")
print("If every combination may occur,", told(independent))

# A pinned page stays in its tier, so it needs no tier; and userfaultfd's pages are
# neither pinned nor moved.
excluded = [("pinned", "tier"), ("uffd_wp", "pinned"), ("uffd_wp", "tier")]
tight = em.plan(fields, arch="arm64", excludes=excluded)
print("If they exclude each other,", told(tight))
print(f"Its code lies in bits {list(tight.assignment.present)} of the PTE.")

# The same fields in a kernel before DEVMAP's bit became free.
older = em.plan(fields, arch="arm64", excludes=excluded, release="6.12")
print("In Linux 6.12,", told(older))

print("Beside the table, a PTE table with a word takes at most:")
for encoding, nbytes in tight.side.items():
    print(f"  {nbytes:,} bytes with {encoding}")
