"""The evaluation files of a run folder: `RUN/eval/NAME.json`, one per data set, protocol and way to measure."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slotworks.errors import UserError
from slotworks.files import check_writable, finite, write_text
from slotworks.json_text import read_json

KEYS = ("data", "split", "protocol", "rules", "num_images", "checkpoint", "seed", "metrics", "per_image")
"""Every record has these, and `settings`: what else decides about the numbers, such as the step of the checkpoint and
the batch size. Records of older versions lack it. Those with metrics that the package does not have describe them under
`about`: a list of what `slotworks.metrics.metric.Metric.described` gives."""

SAME = ("data", "split", "protocol", "rules", "num_images", "checkpoint", "seed", "settings")
"""A record takes the place of another only if they agree in all of these."""

MAX_SUFFIX = 80
"""Characters that say in a file's name what sets it apart; a file's name may have 255 bytes."""


def make_record(result: Any, *, data: str, split: str, checkpoint: str, protocol: str, rules: str) -> dict[str, Any]:
    """A record of a result with `num_images`, `seed`, `metrics` (of `mean`, `sem` and `n`) and `per_image` tensors."""
    return {
        "data": data,
        "split": split,
        "protocol": protocol,
        "rules": rules,
        "num_images": result.num_images,
        "checkpoint": checkpoint,
        "seed": result.seed,
        "metrics": {name: {"mean": s.mean, "sem": s.sem, "n": s.n} for name, s in result.metrics.items()},
        "per_image": {name: values.tolist() for name, values in result.per_image.items()},
    }


def write_eval(run_folder: Path | str, name: str, record: dict[str, Any]) -> Path:
    """Write `RUN/eval/NAME.json`, replacing an older one only when the new file is complete.

    A record that was made with other settings is never replaced: the new one gets a name that says what sets it apart,
    such as `NAME-8-images.json` or `NAME-seed-1.json`, or a number where words do not tell. NaN and infinity, which
    JSON cannot hold, become null.

    Args:
        run_folder: must exist; `eval` is made.
        name: of the file, without a folder and without `.json`.
        record: with the keys of `KEYS` and, if they are known, `settings` and `about`; `metrics` maps a name to `mean`,
            `sem` and `n`, `per_image` to a list.

    Returns:
        The file.

    Raises:
        UserError: if the run folder does not exist, or `name` is not a plain file name.
        ValueError: if keys are missing or unknown.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a run folder; give the folder that `slotworks train` made.")
    if name != Path(name).name or name in ("", ".", ".."):
        raise UserError(f"{name!r} is not a plain file name; give a name without slashes, such as test-oclf.")
    if set(record) - {"settings", "about"} != set(KEYS):
        raise ValueError(f"A record has the keys {', '.join(KEYS)}; this one has {', '.join(record)}.")
    text = json.dumps(finite(record), allow_nan=False, indent=1)
    return write_text(_place(folder / "eval", name, json.loads(text)), text + "\n")


def save_result(
    run_folder: Path | str,
    result: Any,
    *,
    data: str,
    split: str,
    checkpoint: str,
    settings: Mapping[str, Any],
    note: str = "",
    changed: Sequence[str] = (),
    about: Sequence[Any] = (),
    must_save: bool = True,
) -> dict[str, Any]:
    """Write a result of a task (`slotworks.evaluation.task.Result`) and return the record.

    `about` are metrics (`slotworks.metrics.metric.Metric`) that the package does not have, beside those of the
    protocol of the result: what they are is written beside their numbers. `note` and settings of the method that
    differ from training, `changed`, stand behind the rules. With `must_save` False a record that cannot be written
    says why under `unsaved`, and its numbers are not lost.

    Raises:
        UserError: as `write_eval`.
    """
    record = result.record(data=data, split=split, checkpoint=checkpoint)
    record["rules"] += note + (f"; not as in training: {', '.join(changed)}" if changed else "")
    record["settings"] = dict(settings)
    if own := [one.described() for one in (*getattr(result, "about", ()), *about)]:
        record["about"] = own
    name = "-".join([data, split, record["protocol"], *changed])
    try:
        Path(run_folder).mkdir(parents=True, exist_ok=True)
        write_eval(run_folder, name.replace("/", "-").replace(" ", "-"), record)
    except (UserError, OSError) as error:
        if must_save:
            raise
        return record | {"unsaved": str(error)}
    return record


def place_for_records(run_folder: Path, out: str | Path | None) -> Path:
    """Where `eval/` is written to.

    Raises:
        UserError: if that cannot be; says that another place can be named.
    """
    place = run_folder if out is None else Path(out)
    try:
        check_writable(place / "eval")
    except UserError as error:
        hint = " With `out` (`--out` on the command line) the records go there." if out is None else ""
        raise UserError(f"{error}{hint}") from None
    return place


def _place(folder: Path, name: str, record: Mapping[str, Any]) -> Path:
    """The first file that is not there yet, or holds a record made in the same way."""
    first = folder / f"{name}.json"
    suffix = _suffix(record, _stored(first)) if first.exists() else ""
    words = [suffix] if suffix else []
    for end in itertools.chain([""], words, (f"{suffix}-{number}" for number in itertools.count(2))):
        path = folder / f"{name}{end}.json"
        if not path.exists() or all(_stored(path).get(key) == record.get(key) for key in SAME):
            return path
    raise AssertionError("there is always one more number")


def _stored(path: Path) -> dict[str, Any]:
    """What a record says; nothing of a damaged file, which so differs from all others and is kept."""
    try:
        found = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def looks_at_something_else(path: Path, looked_at: object) -> bool:
    """Whether findings or pictures are of something else, or of an older version, which did not say of what.

    Args:
        path: `doctor.json` or the `index.json` of samples; one that is missing or damaged is of nothing.
        looked_at: what new ones are of.
    """
    try:
        content = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("looked_at") != looked_at


def _suffix(record: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What sets a record apart from another, for a file's name: `-8-images-seed-1`; empty if no short word does."""
    parts = []
    if record["num_images"] != other.get("num_images"):
        parts.append(f"{record['num_images']}-images")
    if record["seed"] != other.get("seed"):
        parts.append(f"seed-{record['seed']}")
    known = other.get("settings")
    before = dict(_leaves(known)) if isinstance(known, Mapping) else None
    for key, value in _leaves(record.get("settings") or {}):
        if before is not None and before.get(key) != value:
            parts.append(f"{key.rpartition('.')[2]}-{str(value).rstrip('/').rpartition('/')[2]}")
    words = "".join("-" + re.sub(r"[^A-Za-z0-9.=+]+", "-", part).strip("-") for part in parts)
    return words if len(words) <= MAX_SUFFIX else ""


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted name."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
