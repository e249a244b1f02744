"""Makes this folder importable for tests in the folders below: `from golden_cases import cases`."""

import os

import pytest
from hypothesis import settings

# The same examples at every run, so that a change is judged by the change; `HYPOTHESIS_PROFILE=search` draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def tiny_trained(tmp_path_factory):
    """The run of `tiny_recipes.tetrominoes`, evaluated on four images; who changes it takes a copy."""
    from tiny_recipes import tetrominoes

    from slotworks import api

    folder = tmp_path_factory.mktemp("tiny") / "run"
    api.train(tetrominoes(), folder, device="cpu")
    api.evaluate(folder, num_images=4, device="cpu", protocols=["slot-attention"])
    return folder
