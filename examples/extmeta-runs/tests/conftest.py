from hypothesis import settings

# Enough to find what is wrong in seconds; `--hypothesis-profile default` looks longer.
settings.register_profile("short", max_examples=15, deadline=None)
settings.load_profile("short")
