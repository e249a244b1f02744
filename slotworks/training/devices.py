"""Where a run computes: devices, precision and processes through Lightning Fabric."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import Tensor

from slotworks.machine import busy_elsewhere, threads_given, usable_cores
from slotworks.training.folder import last_threads
from slotworks.training.numerics import settle, weakest_kind
from slotworks.training.run import Run
from slotworks.training.shard import sharded, whole

logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it announces what the run already says


def open_fabric(run: Run, *, device: str | None = None, accelerator: str = "auto", devices: int = 1) -> Fabric:
    """The devices to train on, launched: those of `torchrun` if it started this process, otherwise `devices` of them.

    `device` names a single one, such as cpu, cuda, cuda:1 or mps; under `torchrun` only its kind counts. With more than
    one device and without `torchrun`, the current command is started once more for each further device.
    """
    nodes, chosen = 1, None
    if device is not None:
        accelerator, _, number = device.partition(":")
        devices, chosen = 1, [int(number)] if number and accelerator != "cpu" else None
    if torch.distributed.is_torchelastic_launched():
        chosen, devices, nodes = None, int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    strategy = "auto"
    if devices * nodes > 1:
        strategy = "ddp_find_unused_parameters_true" if run.method.skips_weights else "ddp"
    options: dict[str, Any] = {"accelerator": accelerator, "devices": chosen or devices, "num_nodes": nodes}
    options["strategy"] = strategy
    if run.precision == "auto":  # the processes decide together, so they have to be there first
        plain = Fabric(**options, precision="32-true")
        plain.launch()
        run = settle(run, weakest_kind(plain))
    if run.shard and devices * nodes > 1:
        options["strategy"] = sharded(devices * nodes)
    if run.precision == "16":  # as a plugin: asked for by name, Fabric would take bfloat16 on a CPU
        fabric = Fabric(**options, plugins=MixedPrecision("16-mixed", Fabric(**options).device.type))
    else:
        fabric = Fabric(**options, precision="bf16-mixed" if run.precision == "bf16" else "32-true")
    fabric.launch()
    return fabric


@contextmanager
def shared_processor(fabric: Fabric, folder: Path) -> Iterator[str | None]:
    """Train with as many threads as cores are free; says so in a sentence where these are fewer than torch would take.

    Threads wait for one another a hundred times a step, so one that has to share its core holds all of them up. What
    `OMP_NUM_THREADS` says stays; a run goes on with the threads it had, since sums depend on their number.
    """
    usual = torch.get_num_threads()
    if fabric.device.type != "cpu" or fabric.world_size > 1 or usual == 1 or threads_given():
        yield None
        return
    before = last_threads(folder)
    threads, note = min(before or usual, usual), None
    if before is None:
        threads = max(1, min(usual, usable_cores() - math.floor(busy_elsewhere() + 0.3)))  # 0.7 of a core is one
        if threads < usual:
            note = (
                f"Other programs keep this processor busy, so this trains with {threads} of {usual} threads; start it "
                f"with OMP_NUM_THREADS={usual} to take all."
            )
    try:
        torch.set_num_threads(threads)
        yield note
    finally:
        torch.set_num_threads(usual)


def clip(fabric: Fabric, model: Any, optimizer: Any, run: Run) -> Tensor:
    """Scale all gradients down to `max_grad_norm` in the chosen norm; returns the norm before, on its device."""
    limit = run.optimizer.max_grad_norm
    norm = fabric.clip_gradients(
        model,
        optimizer,
        max_norm=math.inf if limit is None else limit,
        norm_type=2.0 if run.optimizer.grad_norm_type == "l2" else math.inf,
        error_if_nonfinite=False,
    )
    assert norm is not None
    return whole(norm)


class Reading:
    """Numbers of a step on their way to the CPU: who makes one goes on at once, who asks for `numbers` waits.

    On a GPU the copy stands in the queue behind the work that makes the numbers, so a loop that asks for those of the
    step before always leaves the GPU a step to do.

    Args:
        values: one axis, on its device.
    """

    def __init__(self, values: Tensor):
        gpu = values.device.type == "cuda"
        self._values = values.detach().to("cpu", non_blocking=gpu)  # into pinned memory
        self._copied = torch.cuda.Event() if gpu else None
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(values.device))

    def numbers(self) -> list[float]:
        """The values, once they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()


def scale_adapts(fabric: Fabric) -> bool:
    """In float16 an infinite gradient is ordinary while the loss scale falls: that update is left out."""
    return fabric.strategy.precision.state_dict().get("scale", 0.0) > 1e-4
