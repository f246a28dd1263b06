"""Types of the arguments of several benchmarks. Each names what it refuses."""

import argparse

from extmeta.captures.capture import Capture
from extmeta.commands.arguments import above_0_of, count_of, form_of, forms_of, refusing
from extmeta.commands.inputs import capture_of
from extmeta.commands.output import BadInputError

from_0 = refusing(count_of)
from_1 = refusing(above_0_of(count_of))
encoding = refusing(form_of)
encodings = refusing(forms_of)


def capture(given: str) -> tuple[Capture, str]:
    """Return the capture of a file, or a shipped one, and its name."""
    try:
        return capture_of(given)
    except BadInputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
