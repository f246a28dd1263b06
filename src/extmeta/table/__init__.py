"""PTE tables: entries, descriptors, locks, and what operations do to them."""
