"""A sweep as one table (CSV and Markdown) and one plot: bars of means, a whisker of the spread, a dot for each seed."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slotworks.errors import UserError
from slotworks.outputs import writing
from slotworks.reports import charts

FILES = ("table.csv", "table.md", "plot.png")
PLOTTED = 2  # metrics, where none are named


def write_sweep(
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    title: str,
    plotted: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write `table.csv`, `table.md` and `plot.png`.

    Args:
        rows: of `group`, `variant`, `settings`, `diverged` (how many seeds), `failed` (a sentence for each seed that
            did), `seconds` and `metrics`, which maps a name to `mean`, `std` and the values of all `seeds`.
        folder: made if it is missing.
        title: of the table and the plot.
        plotted: metrics of the plot; by default the first two.
        notes: sentences below the Markdown table.

    Returns:
        The three files.

    Raises:
        UserError: if a metric is named that no row has, somebody else's file has one of these names, or the disk
            refuses.
    """
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    for name in plotted or ():
        if name not in names:
            raise UserError(f"There is no metric {name!r} to plot; there are {', '.join(names)}.")
    with writing(folder, doing="writing a table") as outputs:
        outputs.write_text(FILES[0], as_csv(rows, names))
        outputs.write_text(FILES[1], as_markdown(rows, names, title, notes))
        with outputs.replacing(FILES[2]) as beside:
            charts.save(charts.bars(rows, list(plotted or names[:PLOTTED]), title), beside)
    return [folder / name for name in FILES]


def as_csv(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """One line for each variant; numbers as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}_{what}" for name in names for what in ("mean", "std", "seeds")]
    writer.writerow(["group", "variant", "settings", "seeds", "diverged", "failed", "seconds", *columns])
    for row in rows:
        values = []
        for name in names:
            metric = row["metrics"].get(name)
            each = " ".join(map(str, metric["seeds"])) if metric else ""
            values += [metric["mean"], metric["std"], each] if metric else ["", "", ""]
        counts = [_count(row), row["diverged"], len(row["failed"])]
        about = [row["group"], row["variant"], row["settings"], *counts, round(row["seconds"], 1)]
        writer.writerow([*about, *values])
    return text.getvalue()


def as_markdown(rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: str, notes: Sequence[str] = ()) -> str:
    """Scores in percent, mean and standard deviation over seeds; below them what failed and why, and the notes."""
    grouped = any(row["group"] for row in rows)
    head = [*(["ablation"] if grouped else []), "variant", *names, "seeds"]
    lines = [f"# {title}", "", "Percent, mean ± standard deviation over seeds.", ""]
    lines += ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    before = None
    for row in rows:
        cells = [] if not grouped else [row["group"] if row["group"] != before else ""]
        before = row["group"]
        seeds = f"{_count(row)}" + (f", {row['diverged']} diverged" if row["diverged"] else "")
        seeds += f", {len(row['failed'])} failed" if row["failed"] else ""
        cells += [row["variant"], *(_cell(row["metrics"].get(name)) for name in names), seeds]
        lines.append("| " + " | ".join(cells) + " |")
    for row in rows:
        named = ": ".join(filter(None, (row["group"], row["variant"])))
        lines += [line for reason in dict.fromkeys(row["failed"]) for line in ("", f"Failed: {named}. {reason}")]
    lines += [line for note in notes for line in ("", note)]
    return "\n".join(lines) + "\n"


def _count(row: Mapping[str, Any]) -> int:
    return max((len(metric["seeds"]) for metric in row["metrics"].values()), default=0)


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric["mean"] is None or metric["mean"] != metric["mean"]:
        return "-"
    spread = f" ± {100 * metric['std']:.1f}" if len(metric["seeds"]) > 1 else ""
    return f"{100 * metric['mean']:.1f}{spread}"
