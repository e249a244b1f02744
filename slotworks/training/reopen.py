"""A run folder opened again: its settings, its method with the trained weights, and which checkpoint that is."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from slotworks.progress import progress
from slotworks.training.checkpoint import LAST, Checkpoint, checkpoint_step, load_method, save_checkpoint
from slotworks.training.folder import device_name, read_folder, write_folder
from slotworks.training.numerics import find_device
from slotworks.training.run import Run
from slotworks.training.seeds import seed_for, set_seed
from slotworks.training.serialize import load_run, to_plain
from slotworks.types import Batch, DataConfig, Method, MethodConfig, UserError, to_batch


def load(
    run_folder: str | Path, *, device: str | None = None, config: MethodConfig | None = None
) -> tuple[Run, Method]:
    """Reopen a run: its settings, and its method with the trained weights (averaged ones if the run kept an average).

    A method that needs no training (`steps` 0) is built as it is, unless there is a checkpoint. `config` takes the
    place of the method's settings.

    Raises:
        UserError: if the folder is no run, or holds no checkpoint yet, or its weights do not fit `config`.
    """
    folder = Path(run_folder)
    run = load_run(folder / "run.yaml")
    run = replace(run, method=config) if config else run
    if run.steps == 0 and not run.method.gathers and not (folder / LAST).is_file():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("weights", run.seed))
            method = run.method.build().eval()
    else:
        try:
            method = load_method(folder, config=config)
        except UserError as error:
            raise _slots_are_fixed(folder, config) or error from None
    return run, method.to(find_device(device))


def untrained(run: Run, run_folder: str | Path, *, device: str | None = None) -> Path:
    """Make the run folder of a method that needs no training, so that it can be evaluated like any other.

    Args:
        run: a recipe with `steps` 0.
        run_folder: made if it is missing; only `run.yaml` and `env.json` are written, and of a method that `gathers`
            what it takes from the training images, as a checkpoint.
        device: where it gathers; the first GPU if there is one.

    Returns:
        The folder.

    Raises:
        UserError: if the recipe is one to train, or the folder belongs to a different run.
    """
    folder = Path(run_folder)
    if run.steps:
        raise UserError(f"This recipe takes {run.steps:,} steps of training; train it first and give its run folder.")
    checkpoint = read_folder(run, folder)
    gathered = gather(run, find_device(device)) if run.method.gathers and checkpoint is None else None
    if not (folder / "run.yaml").exists():
        write_folder(run, folder, device=device_name(find_device(device)), world_size=1, step=0)
    if gathered is not None:
        save_checkpoint(gathered, folder / LAST)
    return folder


def gather(run: Run, device: torch.device) -> Checkpoint:
    """What a method takes from all training images without training, see `MethodConfig.gathers`.

    Raises:
        UserError: there is no image, or the images do not fit the method.
    """
    run.data.check_method(run.method)
    dataset, started = run.data.open("train"), time.monotonic()
    if len(dataset) == 0:
        raise UserError(f"The training split of {run.data.name} is empty.")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        set_seed(seed_for("weights", run.seed), device)
        method = run.method.build().eval().to(device)
        with progress("gathering", len(dataset)) as advance:

            def shown() -> Iterator[Batch]:
                for start in range(0, len(dataset), run.batch_size):
                    rows = range(start, min(start + run.batch_size, len(dataset)))
                    yield to_batch(dataset.__getitems__(rows), device)
                    advance(len(rows))

            method.fit(shown())
    return Checkpoint(run=run, step=0, seconds=time.monotonic() - started, model=method.state_dict())


def origin_of(
    run_folder: str | Path,
    source: DataConfig,
    split: str,
    *,
    batch_size: int = 64,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Where numbers of a run come from, for their records: `data`, `split`, the `checkpoint` that `load` takes, and in
    `settings` what else decides about them: the step, the batch size, options of one value, all settings of the data.
    """
    checkpoint = str(LAST) if (Path(run_folder) / LAST).is_file() else "none: nothing was trained"
    plain = {name: value for name, value in (options or {}).items() if isinstance(value, bool | int | float | str)}
    settings = {"step": trained_steps(run_folder), "batch_size": batch_size, "options": plain, "data": to_plain(source)}
    return {"data": source.name, "split": split, "checkpoint": checkpoint, "settings": settings}


def trained_steps(run_folder: str | Path) -> int:
    """After how many steps the checkpoint was written that `load` takes; 0 without one."""
    file = Path(run_folder) / LAST
    return checkpoint_step(file) if file.is_file() else 0


def changed_settings(run_folder: str | Path, used: MethodConfig | None) -> list[str]:
    """Settings of the method that differ from those of its training, as `name=value`."""
    if used is None:
        return []
    own = load_run(Path(run_folder)).method
    names = [field.name for field in fields(own)]
    return [f"{name}={getattr(used, name)}" for name in names if getattr(own, name) != getattr(used, name)]


def _slots_are_fixed(folder: Path, config: MethodConfig | None) -> UserError | None:
    """What to say where weights do not fit because another number of slots was asked for; None for other reasons."""
    own = load_run(folder / "run.yaml").method
    trained, wanted = getattr(own, "num_slots", None), getattr(config, "num_slots", None)
    if config is None or trained == wanted:
        return None
    return UserError(
        f"{folder} was trained with {trained} slots and has weights for each of them, so it cannot be run with "
        f"{wanted}; only slots that share one initialiser (method.initializer=gaussian) can be of another number."
    )
