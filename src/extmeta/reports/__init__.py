"""Results as text and JSON. Nothing here measures."""
