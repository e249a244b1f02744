"""Makes this folder importable for tests in the folders below: `from golden_cases import cases`."""

import os

from hypothesis import settings

# The same examples at every run, so that a change is judged by the change; `HYPOTHESIS_PROFILE=search` draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
