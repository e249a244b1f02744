"""The evaluation file of a run folder: `RUN/eval/NAME.json`, one per data set and protocol."""

import json
from pathlib import Path
from typing import Any

from slotworks.errors import UserError
from slotworks.files import finite, write_text

KEYS = ("data", "split", "protocol", "rules", "num_images", "checkpoint", "seed", "metrics", "per_image")
"""Every record has exactly these."""


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

    NaN and infinity, which JSON cannot hold, become null.

    Args:
        run_folder: must exist; `eval` is made.
        name: of the file, without a folder and without `.json`.
        record: with exactly the keys of `KEYS`; `metrics` maps a name to `mean`, `sem` and `n`, `per_image` to a list.

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
    if set(record) != set(KEYS):
        raise ValueError(f"A record has the keys {', '.join(KEYS)}; this one has {', '.join(record)}.")
    text = json.dumps(finite(record), allow_nan=False, indent=1)
    return write_text(folder / "eval" / f"{name}.json", text + "\n")
