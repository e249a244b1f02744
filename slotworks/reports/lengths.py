"""Metrics against the length of videos: what `slotworks evaluate RUN --lengths 1 6 12 24` measured, as charts.

SlotDiffusion's figure 3 (Wu et al. 2023, arXiv 2305.11281) shows them: how tracking gets harder with time.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slotworks.files import replacing
from slotworks.json_text import read_json
from slotworks.reports.charts import Chart, chart, finite_number, write_png
from slotworks.reports.labels import label
from slotworks.tables import learn, metric

Series = dict[str, dict[str, dict[str, dict[int, float | None]]]]
"""Data and split, metric, line (a protocol, see `lines_of`), number of frames to mean."""


def length_of(record: Mapping[str, Any]) -> tuple[str, int] | None:
    """Protocol and number of frames of an evaluation of the first frames of videos; None for any other.

    >>> length_of({"protocol": "savi@12"})
    ('savi', 12)
    """
    found = re.fullmatch(r"([^@]+)@(\d{1,6})(.*)", str(record.get("protocol")))
    return (found[1] + found[3], int(found[2])) if found else None


def lines_of(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int] | None]:
    """Data and split, line and number of frames of each record; None for those of no length.

    A line is named after its protocol. Where records of one protocol were measured in different ways (other videos,
    seed, checkpoint, ...) each way is a line of its own, and its name says which.
    """
    ways: dict[tuple[str, str], list[str]] = {}
    found = []
    for record in records:
        if (about := length_of(record)) is None:
            found.append(None)
            continue
        way = json.dumps([record.get(key) for key in ("num_images", "seed", "checkpoint", "settings")], sort_keys=True)
        key = (f"{record.get('data')}, {record.get('split')} split", about[0])
        ways.setdefault(key, [])
        if way not in ways[key]:
            ways[key].append(way)
        found.append((key, way, about[1], record))
    lines: list[tuple[str, str, int] | None] = []
    for one in found:
        if one is None:
            lines.append(None)
            continue
        (place, protocol), way, length, record = one
        known = ways[place, protocol]
        settings = record.get("settings")
        step = settings.get("step", "?") if isinstance(settings, Mapping) else "?"
        words = f"{record.get('num_images')} videos, seed {record.get('seed')}, step {step}, no. {known.index(way) + 1}"
        lines.append((place, protocol if len(known) == 1 else f"{protocol} ({words})", length))
    return lines


def series_by_length(records: Sequence[Mapping[str, Any]]) -> Series:
    """Means by number of frames; what was measured at one length alone is no curve and is left out."""
    series: Series = {}
    for record, line in zip(records, lines_of(records), strict=True):
        if line is None or not isinstance(metrics := record.get("metrics"), Mapping):
            continue
        where, protocol, length = line
        place = series.setdefault(where, {})
        for name, value in metrics.items():
            mean = finite_number(value.get("mean")) if isinstance(value, Mapping) else None
            place.setdefault(str(name), {}).setdefault(protocol, {})[length] = mean
    for place in series.values():
        for name, lines in list(place.items()):
            place[name] = {protocol: points for protocol, points in lines.items() if len(points) > 1}
    kept = {place: {name: lines for name, lines in metrics.items() if lines} for place, metrics in series.items()}
    return {place: metrics for place, metrics in kept.items() if metrics}


def length_charts(series: Series) -> dict[str, list[Chart]]:
    """A chart for each metric with a line for each protocol, by data set."""
    drawn: dict[str, list[Chart]] = {}
    for place, metrics in series.items():
        for name, lines in metrics.items():
            scale = 100 if metric(name)["unit"] == "share" else 1
            points = {
                protocol: [(float(t), None if (value := line[t]) is None else scale * value) for t in sorted(line)]
                for protocol, line in lines.items()
            }
            if (one := chart(label(name), points, along="frames")) is not None:
                drawn.setdefault(place, []).append(one)
    return drawn


def write_lengths(run_folder: str | os.PathLike[str]) -> list[Path]:
    """Draw `eval/lengths-DATA-SPLIT.png` of a run from its `eval/*.json`, one picture for each data set and split.

    Files that cannot be read are left out; the report names them.
    """
    folder, records = Path(run_folder) / "eval", []
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, Mapping):
            learn(record.get("about"))
            records.append(record)
    written = []
    for place, charts in length_charts(series_by_length(records)).items():
        data, _, split = place.removesuffix(" split").rpartition(", ")
        written.append(folder / f"lengths-{re.sub('[^A-Za-z0-9_.@-]', '-', f'{data}-{split}')}.png")
        with replacing(written[-1]) as path:
            write_png(charts, path)
    return written
