"""What every verb shares: parsing with help and examples, tables, JSON."""

import inspect
import itertools
import json as json_module
import os
import sys
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.markup import escape
from rich.table import Table

from slotworks.errors import UserError
from slotworks.files import finite
from slotworks.progress import PlainConsole
from slotworks.tables import metric

T = TypeVar("T")


out = PlainConsole(highlight=False)
err = PlainConsole(stderr=True, highlight=False)


def parse(function: Callable[..., T], argv: Sequence[str], *, verb: str) -> T:
    """Call `function` with options from the command line; its docstring is the help. A wrong option exits with 2."""
    import tyro

    about = inspect.cleandoc(function.__doc__ or "").split("\nArgs:")[0].rstrip()  # tyro would leave the examples out
    config = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(function, args=list(argv), prog=f"slotworks {verb}", description=about, config=config)


def take_all(words: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Remove every `option VALUE` and `option=VALUE` from a list of words; gives the rest and the values."""
    rest, values = [], []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == option:
            if not words:
                raise UserError(f"{option} needs a value.")
            values.append(words.pop(0))
        elif word.startswith(f"{option}="):
            values.append(word.split("=", 1)[1])
        else:
            rest.append(word)
    return rest, values


def take_option(words: Sequence[str], option: str) -> tuple[list[str], str | None]:
    """The same for an option of which the last value counts; None if it is not there."""
    rest, values = take_all(words, option)
    return rest, values[-1] if values else None


def print_json(value: Any) -> None:
    """One JSON value on standard output, for machines."""
    json_module.dump(finite(value), sys.stdout, indent=1, default=str, allow_nan=False)
    sys.stdout.write("\n")


def percent(value: float | None) -> str:
    """A score as papers print it, in percent."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"


Metrics = Callable[[str], Mapping[str, Any]]
"""What is known of a metric by its name, see `slotworks.tables.metric`."""


def score(name: str, value: float | None, about: Metrics = metric) -> str:
    """A share in percent, another unit as it is."""
    if about(name)["unit"] != "share" and value is not None and value == value:
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
    return percent(value)


def units(records: Sequence[dict], about: Metrics = metric) -> str:
    """What stands beside a table of scores."""
    names = {name for record in records for name in record["metrics"]}
    plain = sorted(name for name in names if about(name)["unit"] != "share")
    unit = f"percent ({', '.join(plain)} as they are)" if plain else "percent"
    return f"{unit}, mean ± standard error"


def protocol_tables(title: str, records: Sequence[dict], about: Metrics = metric) -> list[Table]:
    """Records of one run on one data set under one or several protocols, mean and standard error in percent.

    Protocols that share metrics make a table: a row for each, and a last line with the spread of what they can be
    compared in. Metrics that a single protocol prints follow one below the other.

    Args:
        title: printed above.
        records: as `slotworks.evaluation.records` describes them.
        about: what is known of a metric.
    """
    tables, lonely = [], []
    for group in _grouped(records):
        names = list(dict.fromkeys(name for record in group for name in record["metrics"]))
        shared = [name for name in names if sum(name in record["metrics"] for record in group) > 1]
        if len(group) == 1 and len(names) <= 5:
            shared = names
        lonely += [(record, name) for record in group for name in record["metrics"] if name not in shared]
        if not shared:
            continue
        table = Table(title=title, title_justify="left")
        table.add_column("protocol", no_wrap=True)
        for name in shared:
            table.add_column(name, justify="right")
        for record in group:
            cells = (_cell(name, record["metrics"].get(name), about) for name in shared)
            table.add_row(escape(record["protocol"]), *cells)
        if len(group) > 1:
            table.add_section()
            table.add_row("spread", *(score(name, spread_of(name, group), about) for name in shared))
        tables.append(table)
    if lonely:
        table = Table(title=None if tables else title, title_justify="left")
        table.add_column("protocol", no_wrap=True)
        table.add_column("metric")
        table.add_column("", justify="right")
        before = None
        for record, name in lonely:
            row = escape(record["protocol"]) if record is not before else ""
            table.add_row(row, name, _cell(name, record["metrics"][name], about))
            before = record
        tables.append(table)
    return tables


def _grouped(records: Sequence[dict]) -> list[list[dict]]:
    """Records that share a metric with the first of a group together."""
    groups: list[list[dict]] = []
    for record in records:
        sharing = (group for group in groups if record["metrics"].keys() & group[0]["metrics"])
        group = next(sharing, None)
        if group is None:
            groups.append(group := [])
        group.append(record)
    return groups


def spread_of(name: str, records: Sequence[dict]) -> float | None:
    """Largest minus smallest mean of a metric over the protocols that print it; None if that is one or none."""
    means = [record["metrics"][name]["mean"] for record in records if name in record["metrics"]]
    means = [mean for mean in means if mean is not None and mean == mean]
    return max(means) - min(means) if len(means) > 1 else None


def matrix_tables(records: Sequence[dict], about: Metrics = metric) -> list[Table]:
    """Records of several runs on several data sets: per protocol a table, per metric a block of runs x data sets.

    Data sets of one name are told apart by a number: `clevr`, `clevr (2)`.
    """
    tables = []
    for protocol in dict.fromkeys(record["protocol"] for record in records):
        found = [record for record in records if record["protocol"] == protocol]
        cells: dict[tuple[str, str], dict] = {}
        for record in found:
            names = itertools.chain([record["data"]], (f"{record['data']} ({n})" for n in itertools.count(2)))
            cells[record["run"], next(name for name in names if (record["run"], name) not in cells)] = record["metrics"]
        runs, sets = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
        table = Table(title=escape(f"{protocol}: {units(found, about)}"), title_justify="left")
        for column in ("metric", "run"):
            table.add_column(column)
        for name in sets:
            table.add_column(escape(name), justify="right")
        shown = short_names(runs)
        for name in dict.fromkeys(name for record in found for name in record["metrics"]):
            for i, run in enumerate(runs):
                row = (_cell(name, cells.get((run, data), {}).get(name), about) for data in sets)
                table.add_row("" if i else name, escape(shown[run]), *row)
            table.add_section()
        tables.append(table)
    return tables


def short_names(folders: Sequence[str]) -> dict[str, str]:
    """What `run_name` says of each where that tells them apart, else the whole path."""
    from slotworks.reports.labels import run_name

    last = [run_name(folder) for folder in folders]
    unique = len(set(last)) == len(last)
    return {folder: name if unique else folder for folder, name in zip(folders, last, strict=True)}


def _cell(name: str, value: dict | None, about: Metrics) -> str:
    if value is None:
        return ""
    sem = score(name, value["sem"], about)
    return score(name, value["mean"], about) + ("" if sem == "-" else f" ± {sem}")


def show_page(page: Path, *, open: bool) -> None:
    """Show a page in a browser, if that is wanted and there is a screen."""
    has_display = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if open and has_display:
        webbrowser.open(page.resolve().as_uri())
