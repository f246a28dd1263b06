import os
import signal

import pytest
from hypothesis import settings

import extmeta as em

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell: what tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `make check` asks for "full", `make hunt` for examples that nobody has drawn yet.
# `make test` and the sanitized builds, which are ten times slower, make do with "brief":
# few examples, and the same ones each time.
settings.register_profile(
    "full", deadline=None, print_blob=True, max_examples=15, stateful_step_count=40
)
settings.register_profile(
    "hunt", settings.get_profile("full"), max_examples=300, derandomize=False
)
settings.register_profile(
    "brief",
    settings.get_profile("full"),
    max_examples=8,
    stateful_step_count=30,
    derandomize=True,
    database=None,
)
settings.register_profile("smoke", settings.get_profile("brief"), max_examples=3)
settings.load_profile(os.environ.get("EXTMETA_TESTS", "brief"))

# Beside the registered names: forms that a name does not reach. A word of these
# fields fits the swap entry of every encoding.
SMALL = em.Fields(uffd_wp=1, soft_dirty=1, age=1)
FORMS = [
    *((name, SMALL) for name in em.encodings()),
    (em.Adjacent(when="needed"), SMALL),
    (em.Adjacent(when="needed"), em.Fields(a=60, b=4)),
    (em.Linked(bits=4), SMALL),
    (em.Linked(bits=1), em.Fields(soft_dirty=1)),
    (em.Linked(bits=2), em.Fields(a=1, b=1)),
    (em.Linked(bits=8), em.Fields(age=8)),
    ("linked", em.Fields(a=9, b=7)),
    ("linked", em.Fields(a=20, b=7)),
    ("linked", em.Fields(meta=64)),
    ("wide", em.Fields(meta=64)),
    (em.Linked(bits=128), em.Fields(a=30, b=70, c=28)),
    # A side page wider than the words.
    (em.Linked(bits=300), em.Fields(a=10)),
    (em.Linked(bits=64), SMALL),
    (em.Linked(bits=512), em.Fields(a=500, b=12)),
    ("adaptive", em.Fields(age=8)),
    ("adaptive", em.Fields(meta=64)),
    ("page_ext", em.Fields(meta=64)),
    ("page_ext", em.Fields(age=8)),
    ("xarray", em.Fields(meta=64)),
    ("xarray", em.Fields(age=8)),
    ("hash", em.Fields(meta=64)),
    ("hash", em.Fields(age=8)),
    ("hash", em.Fields(a=20, b=9)),
    ("inpte", em.Fields(meta=6)),
    ("inpte", em.Fields(a=2, uffd_wp=1, b=3, soft_dirty=1)),
    ("inpte:indexed", SMALL),
    ("inpte:indexed", em.Fields(meta=6)),
    # All words legal, but not all codes have room in a swap entry.
    ("compact", em.Fields(meta=6)),
    (em.Compact(excludes=[("uffd_wp", "soft_dirty")]), SMALL),
    # More fields than bits: 8 of 15 there are. Looked up in an array, and by hash.
    (
        em.Compact(
            excludes=[("uffd_wp", "soft_dirty", "age")],
            implies=[("pin", "age"), ("gen", "pin")],
        ),
        em.Fields(uffd_wp=1, soft_dirty=1, age=3, pin=1, gen=2),
    ),
    (
        em.Compact(excludes=[[*"abcdefghijklmnopq"], ("a", "z")]),
        em.Fields(**dict.fromkeys("abcdefghijklmnopq", 1), z=1),
    ),
    # The default choice of all VMAs; the other ones are in test_compact.py.
    (em.Compact(per_vma=[("uffd_wp", "soft_dirty")]), SMALL),
]


def form_id(form):
    encoding, fields = form
    return f"{encoding}-{'+'.join(str(bits) for bits in fields.values())}"


@pytest.fixture(params=FORMS, ids=form_id)
def form(request):
    """An encoding, by name or made, and fields that it can hold."""
    return request.param


@pytest.fixture
def make(form):
    """Make a table of that form."""
    encoding, fields = form
    return lambda: em.PageTable(encoding, fields)


@pytest.fixture(params=em.encodings())
def encoding(request):
    return request.param


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
