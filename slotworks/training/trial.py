"""A recipe tried for a few steps in memory: what it costs here, and where each of its settings comes from."""

import time
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any

import numpy as np

from slotworks.training.bench import measure
from slotworks.training.checkpoint import load_method
from slotworks.training.order import BatchOrder
from slotworks.training.run import Run
from slotworks.training.serialize import to_plain
from slotworks.types import UserError


def dry_run(run: Run, *, steps: int = 3, device: str | None = None) -> dict[str, Any]:
    """Build everything, read the first batch and make a few updates with it. Writes no file and no cache.

    So nothing is compiled, whatever `run.compile` says, and what a data set would prepare when it is opened has to be
    there; features that are not stored yet are computed for this batch alone.

    Args:
        run: what would be trained.
        steps: timed updates, after two that are not.
        device: such as cpu or cuda:1; by default the first GPU if there is one.

    Returns:
        `parameters`, `trained` of them, `data`, `samples` in the training split, `batch` with the shape of each field,
        `memory_mib` at its peak (of the process on a CPU, of tensors on a GPU), `step_seconds` of an update,
        `read_seconds` of its samples, `once_seconds` to compute features that later trainings find stored,
        `total_seconds` without evaluations and checkpoints, `steps`, `precision` as it was settled, `device`,
        `threads`.

    Raises:
        UserError: if data, weights or an earlier run that the recipe builds on are missing, or it trains nothing.
    """
    if run.steps == 0:
        raise UserError("This recipe trains nothing (steps is 0); give its name to `slotworks evaluate`.")
    dataset = run.data.preview()
    if len(dataset) == 0:
        raise UserError(f"The training split of {run.data.name} is empty.")
    size = run.batch_size // run.accumulate
    indices = next(iter(BatchOrder(len(dataset), run)))
    raw = dataset.__getitems__(indices)  # the first reading opens files
    began = time.perf_counter()
    dataset.__getitems__(indices)
    read = time.perf_counter() - began
    computes = hasattr(dataset, "computes_features")
    found = measure(
        replace(run, compile=False), steps=steps, load=load_method, raw=raw, training_only=True, device=device
    )
    once = read / size * len(dataset) if computes else 0.0
    read = 0.0 if computes else read * run.accumulate
    step = found["step_ms"] / 1000
    return {
        "parameters": found["parameters"],
        "trained": found["trained"],
        "data": run.data.name,
        "samples": len(dataset),
        "batch": {name: list(np.shape(value)) for name, value in raw.items()},
        "memory_mib": found["train_mib"],
        "step_seconds": step,
        "read_seconds": read,
        "once_seconds": once,
        "total_seconds": once + run.steps * (step + (0 if run.num_workers else read)),
        "steps": run.steps,
        "precision": found["precision"],
        "device": found["device"],
        "threads": found["threads"],
    }


def origins(run: Run, before: Run, source: str) -> list[dict[str, Any]]:
    """Every setting of a run: its `name`, its `value`, and where it comes `from`.

    Args:
        run: with the changes of the command line.
        before: without them.
        source: what `before` was made by, such as `recipe` or `run.yaml`.
    """
    earlier = {name: value for name, value, _ in _settings(before)}
    rows = []
    for name, value, default in _settings(run):
        origin = f"default of {default}" if default else source
        if name not in earlier or earlier[name] != value:
            origin = "command line"
        rows.append({"name": name, "value": to_plain(value, name), "from": origin})
    return rows


def _settings(part: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Name, value, and the class whose default that is, or nothing; parts of parts with a dot between."""
    for field in fields(part):
        value = getattr(part, field.name)
        if field.init and is_dataclass(value):
            yield from _settings(value, f"{prefix}{field.name}.")
        elif field.init:
            yield prefix + field.name, value, type(part).__name__ if _is_default(field, value) else ""


def _is_default(field: Field, value: Any) -> bool:
    if field.default_factory is not MISSING:
        return value == field.default_factory()
    return field.default is not MISSING and value == field.default
