"""A run folder to one HTML page that can be mailed: pictures inside, nothing loaded from anywhere, no script.

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
from pathlib import Path
from typing import Any

import jinja2

from slotworks.errors import UserError
from slotworks.files import write_text
from slotworks.json_text import read_json
from slotworks.reports.charts import Chart, as_svg, chart, finite_number, number
from slotworks.reports.labels import label
from slotworks.reports.lengths import length_charts, lines_of, series_by_length
from slotworks.tables import metric
from slotworks.yaml_text import read_yaml

WHOLE = {
    "input": "input",
    "truth": "true masks",
    "segmentation": "predicted",
    "recon": "rendered",
    "sample": "from its slots",
}
MARK = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # in every page that was written here
MAX_PICTURE = 4_000_000  # bytes; a larger picture is left out, since mail programs refuse pages of 25 MB
MAX_SHEETS = 6  # earlier samples shown
OF_THE_DOCTOR = re.compile(r"doctor(-\w+-\d+-images-step-\d+)?\.json")  # no scores; `doctor.json` is shown
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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("report.html.j2").render(_content(folder))
    return write_text(page, text)


def _content(folder: Path) -> dict[str, Any]:
    """All that the template shows."""
    notes: list[str] = []
    settings = _mapping(_read(folder / "run.yaml", read_yaml, notes))
    env = _mapping(_read(folder / "env.json", read_json, notes))
    rows = _rows(folder / "metrics.jsonl", notes)
    doctor = _mapping(_read(folder / "eval" / "doctor.json", read_json, notes))
    evals = sorted(path for path in folder.glob("eval/*.json") if not OF_THE_DOCTOR.fullmatch(path.name))
    read = [(path, record) for path in evals if (record := _mapping(_read(path, read_json, notes)))]
    lengths = series_by_length([record for _, record in read])
    drawn = {(place, line) for place, metrics in lengths.items() for lines in metrics.values() for line in lines}
    places = lines_of([record for _, record in read])  # what a chart shows needs no card of its own
    cards = [one for one, place in zip(read, places, strict=True) if place is None or place[:2] not in drawn]
    return {
        "name": folder.resolve().name,
        "facts": _facts(settings, rows),
        "verdict": str(doctor.get("verdict", "")),
        "examined": doctor.get("step"),
        "findings": [
            {key: str(_mapping(finding).get(key) or "") for key in ("name", "severity", "evidence", "fix")}
            for finding in _list(doctor.get("findings"))
        ],
        "evals": [_evaluation(path, record) for path, record in cards],
        "lengths": length_charts(lengths),
        "samples": _samples(folder, notes),
        "sheets": _sheets(folder, notes),
        "gallery": _gallery(folder, notes),
        "charts": _charts(rows),
        "settings": dict(_flat(settings)),
        "env": dict(_flat(env)),
        "notes": notes,
        "captions": WHOLE,
        "svg": as_svg,
        "label": label,
        "score": _score,
    }


# Reading: whatever cannot be read becomes a note.


def _read(path: Path, parse: Any, notes: list[str]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} could not be read and was left out: {str(error).splitlines()[0]}.")
        return None


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
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
        notes.append(f"{path.name}: {len(broken)} of {len(rows) + len(broken)} lines were left out (line {which}).")
    return rows


def _picture(below: Path, name: Any, notes: list[str]) -> str | None:
    """A PNG below a folder as a data URI; None, with a note, for anything else."""
    try:
        path = (below / str(name)).resolve()
        if not path.is_relative_to(below.resolve()):  # a folder from elsewhere may not show other files of this machine
            raise ValueError("it lies outside the run folder")
        content = path.read_bytes()
        if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) > MAX_PICTURE:
            raise ValueError("it is no PNG, or too large")
    except (OSError, ValueError, RuntimeError) as error:  # no name of a file; links that lead to themselves
        notes.append(f"{below.name}/{name} is not shown: {getattr(error, 'strerror', None) or error}.")
        return None
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
    kinds = [(part, _mapping(settings.get(part)).get("kind")) for part in ("method", "data")]
    facts = [(part, str(kind).removesuffix("Config")) for part, kind in kinds if kind]
    if rows:
        of = f" of {settings['steps']:,}" if isinstance(settings.get("steps"), int) else ""
        facts.append(("steps", f"{rows[-1]['step']:,.0f}{of}"))
        if (seconds := finite_number(rows[-1].get("time"))) is not None:
            hours, minutes = divmod(round(seconds / 60), 60)
            facts.append(
                ("time", f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s")
            )
    return facts + [(name, str(settings[name])) for name in ("seed", "precision") if settings.get(name) is not None]


def _score(value: float | None) -> str:
    """0.861, 24.31, 1234: three decimals for what lies near [0, 1]."""
    return "n/a" if value is None else f"{value:.3f}" if abs(value) < 10 else number(value)


def _evaluation(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """One file of `eval/`: each metric with its protocol, how its images spread and which are the worst."""
    protocol = record.get("protocol")
    metrics = []
    for name, value in _mapping(record.get("metrics")).items():
        rules = protocol.get(name) if isinstance(protocol, Mapping) else protocol
        mean, sem, n = (finite_number(_mapping(value).get(key)) for key in ("mean", "sem", "n"))
        spread = "" if sem is None or mean is None else _score(sem) if abs(mean) < 10 else f"{sem:.2g}"
        metrics.append({"name": name, "mean": mean, "spread": spread, "n": n, "protocol": str(rules or "not stated")})
    name, values = next(iter(_mapping(record.get("per_image")).items()), ("", []))
    scored = [(score, i) for i, value in enumerate(_list(values)) if (score := finite_number(value)) is not None]
    settings = _mapping(record.get("settings"))
    record = record | {key: settings[key] for key in ("step", "batch_size") if key in settings}
    about = ("data", "split", "num_images", "checkpoint", "step", "seed", "batch_size")
    return {
        "title": path.stem,
        "about": [(key.replace("_", " "), str(record[key])) for key in about if record.get(key) is not None],
        "rules": str(record.get("rules") or ""),
        "metrics": metrics,
        "spread_of": name,
        "bars": _histogram([score for score, _ in scored]),
        "worst": sorted(scored, reverse=metric(name)["better"] == "lower")[:WORST],
    }


def _histogram(values: list[float], bins: int = 20) -> dict[str, Any] | None:
    """Bars of equal width: their heights relative to the highest, and the range. From 0 to 1 where values allow it."""
    if len(values) < 2:
        return None
    low, high = min(*values, 0.0), max(*values, 1.0)
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / (high - low) * bins), bins - 1)] += 1
    return {"heights": [count / max(counts) for count in counts], "low": number(low), "high": number(high)}


def _samples(folder: Path, notes: list[str]) -> dict[str, Any] | None:
    """Rows of `samples/index.json` with their pictures, worst first."""
    index = _mapping(_read(folder / "samples" / "index.json", read_json, notes))
    rows = [_mapping(row) for row in _list(index.get("rows"))]
    if not rows:
        return None

    def pictures(names: Any) -> list[str | None]:
        return [_picture(folder / "samples", name, notes) for name in _list(names)]

    shown = []
    for row in rows:
        parts, masks = pictures(row.get("parts")), pictures(row.get("masks"))
        named = [str(color) for color in _list(row.get("colors"))]
        colors = [color if re.fullmatch("#[0-9a-f]{6}", color) else "" for color in named]
        shown.append(
            {
                "index": row.get("index", "?"),
                "film": (finite_number(row.get("frames")) or 1) > 1,
                "scores": {str(name): finite_number(value) for name, value in _mapping(row.get("scores")).items()},
                "whole": {key: pictures([row[key]])[0] for key in WHOLE if row.get(key)},
                "slots": list(itertools.zip_longest(parts, masks, colors[: max(len(parts), len(masks))])),
                "attn_steps": [pictures(step) for step in _list(row.get("attn_steps"))],
            }
        )
    names = [name for row in shown for name, value in row["scores"].items() if value is not None]
    first = "fg_ari" if "fg_ari" in names else next(iter(names), None)
    if first is not None:
        sign = -1 if metric(first)["better"] == "lower" else 1
        shown.sort(key=lambda row: sign * (math.inf if (v := row["scores"].get(first)) is None else v))
    generated = any("sample" in row["whole"] for row in shown)
    return {"step": finite_number(index.get("step")), "rows": shown, "sorted_by": first, "generated": generated}


def _sheets(folder: Path, notes: list[str]) -> list[tuple[str, str]]:
    """Contact sheets of earlier steps, first to last, evenly chosen: (step, data URI)."""
    paths = sorted(folder.glob("samples/step_*.png"))
    if len(paths) > MAX_SHEETS:
        paths = [paths[round(i * (len(paths) - 1) / (MAX_SHEETS - 1))] for i in range(MAX_SHEETS)]
    read = [
        (path.stem.removeprefix("step_").lstrip("0") or "0", _picture(path.parent, path.name, notes)) for path in paths
    ]
    return [(step, picture) for step, picture in read if picture is not None]


def _gallery(folder: Path, notes: list[str]) -> list[tuple[str, str]]:
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
        prefix, _, metric = name.rpartition("/")
        title = label(metric) if prefix == "eval" else metric.replace("_", " ")
        groups.setdefault(prefix or "optimiser", []).append(chart(title, {name: series[name]}))
    return {group: kept for group, charts in groups.items() if (kept := [one for one in charts if one is not None])}
