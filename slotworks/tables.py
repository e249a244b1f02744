"""Which recipes and data sets there are, as tables that are read without importing torch.

`tables.json` beside this file is made from the recipes, the records of our own numbers (`docs/records`) and the data
catalogue, and with it the marked tables of the README and of the pages under `docs`. After a change there:

    python -m slotworks.tables

writes them anew; tests compare. A marked table stands between two comments, of which the first says which recipes are
its rows (patterns of names, `!` before one leaves out) and what its columns are:

    <!-- recipes dinosaur.* !*_mini: recipe, slots, steps x batch, FG-ARI, mBO_i -->
    <!-- end -->

Another kind holds where published recipes depart from their source, those of `slotworks/configs/departures.py`:

    <!-- departures dinosaur.* -->
    <!-- end -->

A third holds rows that are only quoted, `slotworks/configs/quoted.py`: `<!-- quoted slate_implicit -->`.

Columns of the first are `recipe`, keys of a row of `tables.json`, `steps x batch`, `source`, `here` (our own numbers),
and metrics.
"""

import importlib.util
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatch, fnmatchcase
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from slotworks.errors import UserError
from slotworks.files import write_text

FILE = Path(__file__).with_name("tables.json")
DOCS = FILE.parents[1] / "docs"  # beside the package in a checkout
UNKNOWN = "not measured"
METRIC = ("name", "label", "unit", "better", "about")
"""What there is to know of a metric."""

