"""The comparison: from page tables to rows, and as an object in Python."""
