"""Makes the site of the documentation from the pages that a forge shows: `python docs/website.py`, or `make docs`.

    build/pages     the pages of `docs` and the README, their links leading to each other, and what is written here:
                    the reference from docstrings, the list of methods, the notebooks
    build/site      the site: `index.html` opens from the disk, and asks no other host for anything

The generator of `mkdocs.yml` builds it and refuses what it would warn of, such as a link that leads nowhere. With
`--versions FOLDER` the site is put beside those of other versions, and the newest is what `FOLDER/index.html` shows.
"""

import argparse
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
KEPT = (".md", ".png", ".json", ".css", ".js")  # files below docs that are copied
MOVED = {  # files that are pages of the site, by where they stand there
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/records/README.md": "records/about.md",  # an index would be the page of the whole section
    "docs/methods": "methods/index.md",
    "docs/notes": "notes/index.md",
}

REFERENCE = {  # pages of the reference: title, and modules; `*` is every file of a package
    "jobs": ("Whole jobs", ["api", "hub", "export", "plan", "label", "engines", "engines.*", "remote"]),
    "contract": ("The contract", ["types", "errors"]),
    "methods": ("Methods", ["methods.*"]),
    "encoders": ("Encoders", ["encoders.*"]),
    "slots": ("Slots", ["slots.*"]),
    "decoders": ("Decoders", ["decoders.*"]),
    "guidance": ("Guidance", ["guidance.*"]),
    "layers": ("Layers", ["nn.*"]),
    "data": ("Data sets", ["data.catalog", "data.sets", "data.readers.*", "data.stores.*"]),
    "scenes": ("Scenes that are drawn", ["data.scenes.*"]),
    "metrics": ("Metrics and protocols", ["metrics.*", "protocols"]),
    "evaluation": ("Evaluation", ["evaluation.*"]),
    "training": ("Training", ["training.*"]),
    "recipes": ("Recipes", ["configs.*"]),
    "editing": ("Editing", ["editing.*", "studio"]),
    "synthesis": ("Synthesis", ["synthesis.*"]),
    "reports": ("Reports and the zoo", ["reports.*", "zoo"]),
}

FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def staged(source: Path) -> str | None:
    """Where a file or folder of the project stands among the pages; None if it does not."""
    name = source.relative_to(ROOT).as_posix()
    if name in MOVED:
        return MOVED[name]
    if name.startswith("docs/") and source.suffix in KEPT:
        return name.removeprefix("docs/")
    if name.startswith("notebooks/") and source.suffix in (".py", ".ipynb"):
        return f"notebooks/{source.stem}.md" if source.suffix == ".py" else name
    return f"images/{source.parent.name}-{source.name}" if source.suffix == ".png" else None


def translated(text: str, source: Path, page: str) -> str:
    """The text of a page, its links leading to pages; what is no page, such as code, is named without a link."""

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found[3].partition("#")
        there = (source.parent / target).resolve()
        if re.match(r"[a-z]+:", found[3]) or not target or not there.exists() or not there.is_relative_to(ROOT):
            return found[0]  # what is gone the generator refuses
        place = staged(there)
        if place is None:
            return found[2]
        if there.suffix == ".png" and not (PAGES / place).exists():
            (PAGES / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(there, PAGES / place)
        way = Path(os.path.relpath(place, Path(page).parent)).as_posix()
        return f"{found[1]}[{found[2]}]({way}{'#' if anchor else ''}{anchor})"

    parts = FENCE.split(text)  # every second one is a block of code
    return "".join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(parts))


def write(page: str, text: str) -> None:
    """A page among the others."""
    (PAGES / page).parent.mkdir(parents=True, exist_ok=True)
    (PAGES / page).write_text(text, encoding="utf-8")


def modules(name: str) -> list[str]:
    """`api` is slotworks.api; `metrics.*` is every public file of slotworks/metrics, one after the other."""
    if not name.endswith(".*"):
        return [f"slotworks.{name}"]
    folder = ROOT / "slotworks" / name.removesuffix(".*").replace(".", "/")
    files = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return [f"slotworks.{name.removesuffix('*')}{file}" for file in files]


def reference(title: str, names: list[str]) -> str:
    """A page of the reference: the docstrings of modules and of what is public in them."""
    found = [module for name in names for module in modules(name)]
    return "\n\n".join([f"# {title}", *(f"::: {module}" for module in found)]) + "\n"


