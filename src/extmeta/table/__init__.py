"""PTE tables: entries, descriptors, locks, operations."""
