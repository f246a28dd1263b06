"""Captures and write traces of processes: readers, checks and files."""
