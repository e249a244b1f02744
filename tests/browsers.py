"""The browser that pages are looked at in."""

import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """The path of Chromium or Chrome of this machine, or of the one that playwright installed; skips the test if none.

    `.ci/run` sees to it that there is one.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    with playwright.sync_playwright() as p:
        own = p.chromium.executable_path
    if not Path(own).exists():
        pytest.skip("no Chromium here; `playwright install chromium` brings one")
    return own