_MEMORY = re.compile(r"\d[\d.,]*(?: to \d[\d.,]*)? (?:[GM]i?B)(?! of disk)")
_MARKED = re.compile(r"(?<=^<!-- recipes )([^:>]+):(\s[^>]+?) -->\n.*?(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE)

_DEPARTURES = re.compile(r"(?<=^<!-- departures )([^:>]+) -->\n.*?(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE)
_QUOTED = re.compile(r"(?<=^<!-- quoted )(\w+) -->\n.*?(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE)


@cache
def read() -> dict[str, list[dict[str, Any]]]:
    """The tables: `recipes`, `data`, `synthesis`, `ablations` and `tasks`, each a list of rows with a `name`."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def row(name: str) -> dict[str, Any] | None:
    """The row of the recipe of this name."""
    return next((known for known in read()["recipes"] if known["name"] == name), None)


_OWN: dict[str, dict[str, str]] = {}


def learn(rows: Any) -> None:
    """Metrics that the package does not have, as a record describes them: `metric` knows them from then on.

    Args:
        rows: what stands under `about` of a record, which comes from anywhere: what is no row of texts is left out.
    """
    for row in rows if isinstance(rows, Sequence) else ():
        known = {key: row.get(key) for key in METRIC} if isinstance(row, Mapping) else {}
        if known and all(isinstance(value, str) for value in known.values()):
            _OWN[str(known["name"])] = {key: str(value) for key, value in known.items()}


def metric(name: str, own: Sequence[Mapping[str, Any]] = ()) -> Mapping[str, Any]:
    """Name, label, unit and direction of a metric, as what has it says; of one unknown the name alone.

    Args:
        name: as in records.
        own: metrics of a task that is not in the tables; they come first.
    """
    rows = itertools.chain(own, *(task["metrics"] for task in read()["tasks"]), _OWN.values())
    found = next((row for row in rows if fnmatchcase(name, row["name"])), None)
    if found is None:
        return {"name": name, "label": "", "unit": "", "better": "neither", "about": ""}
    before, star, after = found["name"].partition("*")
    which = name[len(before) : len(name) - len(after)] if star else ""
    return {**found, "name": name, "label": found["label"].replace("*", which)}


def select(rows: Sequence[dict[str, Any]], words: Sequence[str]) -> list[dict[str, Any]]:
    """The recipes in which every word occurs: in the name, the method, the data set, the first line or the tags."""
    return [row for row in rows if all(word.lower() in _searched(row) for word in words)]


def _searched(row: dict[str, Any]) -> str:
    return " ".join([row["name"], row["method"], row["data"], row["about"], *row["tags"]]).lower()


def make() -> dict[str, list[dict[str, Any]]]:
    """The tables, from the recipes and the catalogue themselves; takes seconds."""
    from slotworks.configs import recipes
    from slotworks.configs.ablations import ABLATIONS
    from slotworks.configs.synthesis import RECIPES
    from slotworks.data import catalog
    from slotworks.evaluation.task import TASKS, find

    data = [
        {"name": row.name, "folder": row.folder, **{key: value for key, value in vars(row).items() if key != "config"}}
        for row in catalog.list_rows()
    ]
    ablations = [
        {"name": name, "about": f"{ablation.about}: {ablation.default}, or {_choices(ablation)}"}
        for name, ablation in ABLATIONS.items()
    ]
    synthesis = [{"name": name, "about": (made.__doc__ or "").split("\n")[0]} for name, made in RECIPES.items()]
    rows = [_recipe(name, recipe, data) for name, recipe in recipes().items()]
    tasks = [task_row(find(name)) for name in TASKS]
    plain = {"recipes": rows, "data": data, "synthesis": synthesis, "ablations": ablations, "tasks": tasks}
    return json.loads(json.dumps(plain))  # tuples are lists in the file


def _choices(ablation: Any) -> str:
    found = ", ".join(ablation.variants)
    return f"{found}; of sets {', '.join(ablation.set_variants)}" if ablation.set_variants else found


def task_row(task: Any) -> dict[str, Any]:
    """What the command line needs to know of a `slotworks.evaluation.task.Task`."""
    hints = get_type_hints(task.options) if task.options else {}
    options = [
        {
            "name": field.name,
            "flag": field.metadata["flag"] or field.name.replace("_", "-"),
            "about": field.metadata["about"],
            **_kind(hints[field.name]),
        }
        for field in (fields(task.options) if task.options else ())
    ]
    metrics = [one.described() for one in task.metrics]
    return {"name": task.name, "about": task.about, "options": options, "metrics": metrics}


def _kind(hint: Any) -> dict[str, Any]:
    """The type of an option: its name, or the values it may have, and whether several may be given."""
    inner = [part for part in get_args(hint) if part not in (NoneType, Ellipsis)]
    if get_origin(hint) is Literal:
        return {"type": list(get_args(hint)), "many": False}
    if get_origin(hint) is tuple:
        return {"type": inner[0].__name__, "many": True}
    return _kind(inner[0]) if inner else {"type": hint.__name__, "many": False}


def _recipe(name: str, recipe: Any, data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from slotworks.configs.departures import departures_of

    run = recipe()
    memory = _MEMORY.search(recipe.takes)
    official = [row for row in data if run.data.name == row["name"] or run.data.name.startswith(f"{row['name']}_")]
    size = f"{official[-1]['download']} to download, {official[-1]['disk']} prepared" if official else ""
    drawn = "_scenes" in run.data.name
    commands = list(dict.fromkeys(_commands(name)))
    made = "made with `slotworks label`" if any("slotworks label" in one for one in commands) else ""
    tags = [word for word, holds in _tags(name, recipe.takes, run, drawn).items() if holds]
    return {
        "name": name,
        "about": recipe.about,
        "method": type(run.method).__name__.removesuffix("Config"),
        "slots": getattr(run.method, "num_slots", None),
        "data": run.data.name,
        "data_size": "drawn, no download" if drawn else size or made or "made with `slotworks synthesize`",
        "command": " && ".join(commands),
        "steps": run.steps,
        "batch_size": run.batch_size,
        "takes": recipe.takes,
        "memory": memory.group() if memory else UNKNOWN,
        "published": "; ".join(map(str, recipe.published)) or "none",
        "numbers": [vars(published) for published in recipe.published],
        "departures": [
            {"setting": one.setting, "source": one.source, "ours": one.value, "why": one.why}
            for one in departures_of(name, recipe)
        ],
        "measured": own(name) or (f"{recipe.no_record} (no record)" if recipe.no_record else UNKNOWN),
        "tags": tags,
    }


def own(name: str) -> str:
    """Our own numbers of a recipe as it stands, from its record in `docs/records`; empty where there is none."""
    results = _results(DOCS / "results.py")
    records = results.read(name) if (results.FOLDER / f"{name}.json").is_file() else []
    record = next((one for one in records if not one["name"]), None)  # those with a name are of other settings
    if record is None or not record["evaluations"]:
        return ""
    first = record["evaluations"][0]
    numbers = []
    for metric, value in first["metrics"].items():
        short = {key: part for key, part in value.items() if key != "seeds" or "mean" not in value}
        numbers.append(f"{results.TITLES.get(metric, metric)} {results.written(metric, short)}")
    seeds = f"seed{'s' * (len(record['seeds']) > 1)} {', '.join(map(str, record['seeds']))}"
    kept = "; no record" if record["measured"] == results.EARLIER else ""
    return f"{', '.join(numbers)} ({first['protocol']}, {seeds}{kept})"


@cache
def _results(path: Path) -> Any:
    """What reads and prints the records."""
    spec = importlib.util.spec_from_file_location("results", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _commands(name: str) -> list[str]:
    """What has to be run for a recipe: the images and runs that its settings name, and itself."""
    from slotworks.configs import recipes
    from slotworks.configs.synthesis import RECIPES

    recipe = recipes()[name]
    run, first = recipe(), []
    root = Path(str(getattr(getattr(run.data, "images", run.data), "root", "")))
    if root.parent == Path("data/generated"):
        if root.name in RECIPES:
            first.append(f"slotworks synthesize {root.name}")
        elif (labels := recipes().get(root.name)) and not labels().steps:
            first.append(f"slotworks label {root.name}")
    for value in vars(run.method).values():
        if isinstance(value, str) and value.startswith("runs/"):
            first += _commands(value.removeprefix("runs/"))
    return [*first, f"slotworks {'train' if run.steps else 'evaluate'} {name} {recipe.options}".rstrip()]


def _tags(name: str, takes: str, run: Any, drawn: bool) -> dict[str, bool]:
    return {
        "mini": name.endswith("_mini"),
        "cpu": bool(re.search(r"\b(cores?|CPU)\b", takes)),
        "video": getattr(run.data, "frames", "") == "video",
        "drawn": drawn,
        "untrained": run.steps == 0,
    }


def fill(text: str, rows: Sequence[dict[str, Any]]) -> str:
    """A page with its marked tables written anew from the recipes' rows.

    Raises:
        UserError: if a mark names no recipe, or a column that none of its recipes has.
    """
    text = _QUOTED.sub(lambda found: f"{found[1]} -->\n{_quoted(found[1])}", text)
    text = _DEPARTURES.sub(lambda found: f"{found[1]} -->\n{_departures(found[1], rows)}", text)
    return _MARKED.sub(lambda found: f"{found[1]}:{found[2]} -->\n{_table(found[1], found[2].strip(), rows)}", text)


def _chosen(patterns: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    wanted, out = [], []
    for pattern in patterns.split():
        (out if pattern.startswith("!") else wanted).append(pattern.removeprefix("!"))
    return [
        row
        for pattern in wanted
        for row in rows
        if fnmatch(row["name"], pattern) and not any(fnmatch(row["name"], one) for one in out)
    ]


def _departures(patterns: str, rows: Sequence[dict[str, Any]]) -> str:
    """A line for each departure, with the recipes that share it."""
    published = [row for row in _chosen(patterns, rows) if row["numbers"]]
    shared: dict[tuple[str, ...], list[str]] = {}
    for row in published:
        for one in row["departures"]:
            shared.setdefault(tuple(one.values()), []).append(row["name"])
    if not shared:
        raise UserError(f"A marked table has no departure of the recipes {patterns}; see slotworks/configs.")
    methods = {row["name"].partition(".")[0] for row in published}
    lines = ["| recipes | setting | source | ours | why |", "| --- | --- | --- | --- | --- |"]
    for (setting, source, ours, why), names in shared.items():
        short = [name if len(methods) > 1 else name.partition(".")[2] for name in names]
        of = "all" if len(names) == len(published) else ", ".join(f"`{name}`" for name in short)
        lines.append(f"| {of} | `{setting}` | {source} | {ours} | {why} |")
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    """Rows of methods that have no recipe."""
    from slotworks.configs.quoted import QUOTED

    if name not in QUOTED:
        raise UserError(f"A marked table is to quote {name}; slotworks/configs/quoted.py has {', '.join(QUOTED)}.")
    columns = list(dict.fromkeys(column for row in QUOTED[name] for column in row.numbers))
    lines = [["quoted", *columns, "source"], ["---"] * (len(columns) + 2)]
    lines += [[row.method, *(row.numbers.get(one, "-") for one in columns), row.source] for row in QUOTED[name]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _table(patterns: str, columns: str, rows: Sequence[dict[str, Any]]) -> str:
    chosen = _chosen(patterns, rows)
    names = re.split(r",\s+", columns)
    cells = [[_cell(row, name, names) for name in names] for row in chosen]
    empty = [name for at, name in enumerate(names) if not any(line[at] for line in cells)]
    if empty:
        wrong = f"column {', '.join(empty)}" if chosen else f"recipe {patterns}"
        raise UserError(f"A marked table has nothing to say for its {wrong}; see the recipes in slotworks/configs.")
    lines = [names, ["---"] * len(names), *([cell or "-" for cell in line] for line in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: dict[str, Any], column: str, columns: Sequence[str]) -> str:
    match column:
        case "recipe":
            return f"`{row['name']}`"
        case "about":
            return row["about"].rstrip(".")
        case "steps x batch":
            return f"{row['steps']:,} x {row['batch_size']}"
        case "source":  # of the numbers that the table shows, or else of all
            shown = [printed for metric in columns for printed in _printed(row, metric)[:1]]
            return "; ".join(dict.fromkeys(printed["source"] for printed in shown or row["numbers"]))
        case "here":
            return row["measured"]
        case _ if column in row:
            return str(row[column] or "")
    return next((printed["numbers"][column] for printed in _printed(row, column)), "")


def _printed(row: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    return [printed for printed in row["numbers"] if metric in printed["numbers"]]


def pages() -> list[Path]:
    """The README and the pages under `docs`."""
    return [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]


def rewrite() -> list[Path]:
    """Write `tables.json`, a row on each line, and the marked tables of the pages; gives the files that changed."""
    tables = make()
    parts = []
    for name, rows in tables.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        parts.append(f'"{name}": [\n{lines}\n]')
    new = {FILE: "{\n" + ",\n".join(parts) + "\n}\n"}
    new |= {page: fill(page.read_text(encoding="utf-8"), tables["recipes"]) for page in pages()}
    return [write_text(path, text) for path, text in new.items() if path.read_text(encoding="utf-8") != text]


if __name__ == "__main__":
    for path in rewrite():
        print(f"Wrote {path}")
