"""Makes this folder importable for the tests in it, and gives them the miniature official files."""

import json
import shutil
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def truth():
    return json.loads((FIXTURES / "truth.json").read_text())


@pytest.fixture
def official(tmp_path):
    """A folder as a user has it: `tetrominoes`, `multi_dsprites`, `clevr_with_masks` and `clevrtex`."""
    shutil.copytree(FIXTURES / "multi_object_datasets", tmp_path / "data")
    shutil.copytree(FIXTURES / "clevrtex", tmp_path / "data/clevrtex")
    return tmp_path / "data"
