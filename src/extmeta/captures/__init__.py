"""Captures of processes: what is read, and what it means."""
