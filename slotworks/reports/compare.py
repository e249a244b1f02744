"""Runs side by side: mean and spread over seeds, and by how much each differs from the first, picture by picture.

Where all runs were scored on the same pictures, the difference of two is a mean of differences of single pictures,
which spread less than the scores do: some pictures are hard for everybody. Its interval is a paired bootstrap over the
pictures (Efron and Tibshirani 1993, percentile method) of the means over seeds. It says how far the difference would
move with other pictures, not with other seeds: that is the standard deviation over seeds, which stands beside it.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from slotworks.errors import UserError
from slotworks.files import finite
from slotworks.outputs import writing
from slotworks.reports import charts
from slotworks.reports.labels import label
from slotworks.reports.seeds import Entry, chosen, common_keys, in_words, number, over_seeds
from slotworks.tables import metric

RESAMPLES = 9_999
CONFIDENCE = 0.95
FILES = ("table.md", "table.tex", "table.json", "plot.png")
PLOTTED = 3  # metrics of the picture, at most
BATCH = 2**22  # numbers that are drawn at once


def compare(
    entries: Sequence[Entry],
    *,
    data: str | None = None,
    split: str | None = None,
    protocol: str | None = None,
    metrics: Sequence[str] = (),
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compare entries on everything that all their runs were evaluated on.

    Args:
        entries: the first is what the others are compared with; one alone needs several seeds, for their spread.
        data: only this data set; and so `split` and `protocol`.
        metrics: only these, by name; by default all that every entry has.
        confidence: of the intervals, in (0, 1).
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        A comparison for each data set, split and protocol: `data`, `split`, `protocol`, `rules`, `num_images`,
        `confidence`; `entries`, each with `name`, `folders`, `num_seeds` and `metrics` (`mean`, `std`, `seeds`);
        `differences` of each other entry from the first, with `name`, `to` and `metrics` (`difference`, `low`, `high`,
        `images`; None where the records hold no plain mean over images); and `notes`.

    Raises:
        UserError: if there is nothing that all were evaluated on, or not in the same way, or no such metric.
    """
    if sum(len(entry.folders) for entry in entries) < 2:
        raise UserError("One run was given; name two or more to compare, or a folder of several seeds.")
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence:g}; it must be between 0 and 1, for example 0.95.")
    wanted = (data, split, protocol)
    keys = [k for k in common_keys(entries) if all(w is None or w == part for w, part in zip(wanted, k, strict=True))]
    if not keys:
        raise UserError(_nothing_in_common(entries, wanted))
    made, reasons = [], []
    for key in keys:
        try:
            made.append(_compare(entries, chosen(entries, key), key, metrics, confidence, resamples, seed))
        except UserError as error:
            reasons.append(error)
    if not made:
        raise reasons[0]
    for one in made:  # what was left out, and why
        one["notes"] += [str(reason) for reason in reasons if one is made[-1]]
    return made


def _nothing_in_common(entries: Sequence[Entry], wanted: Sequence[str | None]) -> str:
    asked = " ".join(word for word in wanted if word)
    shown = []
    for entry in entries:
        had = list(dict.fromkeys(" ".join(key) for records in entry.records for key in records))
        shown.append(f"{entry.name} has {', '.join(had[:4]) or 'none'}")
    names = " ".join(entry.name for entry in entries)
    return (
        f"There is no evaluation{' of ' + asked if asked else ''} that all runs have: {'; '.join(shown)}. Measure them "
        f"together: `slotworks evaluate {names}`."
    )


