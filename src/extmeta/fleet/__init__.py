"""Sweeps over many captures: where they come from, what is measured, who measures."""
