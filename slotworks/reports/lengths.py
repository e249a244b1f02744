"""Metrics against the length of videos: what `slotworks evaluate RUN --lengths 1 6 12 24` measured, as charts.

SlotDiffusion's figure 3 (Wu et al. 2023, arXiv 2305.11281) shows them: how tracking gets harder with time.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slotworks.files import replacing
from slotworks.reports.curves import Chart, chart, picture
from slotworks.reports.labels import label

Series = dict[str, dict[str, dict[str, dict[int, float | None]]]]
"""Data and split, metric, protocol, number of frames to mean."""


def length_of(record: Mapping[str, Any]) -> tuple[str, int] | None:
    """Protocol and number of frames of an evaluation of the first frames of videos; None for any other.

    >>> length_of({"protocol": "savi@12"})
    ('savi', 12)
    """
    found = re.fullmatch(r"([^@]+)@(\d{1,6})(.*)", str(record.get("protocol")))
    return (found[1] + found[3], int(found[2])) if found else None


def series_by_length(records: Iterable[Mapping[str, Any]]) -> Series:
    """Means by number of frames; what was measured at one length alone is no curve and is left out."""
    series: Series = {}
    for record in records:
        if (about := length_of(record)) is None or not isinstance(metrics := record.get("metrics"), Mapping):
            continue
        protocol, length = about
        place = series.setdefault(f"{record.get('data')}, {record.get('split')} split", {})
        for name, value in metrics.items():
            mean = value.get("mean") if isinstance(value, Mapping) else None
            mean = float(mean) if isinstance(mean, int | float) and math.isfinite(mean) else None
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
            points = {protocol: [(float(t), line[t]) for t in sorted(line)] for protocol, line in lines.items()}
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
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        records += [record] if isinstance(record, Mapping) else []
    written = []
    for place, charts in length_charts(series_by_length(records)).items():
        data, _, split = place.removesuffix(" split").rpartition(", ")
        written.append(folder / f"lengths-{re.sub('[^A-Za-z0-9_.@-]', '-', f'{data}-{split}')}.png")
        with replacing(written[-1]) as path:
            picture(charts).save(path, format="PNG", optimize=True)
    return written
