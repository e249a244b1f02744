"""A sweep as one table (CSV and Markdown) and one plot: bars of means, a whisker of the spread, a dot for each seed."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from slotworks.errors import UserError
from slotworks.outputs import writing

INK, FAINT, BAR, REFERENCE = "#1e1e24", "#d9d9de", "#7fa7d6", "#c9cdd4"
LINE, PANEL, GAP, MARGIN = 24, 300, 40, 16  # pixels
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
            plot(rows, list(plotted or names[:PLOTTED]), title).save(beside, format="PNG", optimize=True)
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


def plot(rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: str) -> Image.Image:
    """One panel for each metric, side by side; one bar for each variant, groups apart.

    The first variant of each group is grey, and a line across the group marks it. Axes go from 0 to 1, or as far as
    values go.
    """
    font, bold = ImageFont.load_default(14), ImageFont.load_default(17)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    labels = [_lines(rows, i) for i in range(len(rows))]
    texts = [text for group, variant in labels for text in (group, variant) if text]
    left = MARGIN + round(max((measure.textlength(text, font) for text in texts), default=0)) + GAP // 2
    top = MARGIN + 2 * LINE + LINE // 2
    places, y = [], top
    for group, _ in labels:
        y += LINE + LINE // 3 if group else 0
        places.append(y)
        y += LINE
    width, height = left + len(names) * (PANEL + GAP), y + LINE + MARGIN
    sheet = Image.new("RGB", (max(width, left + PANEL), height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, bold)
    for (group, variant), row_y in zip(labels, places, strict=True):
        if group:
            draw.text((MARGIN, row_y - LINE), group, INK, font)
        draw.text((MARGIN + 12, row_y + 3), variant, INK, font)
    for column, name in enumerate(names):
        _panel(draw, rows, places, name, left + column * (PANEL + GAP), top, y, font)
    return sheet


def _lines(rows: Sequence[Mapping[str, Any]], i: int) -> tuple[str, str]:
    first = i == 0 or rows[i - 1]["group"] != rows[i]["group"]
    return (rows[i]["group"].replace("_", " ") if first else ""), rows[i]["variant"]


def _panel(draw: Any, rows: Any, places: Sequence[int], name: str, x: int, top: int, bottom: int, font: Any) -> None:
    values = [value for row in rows for value in row["metrics"].get(name, {}).get("seeds", ()) if value == value]
    low, high = min([0.0, *values]), max([1.0, *values])

    def across(value: float) -> float:
        return x + PANEL * (value - low) / (high - low)

    draw.text((x, top - LINE), name, INK, font)
    for tick in range(6):
        value = low + (high - low) * tick / 5
        draw.line([(across(value), top), (across(value), bottom)], FAINT)
        draw.text((across(value), bottom + 4), f"{100 * value:.0f}", INK, font, anchor="ma")
    reference, group = None, None
    for row, y in zip(rows, places, strict=True):
        metric = row["metrics"].get(name)
        first = row["group"] != group
        group = row["group"]
        if metric is None:
            draw.text((x + 4, y + 3), "failed" if row["failed"] else "diverged" if row["diverged"] else "", INK, font)
            reference = None if first else reference
            continue
        if first:
            reference = metric["mean"]
        color = REFERENCE if first and row["group"] else BAR
        start, end = sorted((across(0.0), across(metric["mean"])))  # a mean may lie below 0
        draw.rectangle([start, y + 5, end, y + LINE - 5], color)
        middle = y + LINE / 2
        spread = [across(min(max(metric["mean"] + sign * metric["std"], low), high)) for sign in (-1, 1)]
        draw.line([(spread[0], middle), (spread[1], middle)], INK)
        for value in metric["seeds"]:
            draw.ellipse([across(value) - 2, middle - 2, across(value) + 2, middle + 2], INK)
        if reference is not None and row["group"] and not first:
            draw.line([(across(reference), y), (across(reference), y + LINE)], "#e64b46")
