"""`slotworks recipes`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from slotworks import tables
from slotworks.cli.console import print_json
from slotworks.errors import UserError, nearest

HELP = """usage: slotworks recipes [WORD ...] [--published] [--json]

List what can be trained or measured: what it takes in time, memory and data, the published number and our own.

  slotworks recipes                          all of them
  slotworks recipes mini cpu                 those that a CPU trains in minutes
  slotworks recipes savi movi_e              a method, a data set
  slotworks recipes video drawn --json
  slotworks recipes spot.coco_stage2         one alone: also where it departs from its source, and why
  slotworks recipes dinosaur --published     what each published row still needs: files, weights, runs, GPU hours

Every word has to occur in the name, the method, the data set or the first line, or to be one of these: mini (made
small, not a row of a paper), cpu (timed on a CPU), video, drawn (needs no files), untrained (nothing to train).

--published leaves out what no paper has and says of the rest what is not on this machine yet. Hours are those of one
A100 at 30 percent of its peak, as `slotworks plan` counts them: seconds for each recipe."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def main(argv: Sequence[str]) -> int:
    """Words to look for; all recipes without any."""
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    words = [word for word in argv if word not in ("--json", "--published")]
    if wrong := [word for word in words if word.startswith("-")]:
        raise UserError(f"`recipes` has no option {wrong[0]}; it takes words to look for, --published and --json.")
    rows = tables.read()["recipes"]
    found = tables.select(rows, words)
    if "--published" in argv:
        return _published([row for row in found if row["numbers"]], as_json="--json" in argv)
    if "--json" in argv:
        print_json(found)
        return 0
    if not found:
        near = nearest(words[0], (row["name"] for row in rows))
        raise UserError(f"No recipe has all of these words: {', '.join(words)}. Names like the first: {near}.")
    for row in found:
        print(row["name"])
        print(f"  {row['about']}")
        for label, text in (
            ("time", row["takes"]),
            ("memory", row["memory"]),
            ("data", f"{row['data']} ({row['data_size']})"),
            ("published", row["published"]),
            ("our own", row["measured"]),
        ):
            print(f"  {label:<11}{text}")
        if len(found) == 1:
            for one in row["departures"]:
                print(f"  departs    {one['setting']} {one['ours']}; source: {one['source']}; {one['why']}")
    print(f"{len(found)} of {len(rows)} recipes. `slotworks train NAME --dry-run` tries one on this machine.")
    return 0


def _published(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> int:
    """Print what published rows still need here."""
    if not rows:
        raise UserError("No recipe with all of these words is a row of a paper; leave --published out.")
    answers = [{"name": row["name"], "published": row["published"], **needs(row)} for row in rows]
    if as_json:
        print_json(answers)
        return 0
    for answer in answers:
        hours = answer["gpu_hours"]
        print(answer["name"])
        for label, text in (
            ("published", answer["published"]),
            ("files", ", ".join(answer["files"]) or "there"),
            ("weights", ", ".join(answer["weights"]) or "there, or none"),
            ("first", " && ".join(answer["first"]) or "nothing"),
            ("GPU hours", answer["unplanned"] if hours is None else f"{hours:,.1f}"),
        ):
            print(f"  {label:<11}{text}")
    known = [answer["gpu_hours"] for answer in answers if answer["gpu_hours"] is not None]
    print(f"{len(answers)} rows, {sum(known):,.0f} GPU hours of the {len(known)} that can be counted.")
    return 0


def needs(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe asks for that is not on this machine, and how long it trains.

    Args:
        row: of the written table.

    Returns:
        `files`: data to download, with their size. `weights`: hub ids of published networks that are not in the cache.
        `first`: commands whose folder is not there. `gpu_hours` on one A100; None where they cannot be counted, with
        the reason in `unplanned`.
    """
    from slotworks.cli.plan import hours_of, plan_of
    from slotworks.configs import recipes

    run = recipes()[row["name"]]()
    *before, _ = row["command"].split(" && ")
    answer: dict[str, Any] = {
        "files": _missing_files(run.data, row["data_size"]),
        "weights": [name for name in dict.fromkeys(_networks(run)) if not _cached(name)],
        "first": [line for line in before if not _made(line)],
    }
    try:
        hours = hours_of(run, plan_of(run, 1), "a100", 1, 0.3)["gpu_hours"] if run.steps else 0.0
    except UserError as error:
        return answer | {"gpu_hours": None, "unplanned": str(error)}
    return answer | {"gpu_hours": hours, "unplanned": ""}


def _missing_files(data: Any, size: str) -> list[str]:
    """The data set, and the real images beside generated ones, if their folder is not there."""
    images = getattr(data, "images", data)
    roots: dict[str, str] = {}
    for part, more in ((images, f" ({size})"), (getattr(images, "real", None), "")):
        root = getattr(part, "root", None)
        if root and not str(root).startswith("data/generated") and not Path(root).exists():
            roots[str(root)] = f"{getattr(part, 'name', '')} in {root}{more}"
    return list(roots.values())


def _networks(settings: Any) -> Iterator[str]:
    """Hub ids among the settings; a method whose settings name more than it reads says which (`networks`)."""
    if is_dataclass(settings):
        known = getattr(settings, "networks", None)
        for value in known or [getattr(settings, field.name) for field in fields(settings)]:
            yield from _networks(value)
    elif isinstance(settings, str) and _HUB_ID.fullmatch(settings) and settings.split("/")[0] not in ("runs", "data"):
        yield settings


def _cached(name: str) -> bool:
    """Whether the hub's cache holds weights of any revision; a download that was cut off leaves the small files."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return False
    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(path.suffix in (".safetensors", ".bin") for path in snapshots.rglob("*"))


def _made(command: str) -> bool:
    """Whether the folder that a command of the table writes is there."""
    verb, name = command.split()[1:3]
    place = Path("data/generated") if verb in ("synthesize", "label") else Path("runs")
    return (place / name).is_dir()
