"""The edge: check arguments, take locks, make results."""
