"""The site of the documentation: links lead to pages, every page is found, nothing comes from another host."""

import importlib.util
import json
import re
import shutil
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("website", ROOT / "docs" / "website.py")
assert spec is not None
assert spec.loader is not None
website = importlib.util.module_from_spec(spec)
spec.loader.exec_module(website)

HERE = ROOT / "docs" / "methods" / "glass.md"


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("[a](../results.md#the-miniatures)", "[a](../results.md#the-miniatures)"),
        ("[a\nb](../../README.md)", "[a\nb](../index.md)"),
        ("[a](../../CONTRIBUTING.md)", "[a](../contributing.md)"),
        ("[a](../notes)", "[a](../notes/index.md)"),
        ("[a](../records/README.md)", "[a](../records/about.md)"),
        ("![a](../images/savi.png)", "![a](../images/savi.png)"),
        ("[`loop.py`](../../slotworks/training/loop.py), read", "`loop.py`, read"),
        ("[a](#below) [b](https://elsewhere.org/x.md)", "[a](#below) [b](https://elsewhere.org/x.md)"),
        ("```text\n[a](../../README.md)\n```", "```text\n[a](../../README.md)\n```"),
        ("[a](../gone.md)", "[a](../gone.md)"),  # which the generator refuses
    ],
)
def test_links_of_a_forge_lead_to_pages_of_the_site(written, there, tmp_path, monkeypatch):
    monkeypatch.setattr(website, "PAGES", tmp_path)
    assert website.translated(written, HERE, "methods/glass.md") == there


def test_pages_are_gathered_and_all_stand_in_the_navigation(tmp_path, monkeypatch):
    monkeypatch.setattr(website, "PAGES", tmp_path)
    website.gather()
    website.check_navigation()
    assert "](methods/glass.md)" in (tmp_path / "index.md").read_text()
    assert "[DINOSAUR](dinosaur.md)" in (tmp_path / "methods" / "index.md").read_text()
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} | {"index"}
    assert {path.stem for path in (tmp_path / "methods").glob("*.md")} == pages
    (tmp_path / "forgotten.md").touch()
    with pytest.raises(SystemExit, match=r"lacks \['forgotten.md'\]"):
        website.check_navigation()


def test_every_module_is_in_the_reference_or_left_out_on_purpose():
    """What is left out: the command line, the page of the studio, readers of others' files, and what all stand on."""
    shown = {module for _, names in website.REFERENCE.values() for name in names for module in website.modules(name)}
    files = {path for path in (ROOT / "slotworks").rglob("*.py") if not path.stem.startswith("_")}
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    apart = ("slotworks.cli.", "slotworks.convert.", "slotworks.studio.")
    underneath = {
        f"slotworks.{name}"
        for name in "data.random files html_text images json_text limits machine matching outputs parts progress "
        "ranges tables version videos vocabulary yaml_text".split()
    }
    assert {one for one in modules - shown if not one.startswith(apart)} <= underneath
    assert {one for one in shown if not one.endswith((".studio", ".zoo", ".engines"))} <= modules


def test_versions_lie_side_by_side_the_newest_first(tmp_path, monkeypatch):
    site, folder = tmp_path / "site", tmp_path / "versions"
    monkeypatch.setattr(website, "SITE", site)
    site.mkdir()
    for version in ("0.9.1", "0.10.0", "0.9.2", "0.10.0"):
        (site / "index.html").write_text(version)
        website.publish(folder, version)
    listed = json.loads((folder / "versions.json").read_text())
    assert [one["version"] for one in listed] == ["0.10.0", "0.9.2", "0.9.1"]
    assert [one["aliases"] for one in listed] == [["latest"], [], []]
    assert 'url=0.10.0/index.html"' in (folder / "index.html").read_text()
    assert 'url=../0.10.0/index.html"' in (folder / "latest" / "index.html").read_text()
    assert (folder / "0.9.1" / "index.html").read_text() == "0.9.1"


def test_without_its_generator_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(website, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install '\.\[docs\]'"):
        website.build()


def test_the_workflow_installs_what_the_extra_names():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    workflow = (ROOT / ".github" / "workflows" / "site.yml").read_text()
    installed = re.findall(r"pip install (.*?) pyyaml$", workflow, re.MULTILINE)
    assert len(installed) == 2
    assert all(re.findall('"([^"]+)"', line) == extra for line in installed)


@pytest.mark.slow
def test_it_is_built_without_a_warning_and_opens_without_a_server():
    """As `make docs` builds it. One test, so that it is built once: the generator stops where it would warn, and
    follows the links within the site; then every file is looked at, and some pages in a browser."""
    if find_spec("zensical") is None or find_spec("mkdocstrings") is None:
        pytest.skip("the extra docs is not installed")
    website.build()
    look_at_files(website.SITE)
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("built, but no Chromium here to look at it")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width, scheme in ((1400, "light"), (390, "dark")):
            look_at_pages(browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme), scheme)
        browser.close()


def look_at_files(site):
    """No page names another host for what it loads; functions are found by name; examples are code."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        loaded = re.findall(r'<(?:script|img|iframe)\b[^>]*?\bsrc="?([^"\s>]+)', page.read_text())
        loaded += re.findall(r'<link\b[^>]*?\brel="?stylesheet[^>]*?\bhref="?([^"\s>]+)', page.read_text())
        assert [one for one in loaded if re.match(r"(https?:)?//", one)] == [], page
    items = json.loads((site / "search.json").read_text())["items"]
    found = {item["location"].partition("#")[2] for item in items}
    assert {f"slotworks.api.{name}" for name in ("train", "evaluate", "segment", "edit")} <= found
    assert {f"slotworks.hub.{name}" for name in ("from_pretrained", "push_to_hub")} <= found
    assert {"slotworks.metrics.ari.fg_ari", "slotworks.methods.glass.GlassConfig"} <= found
    text = (site / "reference" / "slots.html").read_text()
    assert "&gt;&gt;&gt;" in text
    assert "<blockquote>" not in text


def look_at_pages(tab, scheme):
    """No request leaves the disk, no page is wider than the window, a function is found by its name."""
    asked, said = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    for page in ("index", "guides/segment", "methods/glass", "results", "reference/metrics"):
        tab.goto((website.SITE / f"{page}.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), page
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (background[0] < 60) == (scheme == "dark")
    tab.keyboard.press("Control+k")
    tab.keyboard.type("fg_ari")
    result = tab.locator('a[href*="?h="]', has_text="fg_ari").first
    result.wait_for(timeout=20_000)
    assert result.get_attribute("href").endswith("reference/metrics.html?h=#slotworks.metrics.ari.fg_ari")
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert said == []
