"""The edge: what callers pass is checked, locks are taken, results are made."""
