"""Makes studio.png: `python docs/images/studio.py`. What `slotworks studio` opens, in Chromium, an object taken out."""

import re
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from slotworks import api

WHERE = 0.64, 0.85  # shares of the width and height: an object of the picture that the page begins with
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

page = api.studio(device="cpu")
with sync_playwright() as p:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)  # None: that of playwright
    browser = p.chromium.launch(executable_path=found, args=["--no-sandbox"])
    tab = browser.new_page(viewport={"width": 1280, "height": 1400})
    tab.set_default_timeout(600_000)
    tab.goto(page.address)
    tab.locator("p", has_text=re.compile(r"^All \d+ slots of the picture\.$")).wait_for()
    picture = tab.locator("img").first
    box, before = picture.bounding_box(), picture.get_attribute("src")
    assert box is not None
    side = min(box["width"], box["height"])  # the square picture stands in the middle of its frame
    across, down = (
        box[name] / 2 + (share - 0.5) * side for name, share in zip(("width", "height"), WHERE, strict=True)
    )
    picture.click(position={"x": across, "y": down})
    tab.wait_for_function("before => document.querySelector('img').src != before", arg=before)
    tab.keyboard.press("t")
    tab.locator("p", has_text=re.compile(r"^Slots? [\d, ]+ of the picture\.$")).wait_for()
    tab.mouse.move(5, 5)
    tab.wait_for_timeout(2_000)  # until nothing fades in any more
    tab.screenshot(path=Path(__file__).with_name("studio.png"))
    browser.close()
page.close()
