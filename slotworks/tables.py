"""Which recipes and data sets there are, as tables that are read without importing torch.

`tables.json` beside this file is made from the recipes' docstrings and settings and from the data catalogue. After a
change there:

    python -m slotworks.tables

writes it anew; a test compares the two.
"""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from slotworks.files import write_text

FILE = Path(__file__).with_name("tables.json")
UNKNOWN = "not measured"

_FIELDS = ("Command", "Takes", "Expected")
_SOURCE = re.compile(r"paper|\btables?\b|figure|published|README|supplement|et al\.|released|sources")
_HERE = re.compile(r"\bhere\b|\bseeds?\b|docs/")
_MEMORY = re.compile(r"\d[\d.,]*(?: to \d[\d.,]*)? (?:[GM]i?B)(?! of disk)")


@cache
def read() -> dict[str, list[dict[str, Any]]]:
    """The tables: `recipes`, `data`, `synthesis` and `ablations`, each a list of rows with a `name`."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def nearest(name: str, known: Iterable[str]) -> str:
    """The three known names that look most like `name`, for a message."""
    return ", ".join(difflib.get_close_matches(name, list(known), n=3, cutoff=0))


def select(rows: Sequence[dict[str, Any]], words: Sequence[str]) -> list[dict[str, Any]]:
    """The recipes in which every word occurs: in the name, the method, the data set, the first line or the tags."""
    return [row for row in rows if all(word.lower() in _searched(row) for word in words)]


def _searched(row: dict[str, Any]) -> str:
    return " ".join([row["name"], row["method"], row["data"], row["about"], *row["tags"]]).lower()


def sections(doc: str) -> dict[str, str]:
    """`about`, the first line, and the lines after `Command:`, `Takes:` and `Expected:` of a recipe's docstring."""
    lines = doc.strip().splitlines()
    found, current = {"about": lines[0].strip() if lines else ""}, None
    for line in lines[1:]:
        field, colon, rest = line.strip().partition(":")
        if colon and field in _FIELDS:
            current = field.lower()
            found[current] = rest.strip()
        elif not line.strip():
            current = None
        elif current:
            found[current] += f" {line.strip()}"
    return found


def numbers(expected: str) -> tuple[str, str]:
    """The published number and the one measured here, of the text after `Expected:`; `not measured` where there is
    none."""
    found: dict[str, list[str]] = {"published": [], "own": []}
    kind = "own"
    for clause in re.split(r"; (?![^(]*\))", expected.rstrip(".")):
        if clause.startswith("not measured"):
            continue
        if _SOURCE.search(clause):
            kind = "published"
        elif _HERE.search(clause):
            kind = "own"  # a clause that says neither goes on with the one before
        found[kind].append(clause)
    published, own = ("; ".join(clauses) for clauses in found.values())
    return published or "none", own or UNKNOWN


def make() -> dict[str, list[dict[str, Any]]]:
    """The tables, from the recipes and the catalogue themselves; takes seconds."""
    from slotworks.configs import recipes
    from slotworks.configs.ablations import ABLATIONS
    from slotworks.configs.synthesis import RECIPES
    from slotworks.data import catalog

    data = [{key: value for key, value in vars(row).items() if key != "config"} for row in catalog.list_rows()]
    ablations = [
        {"name": name, "about": f"{ablation.about}: {ablation.default}, or {', '.join(ablation.variants)}"}
        for name, ablation in ABLATIONS.items()
    ]
    synthesis = [{"name": name, "about": sections(made.__doc__ or "")["about"]} for name, made in RECIPES.items()]
    rows = [_recipe(name, function, data) for name, function in recipes().items()]
    plain = {"recipes": rows, "data": data, "synthesis": synthesis, "ablations": ablations}
    return json.loads(json.dumps(plain))  # tuples are lists in the file


def _recipe(name: str, function: Any, data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    run, text = function(), sections(function.__doc__ or "")
    published, measured = numbers(text.get("expected", ""))
    takes = text.get("takes", "").rstrip(".")
    memory = _MEMORY.search(takes)
    official = [row for row in data if run.data.name == row["name"] or run.data.name.startswith(f"{row['name']}_")]
    size = f"{official[-1]['download']} to download, {official[-1]['disk']} prepared" if official else ""
    drawn = "_scenes" in run.data.name
    tags = [word for word, holds in _tags(name, takes, run, drawn).items() if holds]
    return {
        "name": name,
        "about": text["about"],
        "method": type(run.method).__name__.removesuffix("Config"),
        "data": run.data.name,
        "data_size": "drawn, no download" if drawn else size or "made with `slotworks synthesize`",
        "command": text.get("command", ""),
        "steps": run.steps,
        "batch_size": run.batch_size,
        "takes": takes,
        "memory": memory.group() if memory else UNKNOWN,
        "published": published,
        "measured": measured,
        "tags": tags,
    }


def _tags(name: str, takes: str, run: Any, drawn: bool) -> dict[str, bool]:
    return {
        "mini": name.endswith("_mini"),
        "cpu": bool(re.search(r"\b(cores?|CPU)\b", takes)),
        "video": getattr(run.data, "frames", "") == "video",
        "drawn": drawn,
        "untrained": run.steps == 0,
    }


def rewrite() -> Path:
    """Write `tables.json`, a row on each line."""
    parts = []
    for name, rows in make().items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        parts.append(f'"{name}": [\n{lines}\n]')
    return write_text(FILE, "{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    print(f"Wrote {rewrite()}")
