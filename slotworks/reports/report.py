"""A run folder to one HTML page that can be mailed: pictures inside, nothing loaded from anywhere, no script.

What comes first is short: a number, the verdict, twelve pictures, a curve. All else is folded, and open in print.

    write_report("runs/mine")                       # runs/mine/report.html

Only files are read (`run.yaml`, `env.json`, `metrics.jsonl`, `samples/`, `eval/`), so a page can be written without the
method, its weights or torch. Every file may be missing or damaged, as after a run that was killed: what is there is
shown, and what could not be read is said at the end of the page.
"""

import base64
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slotworks.errors import UserError
from slotworks.files import write_text
from slotworks.json_text import read_json
from slotworks.reports.charts import Chart, as_svg, can_draw, chart, finite_number, number
from slotworks.reports.labels import FINDINGS, data_name, label, method_name, run_name
from slotworks.reports.lengths import length_charts, lines_of, series_by_length
from slotworks.tables import learn, metric
from slotworks.yaml_text import read_yaml

FIRST = {"input": "input", "overlay": "its slots"}
WHOLE = {"truth": "true masks", "segmentation": "predicted", "recon": "rendered", "sample": "from its slots"}
MARK = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # in every page that was written here
MAX_PICTURE = 4_000_000  # bytes; a larger picture is left out, since mail programs refuse pages of 25 MB
MAX_PICTURES = 1_700_000  # bytes of all pictures, a third more in the page; with charts it stays below 3 MB
MAX_SHEETS = 6  # earlier samples shown
SHOWN = 6  # samples that are not folded, from the worst to the best: input and slots of each
OF_THE_DOCTOR = re.compile(r"doctor(-\w+-\d+-images-step-\d+[\w.-]*)?\.json")  # no scores; `doctor.json` is shown
WORST = 8  # images named as the worst of an evaluation


