"""What encodings cost: RAM, time and instructions, over the tables of real processes."""
