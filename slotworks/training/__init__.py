"""The training loop, its settings, checkpoints and run folders.

run.py          Run and Adam: what a training run is; the learning-rate schedule
loop.py         train(run, folder): the loop
callbacks.py    what is told of steps, evaluations and checkpoints
order.py        which samples each step sees
ema.py          the moving average of the weights
checkpoint.py   one safetensors file: weights, average, optimiser
serialize.py    Run to readable YAML and back
devices.py      devices, precision and processes through Lightning Fabric; gradient clipping
numerics.py     precision and memory layout that fit the device: the table behind `auto`
optimizer.py    Adam over a method's parameter groups
seeds.py        random numbers as a function of seed and step
interrupt.py    Ctrl-C and SIGTERM
allocator.py    the opt-in that keeps freed memory
bench.py        time and memory of a recipe
folder.py       the run folder: run.yaml, env.json, one writer at a time
reopen.py       a run folder opened again: settings and trained method
logs.py         metrics.jsonl, TensorBoard, W&B, the progress bar
"""

import importlib
from typing import TYPE_CHECKING

from slotworks.training.callbacks import Callback
from slotworks.training.checkpoint import load_method, load_weights
from slotworks.training.run import Adam, Run, schedule
from slotworks.training.serialize import load_run, save_run

if TYPE_CHECKING:
    from slotworks.training.devices import open_fabric
    from slotworks.training.loop import Diverged, Result, train

_HOMES = {"Diverged": "loop", "Result": "loop", "train": "loop", "open_fabric": "devices"}

__all__ = [
    "Adam",
    "Callback",
    "Diverged",
    "Result",
    "Run",
    "load_method",
    "load_run",
    "load_weights",
    "open_fabric",
    "save_run",
    "schedule",
    "train",
]


def __getattr__(name: str):
    """Load the loop when it is first used: Lightning takes seconds to import and only training needs it."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"slotworks.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'slotworks.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What the package offers, used or not."""
    return sorted(__all__)
