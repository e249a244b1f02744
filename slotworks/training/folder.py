"""The run folder: `run.yaml` says what is trained, `env.json` on what, `checkpoints/last.safetensors` how far it is."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from slotworks.files import write_text
from slotworks.json_text import read_json
from slotworks.machine import processor
from slotworks.training.checkpoint import LAST, Checkpoint, load_checkpoint
from slotworks.training.run import Run
from slotworks.training.serialize import changes, load_run, save_run, to_plain
from slotworks.types import UserError
from slotworks.version import __version__

MAY_CHANGE = (
    *("steps", "log_every", "eval_every", "save_every", "keep_every", "eval_images", "protocol", "expected"),
    *("last_eval_all", "num_workers", "accumulate", "precision", "channels_last", "compile", "shard"),
    *("tensorboard", "wandb"),
)
"""Fields that may differ when a run goes on: they change how long, how fast and what is written, or rounding, but not
what is learnt. A change of precision or layout is told in one line."""


WRITTEN = (
    *("env.json", "metrics.jsonl", "nan_batch.json", "report.html", "result.json"),
    *("checkpoints", "eval", "samples", "pictures", "pipeline", "tensorboard"),
)
"""What else appears in a run folder. In one without `run.yaml` or a checkpoint these are somebody else's."""


def check_unused(folder: Path) -> None:
    """Refuse a folder that is no run folder, but holds what a run would replace.

    Raises:
        UserError: if there is any such file.
    """
    if taken := [name for name in WRITTEN if os.path.lexists(folder / name)]:
        raise UserError(
            f"{folder} is no run folder, but holds {taken[0]}, which a run would replace; choose another folder."
        )


def read_folder(run: Run, folder: Path) -> Checkpoint | None:
    """The checkpoint to go on from, or None at the start. Writes nothing.

    Raises:
        UserError: if the folder belongs to a different run or to somebody else, its checkpoint is unreadable or beyond
            `run.steps`.
    """
    checkpoint = load_checkpoint(folder / LAST) if (folder / LAST).exists() else None
    if (folder / "run.yaml").exists():
        _same(load_run(folder), run, folder)
    elif checkpoint is None:
        check_unused(folder)
    if checkpoint is None:
        return None
    _same(checkpoint.run, run, folder)
    if checkpoint.step > run.steps:
        raise UserError(
            f"{folder} is already at step {checkpoint.step}, beyond steps = {run.steps}; ask for at least as many, or "
            "choose another folder."
        )
    return checkpoint


def write_folder(run: Run, folder: Path, *, device: str, world_size: int, step: int) -> None:
    """Write `run.yaml` and `env.json`; facts about earlier sessions are kept under `earlier`.

    Raises:
        UserError: if the disk refuses.
    """
    save_run(run, folder / "run.yaml")
    path = folder / "env.json"
    try:
        last = read_json(path.read_text(encoding="utf-8"))
        earlier = [*last.pop("earlier", []), last]
    except (OSError, ValueError, AttributeError, TypeError):  # no earlier session, or a file that says nothing
        earlier = []
    env = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": step,
        "command": sys.argv,
        "slotworks": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "device": device,
        "processes": world_size,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "data": run.data.name,
        "earlier": earlier,
    }
    write_text(path, json.dumps(env, indent=1) + "\n")


def last_threads(folder: Path) -> int | None:
    """How many threads the last session in a run folder had; None if none is noted."""
    try:
        found = read_json((folder / "env.json").read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) and found > 0 else None


def device_name(device: torch.device) -> str:
    """The device in words: the name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({processor()})"


def _same(before: Run, run: Run, folder: Path) -> None:
    if changed := changes(to_plain(before), to_plain(run), MAY_CHANGE):
        raise UserError(
            f"{folder} holds a different run: {'; '.join(changed)}. Choose another folder, or set this back to go on."
        )


def _commit() -> str | None:
    """The git commit of the current folder, with `-dirty` if tracked files differ from it; None outside git.

    The settings of the repository one stands in may name programs, and whoever made it is not asked whether they are
    harmless. So nothing is called that runs them: no monitor, no hook, no filter, no submodule, no download.
    """
    try:
        commit = _git("rev-parse", "--verify", "HEAD").strip()
    except (OSError, subprocess.SubprocessError):
        return None
    try:
        found = _git("config", "--null", "--name-only", "--get-regexp", r"^filter\.", codes=(0, 1)).split("\0")
        filters = {name: "false" if name.endswith(".required") else "" for name in found if name}
        if any("=" in name for name in filters):  # `git -c` would take the first part for the name
            return commit
        status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        return commit + ("-dirty" if _git(*status, settings=filters).strip() else "")
    except (OSError, subprocess.SubprocessError):
        return commit


def _git(*words: str, settings: dict[str, str] | None = None, codes: tuple[int, ...] = (0,)) -> str:
    settings = {"core.fsmonitor": "false", "core.hooksPath": os.devnull, **(settings or {})}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    # No lock on the index, and no download of what a partial clone lacks.
    careful = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    done = subprocess.run(
        ["git", "--no-pager", *options, *words],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=10,
        env=os.environ | careful,
    )
    if done.returncode not in codes:
        raise subprocess.CalledProcessError(done.returncode, words)
    return done.stdout
