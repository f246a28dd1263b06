"""The encoding ``adaptive``, and one .pxd for each kind of container that it uses."""

from extmeta.encodings.adaptive.adaptive import NAMES, Adaptive

__all__ = ["NAMES", "Adaptive"]
