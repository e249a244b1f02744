"""What a release needs: one version everywhere, a citation, a workflow, and announcements that are kept."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import slotworks
from slotworks import errors
from slotworks.errors import deprecated

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())


def test_one_version_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+", slotworks.__version__)
    assert CITATION["version"] == slotworks.__version__
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading is not None
    assert heading[1] == slotworks.__version__


def test_the_citation_has_what_the_format_asks_for():
    assert CITATION.keys() >= {"cff-version", "message", "title", "authors"}
    assert CITATION["cff-version"] == "1.2.0"
    assert all(author.keys() & {"name", "family-names"} for author in CITATION["authors"])
    assert CITATION["license"] == "Apache-2.0"


def test_the_workflow_publishes_what_was_tried_and_nothing_else():
    jobs = WORKFLOW["jobs"]
    assert (jobs["try"]["needs"], jobs["publish"]["needs"]) == ("build", "try")
    assert jobs["publish"]["if"] == "github.ref_type == 'tag'"
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert "secrets." not in text
    assert "password:" not in text
    named = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert named is not None
    assert jobs["try"]["strategy"]["matrix"]["python"] == [
        f"3.{minor}" for minor in range(int(named[1]), int(named[2]))
    ]


def old_function():
    deprecated("old_function()", "new_function()", gone="1.2.0")


CALLS = """
from slotworks import errors
errors.__version__ = "1.1.9"
def old_function():
    errors.deprecated("old_function()", "new_function()", gone="1.2.0")

old_function()
"""


def test_what_will_go_is_said_where_it_is_called():
    """In a process of its own: the checks of shapes would stand between a function and its caller."""
    done = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[0] == (
        "<string>:7: FutureWarning: old_function() goes away in slotworks 1.2.0; use new_function()."
    )


@pytest.mark.parametrize("version", ["1.2.0", "1.3.1", "2.0.0"])
def test_what_was_announced_must_be_gone(version, monkeypatch):
    monkeypatch.setattr(errors, "__version__", version)
    with pytest.raises(AssertionError, match="remove it"):
        old_function()


def test_extras_that_are_named_exist():
    """The message of a missing library names one to install."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    texts = [path.read_text() for path in (ROOT / "slotworks").rglob("*.py")]
    named = {extra for text in texts for extra in re.findall(r"(?:check|needs)_extra\(\"([^\"]+)\"", text)}
    assert {"vision", "synthesis", "hub"} <= named <= known.keys()
