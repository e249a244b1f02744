"""Time and memory of a training step, and images a second to slots and back, of one recipe on this machine."""

import math
import resource
import sys
import time
from statistics import median

import torch

from slotworks.training.loop import TrainStep, build_optimizer, open_fabric
from slotworks.training.run import Run
from slotworks.types import Decodes, RawBatch, UserError


def measure(run: Run, *, steps: int = 5) -> dict:
    """Train on noise of the recipe's image and batch size, then encode and decode it; no data set is opened.

    A method on a frozen encoder trains on features, as it does with the cache.

    Memory is the peak of the whole process on a CPU, of the tensors on a GPU. Call it in a fresh process.

    Args:
        run: the recipe.
        steps: timed steps, after two that are not; times are medians.

    Returns:
        `step_ms`, `train_images_per_second`, `infer_images_per_second` (NaN without the encoder's weights),
        `peak_mib`, `parameters`, `device`, `threads`.
    """
    fabric = open_fabric(run)
    torch.manual_seed(run.seed)
    method = run.method.build()
    if run.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(method, run)
    model, optimizer = fabric.setup(TrainStep(method, run, fabric.device), optimizer)
    size = run.batch_size // run.accumulate
    raw = _noise(run, size)

    def step() -> None:
        for _ in range(run.accumulate):
            fabric.backward(torch.stack(list(model(raw, 0).values())).sum())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def infer() -> None:
        image = torch.zeros(size, 3, *run.data.size, device=fabric.device)
        out = method.encode(image)
        if isinstance(method, Decodes):
            method.decode(*out.decoder_inputs)

    step_seconds = _seconds(step, steps, fabric.device)
    method.eval()
    try:
        infer_seconds = _seconds(infer, steps, fabric.device)
    except UserError:  # the weights of the frozen encoder are not here
        infer_seconds = math.nan
    return {
        "step_ms": 1000 * step_seconds,
        "train_images_per_second": run.batch_size / step_seconds,
        "infer_images_per_second": size / infer_seconds,
        "peak_mib": _peak_mib(fabric.device),
        "parameters": sum(p.numel() for p in method.parameters()),
        "device": torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def _noise(run: Run, size: int) -> RawBatch:
    encoder = getattr(run.method, "encoder", None)
    if encoder is not None and hasattr(encoder, "feature_dim"):
        rows, columns = encoder.grid
        return {"features": torch.randn(size, rows * columns, encoder.feature_dim).numpy()}
    return {"image": torch.randint(256, (size, *run.data.size, 3), dtype=torch.uint8).numpy()}


def _seconds(job, repeats: int, device: torch.device) -> float:
    times = []
    for _ in range(2 + repeats):
        start = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return median(times[2:])


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, Linux KiB
