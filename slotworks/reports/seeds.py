"""Runs of one recipe with several seeds as one thing: where they lie, their common records, mean and spread.

`slotworks train RECIPE --seeds 3` makes `runs/RECIPE/seed0`, `seed1` and `seed2`; the folder around them counts as one
entry in `evaluate`, `report` and `compare`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from slotworks.errors import UserError
from slotworks.files import seed_folders, write_text
from slotworks.json_text import read_json
from slotworks.reports.charts import finite_number
from slotworks.reports.labels import label, run_name
from slotworks.reports.report import MARK, write_report
from slotworks.tables import learn, metric

Key = tuple[str, str, str]
"""Data set, split and protocol of a record."""

CHANGED = "; not as in training:"  # in the rules of a record that was made with other settings of the method
RESIZED = re.compile(r"; images resized from \d+ x \d+ to \d+ x \d+ pixels")  # for the method; masks are as they were
COUNTS = ("num_train", "num_val", "num_test")  # of drawn scenes: how many there are changes none of them


@dataclass(frozen=True)
class Entry:
    """One thing that is compared: a run, or a recipe's runs with several seeds."""

    name: str
    folders: tuple[Path, ...]
    records: tuple[Mapping[Key, Sequence[Mapping[str, Any]]], ...]  # of each folder; the best one to choose first


def read_entry(folder: Path, name: str | None = None) -> Entry:
    """A run folder, or one with a folder for each seed, and its evaluations.

    Raises:
        UserError: if it is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a run folder, or the folder of several seeds.")
    folders = tuple(seed_folders(folder))
    return Entry(name or str(folder), folders, tuple(map(_records, folders)))


def _records(folder: Path) -> dict[Key, list[dict[str, Any]]]:
    found: dict[Key, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("eval/*.json"), key=lambda path: (len(path.name), path.name)):
        try:
            record = read_json(path.read_text(encoding="utf-8"))
            key = (record["data"], record["split"], record["protocol"])
            usable = isinstance(record["metrics"], dict) and CHANGED not in record["rules"]
        except (OSError, ValueError, LookupError, TypeError):  # findings of the doctor, or a damaged file
            continue
        learn(record.get("about"))
        if usable and all(isinstance(part, str) for part in key):
            found.setdefault(key, []).append(record)
    for records in found.values():
        records.sort(key=lambda record: -(finite_number(record.get("num_images")) or 0))
    return found


def chosen(entries: Sequence[Entry], key: Key) -> list[list[Mapping[str, Any]]]:
    """The records of all runs of each entry under one key which were made on the same pictures, by the same rules.

    Raises:
        UserError: if a run has none, or they were made in different ways; says which.
    """
    runs = [
        (at, folder, records.get(key, ()))
        for at, entry in enumerate(entries)
        for folder, records in zip(entry.folders, entry.records, strict=True)
    ]
    for _, folder, records in runs:
        if not records:
            raise UserError(f"{folder} has no evaluation of {' '.join(key)}, as the others have; {_evaluate(entries)}.")
    reasons: list[str] = []
    for first in runs[0][2]:
        found: list[list[Mapping[str, Any]]] = [[] for _ in entries]
        for at, folder, records in runs:
            fitting = [record for record in records if not differences(first, record)]
            if not fitting:
                reasons.append(f"{runs[0][1]} and {folder} {'; '.join(differences(first, records[0]))}")
                break
            found[at].append(fitting[0])
        else:
            return found
    raise UserError(f"{reasons[0]}, under {key[2]}; {_evaluate(entries)}.")


def common_keys(entries: Sequence[Entry]) -> list[Key]:
    """What all runs of all entries were evaluated on, in the order of the first one's records."""
    every = [records for entry in entries for records in entry.records]
    return [key for key in every[0] if all(key in records for records in every)]


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In what two records of one key were not measured alike, in words; nothing if in nothing.

    Records of earlier versions do not say which pictures they are of; then their number alone is compared.
    """
    found = []
    if first.get("num_images") != other.get("num_images"):
        found.append(f"were measured on {first.get('num_images')} and {other.get('num_images')} images")
    rules = [RESIZED.sub("", str(record.get("rules", ""))) for record in (first, other)]
    if rules[0] != rules[1]:
        found.append("were scored by different rules of one name")
    shown = [dict(_pictures(record)) for record in (first, other)]
    if all(shown):
        wrong = [name for name in {**shown[0], **shown[1]} if shown[0].get(name) != shown[1].get(name)]
        found += [
            f"have other pictures ({name} is {shown[0].get(name)} and {shown[1].get(name)})" for name in wrong[:1]
        ]
    return found


def _pictures(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Settings of the data that decide which pictures there are; of a folder its name alone."""
    settings = record.get("settings")
    data = settings.get("data") if isinstance(settings, Mapping) else None
    return _flat(data, "data.") if isinstance(data, Mapping) else []


def _flat(settings: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif name not in COUNTS:
            found.append((f"{prefix}{name}", Path(value).name if name == "root" and isinstance(value, str) else value))
    return found


def _evaluate(entries: Sequence[Entry]) -> str:
    return f"measure them together: `slotworks evaluate {' '.join(entry.name for entry in entries)}`"


def over_seeds(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each metric that all records have: the mean over seeds, their standard deviation, and each seed's value.

    The standard deviation is that of a sample (n - 1); None for one seed. Metrics without a finite value are left out.
    """
    found = {}
    for name in records[0]["metrics"]:
        values = [_mean(record, name) for record in records]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            found[name] = {"mean": mean(known), "std": stdev(known) if len(known) > 1 else None, "seeds": known}
    return found


def _mean(record: Mapping[str, Any], name: str) -> float | None:
    value = record["metrics"].get(name)
    return finite_number(value.get("mean")) if isinstance(value, Mapping) else None


def in_words(name: str, value: Mapping[str, Any]) -> str:
    """Mean and standard deviation over seeds, shares in percent: `94.2 ± 0.7`, or `94.2`."""
    spread = "" if value["std"] is None else f" ± {number(name, value['std'])}"
    return number(name, value["mean"]) + spread


def number(name: str, value: float) -> str:
    """A share in percent with one digit, another unit with four significant ones."""
    return f"{100 * value:.1f}" if metric(name)["unit"] == "share" else f"{value:.4g}"


def write_seeds_report(folder: Path) -> Path:
    """Write `report.html` of a folder of seeds, which leads to that of each seed, and these; gives its path.

    Raises:
        UserError: as `slotworks.reports.write_report`.
    """
    entry = read_entry(folder)
    page = folder / "report.html"
    if page.exists() and MARK not in page.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{page} is there and was not written by this program; move it away.")
    tables = []
    for key in common_keys([entry]):
        try:
            (records,) = chosen([entry], key)
        except UserError as error:  # seeds that were measured differently have no mean
            tables.append({"title": " ".join(key), "rows": [], "said": str(error)})
            continue
        rows = [
            (label(name), in_words(name, value), [number(name, seed) for seed in value["seeds"]])
            for name, value in over_seeds(records).items()
        ]
        title = f"{records[0]['data']}, {records[0]['split']}, {records[0]['num_images']} images"
        tables.append({"title": title, "rows": rows, "said": str(records[0]["rules"])})
    seeds = [(path.name, write_report(path).relative_to(folder).as_posix()) for path in entry.folders]
    import jinja2  # imported here: commands that write no page go without

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("seeds.html.j2")
    return write_text(page, template.render(name=run_name(folder), mark=MARK, tables=tables, seeds=seeds))
