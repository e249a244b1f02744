"""What every verb shares: parsing with help and examples, tables, JSON."""

import json as json_module
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slotworks.files import finite

T = TypeVar("T")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def parse(function: Callable[..., T], argv: Sequence[str], *, verb: str) -> T:
    """Call `function` with options from the command line; its docstring is the help. A wrong option exits with 2."""
    return tyro.cli(function, args=list(argv), prog=f"slotworks {verb}", config=(tyro.conf.FlagCreatePairsOff,))


def print_json(value: Any) -> None:
    """One JSON value on standard output, for machines."""
    json_module.dump(finite(value), sys.stdout, indent=1, default=str, allow_nan=False)
    sys.stdout.write("\n")


def percent(value: float | None) -> str:
    """A score as papers print it, in percent."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def scores_table(title: str, records: Sequence[dict]) -> Table:
    """Evaluation records as a table: a row for each protocol, mean and standard error in percent."""
    table = Table(title=title, title_justify="left")
    table.add_column("protocol")
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("images", justify="right")
    for record in records:
        cells = []
        for name in names:
            metric = record["metrics"].get(name)
            cells.append("" if metric is None else f"{percent(metric['mean'])} ± {percent(metric['sem'])}")
        table.add_row(escape(record["protocol"]), *cells, str(record["num_images"]))
    return table
