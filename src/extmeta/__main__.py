"""``python -m extmeta``: the command that is installed as ``extmeta``."""

import sys

from extmeta.cli import main

sys.exit(main())
