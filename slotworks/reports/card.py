"""The card of a run that travels: what it is, its numbers and whose rules they follow, how it was trained, its use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slotworks.json_text import read_json
from slotworks.reports.charts import finite_number
from slotworks.reports.labels import data_name, label, method_name, score
from slotworks.tables import learn

UNKNOWN = "other"  # how the hub calls a licence that it has no name for


def card(
    run_folder: Path,
    config: Mapping[str, Any],
    *,
    name: str = "OWNER/NAME",
    picture: str | None = None,
    about: str = "",
) -> str:
    """Markdown with the head that the hub reads.

    Args:
        run_folder: its `eval/*.json` and `env.json`; what is missing or damaged is left out.
        config: of the folder that the card describes, with `run` as plain settings, `license` by its name on the hub
            and `left_out`, settings that held paths of one machine.
        name: under which it can be had: `owner/name` on the hub, or `zoo:NAME`.
        picture: file beside the card.
        about: what else is to be said of the data, in sentences.
    """
    run = config["run"]
    kind = method_name(run["method"])
    import jinja2  # imported here: commands that write no page go without

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.get_template("card.md.j2").render(
        kind=kind,
        tag=run["method"]["kind"].removesuffix("Config").lower(),
        name=name,
        place=name if name.startswith("zoo:") else f"hf://{name}",
        films=_films(run["method"]),
        boxes=run["method"].get("initializer") == "boxes",
        asked=files_of(run["method"]),
        config=config,
        run=run,
        data=data_name(run["data"]),
        method=[(name, _short(value)) for name, value in run["method"].items() if name != "kind"],
        records=records(run_folder),
        env=_read(run_folder / "env.json"),
        license=config.get("license"),
        head_license=config.get("license") or UNKNOWN,
        picture=picture,
        about=about,
        encoder=_read(run_folder / "encoder.json"),
        left_out=config.get("left_out", ()),
    )


def files_of(method: Mapping[str, Any]) -> str:
    """What `segment` is given for a method of these settings, as an example."""
    if not _films(method):
        return "photo.jpg"
    return "clip.mp4" + " --boxes 0.1,0.2,0.4,0.5 0.6,0.6,0.9,0.8" * (method.get("initializer") == "boxes")


def _films(method: Mapping[str, Any]) -> bool:
    return "short_clips" in method  # as all have that are trained on clips


def picture_for_card(run_folder: Path) -> Path | None:
    """The last sheet of pictures with masks that a run wrote; None if there is none."""
    sheets = sorted((run_folder / "samples").glob("step_*.png"))
    return sheets[-1] if sheets else None


def records(run_folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run as rows: where they were made, by whose rules, and what came out."""
    rows = []
    for path in sorted((run_folder / "eval").glob("*.json")):
        record = _read(path)
        if not isinstance(record.get("metrics"), Mapping) or "protocol" not in record:
            continue  # findings of the doctor, or a damaged file
        named = [
            (label(name), score(name, value.get("mean"), value.get("sem")))
            for name, value in record["metrics"].items()
            if isinstance(value, Mapping) and finite_number(value.get("mean")) is not None
        ]
        numbers = [f"{name} {text}" for name, text in named]
        keys = {key: record.get(key) for key in ("data", "split", "protocol", "num_images", "seed")}
        rows.append(keys | {"numbers": ", ".join(numbers)})
    return rows


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    learn(found.get("about"))
    return found
