"""What scripts and notebooks use: a comparison as a function and an object."""