def _compare(
    entries: Sequence[Entry],
    records: Sequence[Sequence[Mapping[str, Any]]],
    key: Sequence[str],
    metrics: Sequence[str],
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    found = [over_seeds(runs) for runs in records]
    names = [name for name in found[0] if all(name in one for one in found)]
    for name in metrics:
        if name not in names:
            raise UserError(f"There is no metric {name!r} that all runs have; there are {', '.join(names)}.")
    names = list(metrics) or names
    notes: list[str] = []
    apart = []
    for entry, runs, means in zip(entries[1:], records[1:], found[1:], strict=True):
        values = {}
        for name in names:
            difference = means[name]["mean"] - found[0][name]["mean"]
            values[name] = {"difference": difference, "low": None, "high": None, "images": None}
            first, other = per_image(records[0], name), per_image(runs, name)
            if first is None or other is None:
                notes.append(f"{label(name)} has no interval: its records hold no plain mean over images.")
                continue
            if len(first) != len(other):
                notes.append(f"{label(name)} has no interval: its records hold {len(first)} and {len(other)} images.")
                continue
            both = ~(np.isnan(first) | np.isnan(other))
            low, high = paired_bootstrap(
                first[both], other[both], confidence=confidence, resamples=resamples, seed=seed
            )
            values[name] |= {"low": low, "high": high, "images": int(both.sum())}
        apart.append({"name": entry.name, "to": entries[0].name, "metrics": values})
    shown = zip(entries, found, strict=True)
    return {
        **dict(zip(("data", "split", "protocol"), key, strict=True)),
        "rules": records[0][0]["rules"],
        "num_images": records[0][0]["num_images"],
        "confidence": confidence,
        "entries": [
            {
                "name": entry.name,
                "folders": [str(folder) for folder in entry.folders],
                "num_seeds": len(entry.folders),
                "metrics": {name: one[name] for name in names},
            }
            for entry, one in shown
        ],
        "differences": apart,
        "notes": list(dict.fromkeys(notes)),
    }


def per_image(records: Sequence[Mapping[str, Any]], name: str) -> Float64[np.ndarray, " i"] | None:
    """The score of each picture, the mean over seeds; NaN where it does not count.

    None if the records hold none, or their means are not plain means of them, as under rules that weigh by objects.
    """
    rows = []
    for record in records:
        listed = (record.get("per_image") or {}).get(name)
        if not isinstance(listed, list) or not listed:
            return None
        values = np.array([np.nan if value is None else value for value in listed], dtype=np.float64)
        known = values[~np.isnan(values)]
        if not len(known) or abs(known.mean() - record["metrics"][name]["mean"]) > 1e-9 * max(1, abs(known).max()):
            return None
        rows.append(values)
    return np.mean(rows, axis=0) if len({len(row) for row in rows}) == 1 else None


def paired_bootstrap(
    first: Float64[np.ndarray, " i"],
    other: Float64[np.ndarray, " i"],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | tuple[None, None]:
    """The percentile interval of the mean of `other - first` when pictures are drawn again with replacement.

    Args:
        first: a score for each picture, without NaN; `other` those of the same pictures.
        confidence: share of the resampled means between both ends.
        resamples: how often.
        seed: of what is drawn.

    Returns:
        Both ends; None for fewer than two pictures.
    """
    from scipy.stats import bootstrap

    apart = other - first
    if len(apart) < 2:
        return None, None
    found = bootstrap(
        (apart,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, BATCH // len(apart)),
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),  # pyright: ignore[reportCallIssue]  (`rng` from scipy 1.15 on)
    ).confidence_interval
    return float(found.low), float(found.high)


# The tables: cells are text once, and then set in three ways.


def cells(
    comparison: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """The head of a comparison's tables, the rows of its entries and those of their differences from the first."""
    metrics = list(comparison["entries"][0]["metrics"])
    head = ["", "seeds", *map(label, metrics)]
    rows = [
        [names[one["name"]], str(one["num_seeds"]), *(in_words(name, one["metrics"][name]) for name in metrics)]
        for one in comparison["entries"]
    ]
    apart = [
        [f"{names[one['name']]} - {names[one['to']]}", "", *(_interval(n, one["metrics"][n]) for n in metrics)]
        for one in comparison["differences"]
    ]
    return head, rows, apart


def _interval(name: str, value: Mapping[str, Any]) -> str:
    signed = number(name, value["difference"])
    signed = signed if signed.startswith("-") else f"+{signed}"
    if value["low"] is None:
        return signed
    return f"{signed} [{number(name, value['low'])}, {number(name, value['high'])}]"


def about(comparison: Mapping[str, Any]) -> str:
    """What stands above a table."""
    split, images = comparison["split"], comparison["num_images"]
    return f"{comparison['data']}, {split} split, {images} images, {comparison['protocol']}"


def legend(comparison: Mapping[str, Any]) -> str:
    """What the numbers of a table are."""
    plain = [label(n) for n in comparison["entries"][0]["metrics"] if metric(n)["unit"] != "share"]
    unit = f"Percent ({', '.join(plain)} as they are)" if plain else "Percent"
    said = f"{unit}; mean ± standard deviation over seeds."
    if not comparison["differences"]:
        return said
    level = f"{100 * comparison['confidence']:g} %"
    return f"{said} Differences with their {level} interval, a paired bootstrap over images."


def as_markdown(comparisons: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """A table for each comparison."""
    text = io.StringIO()
    for one in comparisons:
        head, rows, apart = cells(one, names)
        text.write(f"## {about(one)}\n\n{legend(one)}\n\n")
        for row in (head, ["---"] * len(head), *rows, *apart):
            text.write(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n")
        text.write(f"\n{one['rules']}\n\n")
        text.writelines(f"{note}\n\n" for note in one["notes"])
    return text.getvalue().rstrip("\n") + "\n"


def as_latex(comparisons: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """A `tabular` for each comparison, for the package booktabs; bold: the best mean."""
    text = io.StringIO()
    for one in comparisons:
        head, rows, apart = cells(one, names)
        for column, name in enumerate(one["entries"][0]["metrics"], 2):
            means = [entry["metrics"][name]["mean"] for entry in one["entries"]]
            best = {"higher": max(means), "lower": min(means)}.get(metric(name)["better"])
            alone = len(means) > 1 and means.count(best) == 1
            for row, mean in zip(rows, means, strict=True):
                row[column] = _tex(row[column])
                row[column] = rf"\textbf{{{row[column]}}}" if alone and mean == best else row[column]
        rows = [[_tex(row[0]), row[1], *row[2:]] for row in rows]
        text.write(f"% {about(one)}. {legend(one)}\n")
        text.write(rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}" + "\n\\toprule\n")
        text.write(" & ".join(map(_tex, head)) + " \\\\\n\\midrule\n")
        text.writelines(" & ".join(row) + " \\\\\n" for row in rows)
        if apart:
            text.write("\\midrule\n")
            text.writelines(" & ".join(map(_tex, row)) + " \\\\\n" for row in apart)
        text.write("\\bottomrule\n\\end{tabular}\n\n")
    return text.getvalue().rstrip("\n") + "\n"


def _tex(text: str) -> str:
    text = re.sub(r"([#$%&_{}])", r"\\\1", text.replace("\\", "/"))
    text = text.replace("±", r"$\pm$").replace("^", r"\textasciicircum{}").replace("~", r"\textasciitilde{}")
    return re.sub(r"(?<![\w.)])([+-])(?=\d)", r"$\1$", text)


def picture(comparisons: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Any:
    """Bars of means with the spread over seeds and a dot for each; a line marks the first entry. Shares only.

    Returns:
        The figure; None if no metric is a share.
    """
    shares = [n for one in comparisons for n in one["entries"][0]["metrics"] if metric(n)["unit"] == "share"]
    rows = [
        {
            "group": about(one),
            "variant": names[entry["name"]],
            "diverged": 0,
            "failed": [],
            "metrics": {n: value | {"std": value["std"] or 0.0} for n, value in entry["metrics"].items()},
        }
        for one in comparisons
        for entry in one["entries"]
    ]
    return charts.bars(rows, list(dict.fromkeys(shares))[:PLOTTED], "Comparison") if shares else None


def write_comparison(comparisons: Sequence[Mapping[str, Any]], folder: Path, names: Mapping[str, str]) -> list[Path]:
    """Write `table.md`, `table.tex`, `table.json` and `plot.png`.

    Args:
        comparisons: from `compare`.
        folder: made if it is missing.
        names: what each entry is called in tables.

    Returns:
        The files.

    Raises:
        UserError: if somebody else's file has one of these names, or the disk refuses.
    """
    drawn = picture(comparisons, names)
    with writing(folder, doing="writing a table") as outputs:
        outputs.write_text(FILES[0], as_markdown(comparisons, names))
        outputs.write_text(FILES[1], as_latex(comparisons, names))
        outputs.write_text(FILES[2], json.dumps(finite(comparisons), indent=1, ensure_ascii=False) + "\n")
        if drawn is not None:
            with outputs.replacing(FILES[3]) as beside:
                charts.save(drawn, beside)
    return [folder / name for name in (FILES if drawn is not None else FILES[:3])]
