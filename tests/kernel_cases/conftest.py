import cases
import pytest

import extmeta as em

# What `page_ext` fails, being another thing: by test, the exception and the reason.
# A test named here must fail so (strict), every other one must pass.
NO_PAGE = "a swap entry or a marker maps no page, so it has no word"
ONE_WORD = "PTEs of one page have one word: those of a fork, or of the page of zeros"
PAGE_EXT = {}


@pytest.fixture(params=cases.FORMS)
def new(request):
    """Make an address space of the form: ``new(thp=..., release=...)``."""
    encoding, arch = cases.FORMS[request.param]
    if encoding == "page_ext" and (why := PAGE_EXT.get(request.node.originalname)):
        kind, reason = why
        request.applymarker(pytest.mark.xfail(raises=kind, reason=reason, strict=True))
    made = []

    def make(**options):
        made.append(em.AddressSpace(cases.FIELDS, encoding, arch, **options))
        return made[-1]

    yield make
    for a in made:
        a.table.check()
