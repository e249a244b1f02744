"""Makes this folder importable for the tests in it, and gives them the miniature official files."""

import json
import os
import shutil

import pytest
from wire import FIXTURES


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Synchronising protects from power cuts, which no test makes; a killed process leaves its writes to the system."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def truth():
    return json.loads((FIXTURES / "truth.json").read_text())


@pytest.fixture
def official(tmp_path):
    """A folder as a user has it: `tetrominoes`, `multi_dsprites`, `clevr_with_masks` and `clevrtex`."""
    shutil.copytree(FIXTURES / "multi_object_datasets", tmp_path / "data")
    shutil.copytree(FIXTURES / "clevrtex", tmp_path / "data/clevrtex")
    return tmp_path / "data"
