"""Two encodings for extmeta: `runs`, in Python, and `flagless`, in Cython."""