def cells(notebook: str) -> list[tuple[str, str]]:
    """The cells of a notebook in percent format: their kind, markdown or code, and what stands in them."""
    found = []
    for part in re.split(r"^# %%", notebook, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        kind = "markdown" if "[markdown]" in title else "code"
        found.append((kind, re.sub(r"^# ?", "", body, flags=re.MULTILINE) if kind == "markdown" else body))
    return [(kind, body.strip("\n")) for kind, body in found]


def notebook_page(source: Path) -> str:
    """A notebook as a page: its words, its code, and the file to download."""
    shown = [f"```python\n{body}\n```" if kind == "code" else body for kind, body in cells(source.read_text())]
    title, *rest = shown
    heading, _, words = title.partition("\n")
    return "\n\n".join([heading, f"[As a notebook]({source.stem}.ipynb)", words.strip("\n"), *rest]) + "\n"


def section(page: Path, heading: str) -> str:
    """What stands below a heading of a page, up to the next of its level."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    if found is None:
        sys.exit(f"{page} has no section {heading!r}, which the site shows on a page of its own.")
    return found[1]


def gather() -> None:
    """Write build/pages anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shown = [ROOT / name for name in MOVED if name.endswith(".md")]
    shown += [path for path in sorted((ROOT / "docs").rglob("*")) if path.suffix in KEPT]
    for source in dict.fromkeys(shown):
        page = staged(source)
        assert page is not None
        if source.suffix == ".md":
            write(page, translated(source.read_text(encoding="utf-8"), source, page))
        else:
            (PAGES / page).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, PAGES / page)
    for source in sorted((ROOT / "notebooks").glob("*.py")):
        page = f"notebooks/{source.stem}.md"
        write(page, translated(notebook_page(source), source, page))
        shutil.copy(source.with_suffix(".ipynb"), PAGES / "notebooks")
    readme = ROOT / "README.md"
    methods = translated(section(readme, "Methods"), readme, "methods/index.md")
    write("methods/index.md", f"# Methods\n{methods}")
    notes = [path.stem for path in sorted((ROOT / "docs" / "notes").glob("*.md"))]
    listed = "".join(f"- [{name}]({name}.md)\n" for name in notes)
    write("notes/index.md", f"# What was tried\n\nFor our own numbers, by method, with what failed.\n\n{listed}")
    for name, (title, names) in REFERENCE.items():
        write(f"reference/{name}.md", reference(title, names))


def pages_of(entries: list) -> list[str]:
    """The pages that the navigation names."""
    found = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += pages_of(value) if isinstance(value, list) else [value]
    return found


def check_navigation() -> None:
    """Every page is in the navigation of mkdocs.yml, and every entry a page."""
    there = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md")}
    written = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(pages_of(yaml.safe_load(written[written.index("\nnav:") :])["nav"]))  # `!ENV` above is no plain YAML
    if there != named:
        missing, gone = sorted(there - named), sorted(named - there)
        sys.exit(f"The navigation of mkdocs.yml lacks {missing} and names {gone}, which are no pages.")


def build(*, versions: bool = False) -> None:
    """Make build/site. With `versions` its pages read the list of versions that lies beside the site."""
    if find_spec("zensical") is None or find_spec("mkdocstrings") is None:
        sys.exit("The site needs its generator; install it with `pip install '.[docs]'`.")
    gather()
    check_navigation()
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    environment = os.environ | {"SITE_VERSIONS": "mike" if versions else "", "NO_COLOR": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = re.sub(r"\x1b\[[0-9;]*m", "", ran.stdout + ran.stderr)
    if ran.returncode or "griffe: " in said:  # its warnings, of docstrings, are none of the generator's
        sys.exit(said.partition("Traceback (most recent call last)")[0] + "The site was not built.")


def newest_first(version: str) -> tuple[int, ...]:
    """For sorting: 0.10.0 stands before 0.9.1."""
    return tuple(-int(number) for number in version.split("."))


def publish(folder: Path, version: str) -> None:
    """Put build/site into a folder of versions, which it may have been in before.

    `versions.json` lists them for the menu of every page, newest first; `index.html` and `latest` show the newest.
    """
    shutil.rmtree(folder / version, ignore_errors=True)
    shutil.copytree(SITE, folder / version)
    found = [path.name for path in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    order = sorted(found, key=newest_first)
    listed = [{"version": one, "title": one, "aliases": ["latest"] if one == order[0] else []} for one in order]
    (folder / "versions.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    (folder / "latest").mkdir(exist_ok=True)
    for page, to in (("index.html", f"{order[0]}/index.html"), ("latest/index.html", f"../{order[0]}/index.html")):
        moved = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={to}">'
        (folder / page).write_text(f'{moved}<title>slotworks</title><a href="{to}">slotworks</a>\n', encoding="utf-8")
    (folder / ".nojekyll").touch()  # files whose names begin with an underscore are served, too


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(description="Make the site of the documentation.")
    options.add_argument("--versions", type=Path, metavar="FOLDER", help="put it beside those of other versions")
    versions = options.parse_args().versions
    build(versions=versions is not None)
    if versions is None:
        print(SITE / "index.html")
        return
    version = runpy.run_path(str(ROOT / "slotworks" / "version.py"))["__version__"]
    publish(versions, version)
    print(versions / version / "index.html")


if __name__ == "__main__":
    main()