def write_report(run_folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` in a run folder and return its path.

    Raises:
        UserError: if the folder does not exist, holds a `report.html` of somebody else, or the disk refuses.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of a run, such as runs/mine.")
    page = folder / "report.html"
    if page.exists() and MARK not in page.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{page} is there and was not written by this program; move it away.")
    import jinja2  # imported here: commands that write no page go without

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("report.html.j2").render(_content(folder))
    return write_text(page, text)


@dataclass
class Notes:
    """What could not be read, for the end of the page, and how many bytes of pictures it may still take."""

    lines: list[str] = field(default_factory=list)
    left: int = MAX_PICTURES
    too_many: int = 0  # pictures that found no room


def _content(folder: Path) -> dict[str, Any]:
    """All that the template shows."""
    notes = Notes()
    settings = _mapping(_read(folder / "run.yaml", read_yaml, notes))
    env = _mapping(_read(folder / "env.json", read_json, notes))
    rows = _rows(folder / "metrics.jsonl", notes)
    doctor = _mapping(_read(folder / "eval" / "doctor.json", read_json, notes))
    evals = sorted(path for path in folder.glob("eval/*.json") if not OF_THE_DOCTOR.fullmatch(path.name))
    read = [(path, record) for path in evals if (record := _mapping(_read(path, read_json, notes)))]
    for _, record in read:
        learn(record.get("about"))
    lengths = series_by_length([record for _, record in read])
    drawn = {(place, line) for place, metrics in lengths.items() for lines in metrics.values() for line in lines}
    places = lines_of([record for _, record in read])  # what a chart shows needs no place in a table
    kept = [one for one, place in zip(read, places, strict=True) if place is None or place[:2] not in drawn]
    evaluations = [_evaluation(path, record) for path, record in kept]
    samples = _samples(folder, notes)
    gallery, sheets = _gallery(folder, notes), _sheets(folder, notes)
    for row in samples["rows"] if samples else []:  # they come last, so they are the first for which there is no room
        row["attn_steps"] = [[_picture(folder / "samples", name, notes) for name in step] for step in row["attn_steps"]]
    charts = _charts(rows)
    if not can_draw():
        charts, lengths = {}, {}
        notes.lines.append("Charts are drawn by matplotlib, which was missing: pip install matplotlib.")
    if notes.too_many:
        notes.lines.append(
            f"{notes.too_many} pictures were left out, so that the page stays below 3 MB; they lie in the run folder."
        )
    return {
        "name": run_name(folder),
        "facts": _facts(settings, rows),
        "headline": _headline(evaluations, settings),
        "verdict": str(doctor.get("verdict", "")),
        "examined": doctor.get("step"),
        "findings": [
            {key: str(_mapping(finding).get(key) or "") for key in ("name", "severity", "evidence", "fix")}
            for finding in _list(doctor.get("findings"))
        ],
        "meanings": FINDINGS,
        "tables": _tables(evaluations),
        "lengths": length_charts(lengths),
        "samples": samples,
        "shown": {round(i * (len(samples["rows"]) - 1) / (SHOWN - 1)) for i in range(SHOWN)} if samples else set(),
        "sheets": sheets,
        "gallery": gallery,
        "curves": [one for group in ("loss", "eval") for one in charts.get(group, [])[:1]],
        "charts": charts,
        "settings": dict(_flat(settings)),
        "env": dict(_flat(env)),
        "notes": notes.lines,
        "first": FIRST,
        "captions": WHOLE,
        "svg": as_svg,
        "label": label,
        "score": _score,
    }


# Reading: whatever cannot be read becomes a note.


def _read(path: Path, parse: Any, notes: Notes) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notes.lines.append(f"{path.name} could not be read and was left out: {str(error).splitlines()[0]}.")
        return None


def _rows(path: Path, notes: Notes) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` that can be read and have a step."""
    text = _read(path, str, notes) or ""
    rows, broken = [], []
    for i, line in enumerate(text.splitlines(), start=1):
        try:
            row = _mapping(read_json(line))
        except ValueError:
            row = {}
        step = finite_number(row.get("step"))
        if step is None:
            broken.append(i)
        else:
            rows.append(row | {"step": step})
    if broken:
        which = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        notes.lines.append(
            f"{path.name}: {len(broken)} of {len(rows) + len(broken)} lines were left out (line {which})."
        )
    return rows


def _picture(below: Path, name: Any, notes: Notes) -> str | None:
    """A PNG below a folder as a data URI; None, with a note, for anything else."""
    try:
        path = (below / str(name)).resolve()
        if not path.is_relative_to(below.resolve()):  # a folder from elsewhere may not show other files of this machine
            raise ValueError("it lies outside the run folder")
        content = path.read_bytes()
        if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) > MAX_PICTURE:
            raise ValueError("it is no PNG, or too large")
        if len(content) > notes.left:
            notes.too_many += 1
            return None
    except (OSError, ValueError, RuntimeError) as error:  # no name of a file; links that lead to themselves
        notes.lines.append(f"{below.name}/{name} is not shown: {getattr(error, 'strerror', None) or error}.")
        return None
    notes.left -= len(content)
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings by dotted name."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# Arranging.


def _facts(settings: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The line below the title."""
    named = {"method": method_name, "data": data_name}
    facts = [(part, name(of)) for part, name in named.items() if (of := _mapping(settings.get(part))).get("kind")]
    if rows:
        of = f" of {settings['steps']:,}" if isinstance(settings.get("steps"), int) else ""
        facts.append(("steps", f"{rows[-1]['step']:,.0f}{of}"))
        if (seconds := finite_number(rows[-1].get("time"))) is not None:
            hours, minutes = divmod(round(seconds / 60), 60)
            facts.append(
                ("time", f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s")
            )
    return facts + [(name, str(settings[name])) for name in ("seed", "precision") if settings.get(name) is not None]


def _score(name: str, value: float | None) -> str:
    """A share in percent, 86.1; others as they are, 24.31 or 1234."""
    if value is None:
        return "n/a"
    return f"{100 * value:.1f}" if metric(name)["unit"] == "share" else number(value)


def _evaluation(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """One file of `eval/`: each metric, how its images spread and which are the worst."""
    protocol, count = record.get("protocol"), finite_number(record.get("num_images"))
    metrics = {}
    for name, value in _mapping(record.get("metrics")).items():
        rules = protocol.get(name) if isinstance(protocol, Mapping) else protocol
        mean, sem, n = (finite_number(_mapping(value).get(key)) for key in ("mean", "sem", "n"))
        spread = "" if sem is None or mean is None else _spread(name, mean, sem)
        known = {"value": _score(name, mean), "mean": mean, "spread": spread, "n": n if n != count else None}
        metrics.setdefault(str(rules or "rules not stated"), {})[str(name)] = known
    name, values = next(iter(_mapping(record.get("per_image")).items()), ("", []))
    scored = [(score, i) for i, value in enumerate(_list(values)) if (score := finite_number(value)) is not None]
    settings = _mapping(record.get("settings"))
    record = record | {key: settings[key] for key in ("step", "batch_size") if key in settings}
    images = [f"{record.get('data', path.stem)}", f"{record['split']} split" if record.get("split") else ""]
    images = ", ".join(filter(None, [*images, "" if count is None else f"{record['num_images']} images"]))
    how = [
        f"{key} {record[key]}" for key in ("checkpoint", "step", "seed", "batch_size") if record.get(key) is not None
    ]
    return {
        "file": path.stem,
        "way": path.stem.removeprefix(f"{record.get('data')}-{record.get('split')}-"),
        "images": images,
        "place": ", ".join([images, *how]).replace("batch_size", "batch size"),
        "split": record.get("split"),
        "worth": (finite_number(record.get("step")) or 0, count or 0),
        "rules": str(record.get("rules") or ""),
        "metrics": metrics,  # by the protocol that counts
        "spread_of": str(name),
        "bars": _histogram(str(name), [score for score, _ in scored]),
        "worst": sorted(scored, reverse=metric(str(name))["better"] == "lower")[:WORST],
    }


def _spread(name: str, mean: float, sem: float) -> str:
    """A standard error with the digits of its mean."""
    if metric(name)["unit"] == "share":
        return f"{100 * sem:.1f}"
    return f"{sem:.3f}" if abs(mean) < 10 else f"{sem:.2g}"


def _headline(evaluations: list[dict[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The number to know: the first metric by the rules of the run, on the split that chose nothing.

    Of several that of the last weights, of these that of the most images, and of these the newest.
    """
    found = [
        (protocol == settings.get("protocol"), one["split"] == "test", *one["worth"], -k, one, protocol)
        for k, one in enumerate(evaluations)
        for protocol, values in one["metrics"].items()
        if any(value["mean"] is not None for value in values.values())
    ]
    if not found:
        return None
    *_, one, protocol = max(found, key=lambda rank: rank[:5])
    name, value = next((name, value) for name, value in one["metrics"][protocol].items() if value["mean"] is not None)
    unit = {"share": " %", "dB": " dB"}.get(metric(name)["unit"], "")
    return value | {
        "name": name,
        "unit": unit,
        "place": one["images"],
        "protocol": protocol,
        "about": metric(name)["about"],
    }


def _tables(evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluations of the same images that have metrics in common, side by side: protocols along the shorter side."""
    groups: list[dict[str, Any]] = []
    for one in evaluations:
        names = {name for values in one["metrics"].values() for name in values}
        for group in groups:
            if group["place"] == one["place"] and (group["names"] & names or not names):
                group["names"] |= names
                group["of"].append(one)
                break
        else:
            groups.append({"place": one["place"], "names": names, "of": [one]})
    tables = []
    for group in groups:
        columns = [(protocol, one) for one in group["of"] for protocol in one["metrics"]]
        protocols = [protocol for protocol, _ in columns]
        heads = [protocol if protocols.count(protocol) == 1 else one["way"] for protocol, one in columns]
        names = list(dict.fromkeys(name for protocol, one in columns for name in one["metrics"][protocol]))
        cells = [[one["metrics"][protocol].get(name) for protocol, one in columns] for name in names]
        across = len(columns) > max(len(names), 4)
        if across:
            cells = [list(row) for row in zip(*cells, strict=True)]
        abouts = {name: metric(name)["about"] for name in names}
        table = {"place": group["place"], "protocols": heads, "metrics": names, "cells": cells, "across": across}
        tables.append(table | {"abouts": abouts, "of": group["of"]})
    return tables


def _histogram(name: str, values: list[float], bins: int = 20) -> dict[str, Any] | None:
    """Bars of equal width: their heights relative to the highest, and the range. From 0 to 1 where values allow it."""
    if len(values) < 2:
        return None
    low, high = min(*values, 0.0), max(*values, 1.0)
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / (high - low) * bins), bins - 1)] += 1
    edges = [_score(name, low + (high - low) * i / bins) for i in range(bins + 1)]
    bars = [(count / max(counts), f"{edges[i]} to {edges[i + 1]}: {count}") for i, count in enumerate(counts)]
    return {"bars": bars, "low": edges[0], "high": edges[-1]}


def _samples(folder: Path, notes: Notes) -> dict[str, Any] | None:
    """Rows of `samples/index.json` with their pictures, worst first."""
    index = _mapping(_read(folder / "samples" / "index.json", read_json, notes))
    rows = [_mapping(row) for row in _list(index.get("rows"))]
    if not rows:
        return None

    def pictures(names: Any) -> list[str | None]:
        return [_picture(folder / "samples", name, notes) for name in _list(names)]

    shown = [
        {
            "index": row.get("index", "?"),
            "film": (finite_number(row.get("frames")) or 1) > 1,
            "first": {key: pictures([row[key]])[0] for key in FIRST if row.get(key)},
            "scores": {str(name): finite_number(value) for name, value in _mapping(row.get("scores")).items()},
            "attn_steps": [_list(step) for step in _list(row.get("attn_steps"))],
        }
        for row in rows
    ]
    for one, row in zip(shown, rows, strict=True):  # after those that come first, which are to find room first
        one["whole"] = {key: pictures([row[key]])[0] for key in WHOLE if row.get(key)}
        parts, masks = pictures(row.get("parts")), pictures(row.get("masks"))
        named = [str(color) for color in _list(row.get("colors"))]
        colors = [color if re.fullmatch("#[0-9a-f]{6}", color) else "" for color in named]
        one["slots"] = list(itertools.zip_longest(parts, masks, colors[: max(len(parts), len(masks))]))
    names = [name for row in shown for name, value in row["scores"].items() if value is not None]
    first = "fg_ari" if "fg_ari" in names else next(iter(names), None)
    if first is not None:
        sign = -1 if metric(first)["better"] == "lower" else 1
        shown.sort(key=lambda row: sign * (math.inf if (v := row["scores"].get(first)) is None else v))
    generated = any("sample" in row["whole"] for row in shown)
    return {"step": finite_number(index.get("step")), "rows": shown, "sorted_by": first, "generated": generated}


def _sheets(folder: Path, notes: Notes) -> list[tuple[str, str]]:
    """Contact sheets of earlier steps, first to last, evenly chosen: (step, data URI)."""
    paths = sorted(folder.glob("samples/step_*.png"))
    if len(paths) > MAX_SHEETS:
        paths = [paths[round(i * (len(paths) - 1) / (MAX_SHEETS - 1))] for i in range(MAX_SHEETS)]
    read = [
        (path.stem.removeprefix("step_").lstrip("0") or "0", _picture(path.parent, path.name, notes)) for path in paths
    ]
    return [(step, picture) for step, picture in read if picture is not None]


def _gallery(folder: Path, notes: Notes) -> list[tuple[str, str]]:
    """Contact sheets in `pictures/`, of edits or generated images, by name."""
    names = sorted(path.name for path in folder.glob("pictures/*sheet.png"))
    found = [(name.removesuffix(".png"), _picture(folder / "pictures", name, notes)) for name in names]
    return [(name.replace("_", " "), source) for name, source in found if source]


def _charts(rows: list[dict[str, Any]]) -> dict[str, list[Chart]]:
    """Charts by group: all loss terms in one on a logarithmic axis, one chart for each other number, by prefix."""
    series: dict[str, list[tuple[float, float | None]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "time", "eval/images") and (value is None or isinstance(value, int | float)):
                series.setdefault(name, []).append((row["step"], finite_number(value)))
    losses = {name: points for name, points in series.items() if name == "total" or name.startswith("loss/")}
    if len(losses) == 2 and series.get("total") in [points for name, points in losses.items() if name != "total"]:
        del losses["total"]  # the only term, under another name
    groups: dict[str, list[Chart | None]] = {"loss": [chart("loss", losses, log=True)]} if losses else {}
    order = list(series)
    rest = set(series) - set(losses) - {"total"}
    for name in sorted(rest, key=lambda name: ("/" not in name, not name.startswith("eval/"), order.index(name))):
        prefix, _, short = name.rpartition("/")
        title = label(short) if prefix == "eval" else short.replace("_", " ")
        scale = 100 if prefix == "eval" and metric(short)["unit"] == "share" else 1
        points = [(step, None if value is None else scale * value) for step, value in series[name]]
        groups.setdefault(prefix or "optimiser", []).append(chart(title, {name: points}))
    return {group: kept for group, charts in groups.items() if (kept := [one for one in charts if one is not None])}
