"""What a GPU does with this package, for a person who has one: speed, memory, and whether its numbers are a CPU's.

    python -m benchmarks gpu                       five minutes, the most important first
    python -m benchmarks gpu --long                everything
    python -m benchmarks gpu --device cpu --tiny   a dry run without a GPU, of two miniatures

Nothing is downloaded: batches are noise and published networks have random weights. Every figure is written to one JSON
file as it comes, so that a stop loses nothing; what the time did not allow is named there, and so is what failed.

In this order: one step of each method's miniature in float32 and in bfloat16 on the device against float32 on the CPU,
with the same weights, batch and noise; three steps of a published recipe of each method at its own batch size (halved
until it fits) in the precision that `auto` chooses, with what they cost and how often a step waits for the device;
sampling and metrics; with `--long` all published networks, and the compiled loss.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from slotworks.configs import recipes
from slotworks.encoders.blank import without_weights
from slotworks.files import write_text
from slotworks.metrics import ari
from slotworks.nn.noise import noise_from
from slotworks.training import Run
from slotworks.training.bench import measure, noise
from slotworks.training.devices import clip, open_fabric
from slotworks.training.loop import set_up
from slotworks.training.numerics import settle_run
from slotworks.training.seeds import set_seed
from slotworks.types import Method, VideoMethod

MINUTES = 5.0
TINY = ("slot_attention.tetrominoes_mini", "slot_diffusion.scenes_mini")
READS_MORE = ("PaintedDiffusionConfig", "TinyDiffusionConfig", "TinyCLIPConfig", "CLIPpyConfig", "SegCLIPConfig")
READS_MORE += ("OVSegmentorConfig",)
"""Settings of methods whose steps read of their data what noise has not, such as captions."""

Job = Callable[[], dict[str, Any]]


def earlier(folder: str) -> Method:
    """A method with fresh weights in the place of an earlier run's."""
    return recipes()[Path(folder).name]().method.build()


def build(run: Run, device: str, precision: str, compiled: bool = False) -> tuple[Run, Any, Method, Any, Any]:
    """A run as it would be trained on a device: the run, Fabric, the method, its step and the optimiser."""
    changes: dict[str, Any] = {"perceptual": False} if getattr(run.method, "perceptual", False) else {}
    run = replace(run, precision=precision, compile=compiled, method=replace(run.method, **changes))
    fabric = open_fabric(run, device=device)
    run = settle_run(run, fabric)
    method, model, optimizer = set_up(run, fabric, earlier)
    for part in method.modules():
        if isinstance(ready := getattr(part, "ready", None), torch.Tensor):  # an autoencoder trained before
            ready.fill_(True)
    for weight in method.parameters():
        if not weight.any():  # layers that start at zero would hide what comes before them
            torch.nn.init.normal_(weight, std=0.02)
    return run, fabric, method, model, optimizer


def losses(run: Run, device: str, precision: str) -> dict[str, float]:
    """The first losses with two images, without dropout; weights, images and noise are drawn on the CPU."""
    run, _, method, model, _ = build(replace(run, batch_size=2, accumulate=1), device, precision)
    method.eval()
    drawn = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    raw = noise(run, 2, video=isinstance(method, VideoMethod))
    torch.manual_seed(2)  # what draws slots of its own
    with torch.no_grad(), noise_from(lambda draw, shape: draw(*shape, generator=drawn)):
        return {name: value.item() for name, value in model(raw, 0).items()}


def against_cpu(name: str, device: str) -> dict[str, Any]:
    """Losses in float32 and bfloat16 on the device, and how far they are from the CPU's, relative to these."""
    run = recipes()[name]()
    cpu = losses(run, "cpu", "32")
    found: dict[str, Any] = {"cpu_float32": cpu}
    for precision in ("32", "bf16"):
        there = losses(run, device, precision)
        key = "float32" if precision == "32" else "bfloat16"
        found[key] = there
        found[f"{key}_off"] = max(abs(there[term] - value) / max(abs(value), 1e-6) for term, value in cpu.items())
    return found


def first_steps(name: str, device: str, steps: int = 3, compiled: bool = False) -> dict[str, Any]:
    """Losses and cost of the first steps at the recipe's batch size, or the largest of its halves that fits."""
    run = recipes()[name]()
    size = run.batch_size // run.accumulate
    while True:
        try:
            found = _first_steps(replace(run, batch_size=size, accumulate=1), device, steps, compiled)
            return {"batch_size": size, "recipe_batch_size": run.batch_size, "compiled": compiled, **found}
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
        torch.cuda.empty_cache()


def _first_steps(run: Run, device: str, steps: int, compiled: bool) -> dict[str, Any]:
    run, fabric, method, model, optimizer = build(run, device, "auto", compiled)
    raw = noise(run, run.batch_size, video=isinstance(method, VideoMethod))
    gpu = fabric.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(fabric.device)
    totals, seconds, waits = [], [], 0
    for step in range(2 + steps):
        set_seed(step, fabric.device)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            start = time.perf_counter()
            if gpu:
                torch.cuda.set_sync_debug_mode("warn")
            total = torch.stack(list(model(raw, step).values())).sum()
            fabric.backward(total)
            clip(fabric, model, optimizer, run)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if gpu:
                torch.cuda.set_sync_debug_mode("default")
                torch.cuda.synchronize(fabric.device)
            seconds.append(time.perf_counter() - start)
        waits = sum("synchroniz" in str(warning.message) for warning in caught)  # of the last step
        totals.append(total.item())
    step_seconds = median(seconds[2:])
    return {
        "losses": totals,
        "step_ms": 1000 * step_seconds,
        "images_per_second": run.batch_size / step_seconds,
        "peak_mib": torch.cuda.max_memory_allocated(fabric.device) / 2**20 if gpu else None,
        "waits": waits,
        "precision": run.precision,
        "channels_last": run.channels_last,
    }


def rendering(name: str, device: str) -> dict[str, Any]:
    """Images a second to slots, and seconds to render a hundred."""
    found = measure(recipes()[name](), steps=3, load=earlier, device=device)
    return {key: found[key] for key in ("infer_images_per_second", "render_s", "peak_mib", "precision")}


def scoring(device: str, images: int = 512, side: int = 128) -> dict[str, Any]:
    """Images a second whose ARI is computed, from masks that lie on the device."""
    generator = torch.Generator().manual_seed(0)
    true, found = (torch.randint(7, (images, side, side), generator=generator).to(device) for _ in range(2))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        ari(found, true).sum().item()
        best = min(best, time.perf_counter() - start)
    return {"images": images, "side": side, "images_per_second": images / best}


def named(*, mini: bool, every: bool = False) -> Iterator[str]:
    """A recipe of each class of settings, or with `every` of each network, as far as noise can feed them."""
    seen = set()
    for name, function in recipes().items():
        run = function()
        kind = type(run.method).__name__
        aside = kind in READS_MORE or name.startswith("ablations.")
        if aside or not run.steps or name.endswith("_mini") != mini:
            continue
        key = re.sub(r"'(runs/|stabilityai)[^']*'", "", repr((run.method, run.batch_size))) if every else kind
        if key not in seen:
            seen.add(key)
            yield name


def jobs(device: str, *, tiny: bool, everything: bool) -> Iterator[tuple[str, str, Job]]:
    """Kind, recipe and what gives the figures, the most important first."""
    minis = TINY if tiny else tuple(named(mini=True))
    published = TINY if tiny else tuple(named(mini=False))
    for name in minis:
        yield "against the CPU", name, lambda name=name: against_cpu(name, device)
    for name in published:
        yield "first steps", name, lambda name=name: first_steps(name, device)
    for name in TINY:
        yield "inference", name, lambda name=name: rendering(name, device)
    yield "ARI", "", lambda: scoring(device, *((16, 32) if tiny else ()))
    if everything:
        for name in published:
            yield "first steps, compiled", name, lambda name=name: first_steps(name, device, compiled=True)
        for name in [] if tiny else [name for name in named(mini=False, every=True) if name not in published]:
            yield "first steps", name, lambda name=name: first_steps(name, device)


def machine(device: str) -> dict[str, Any]:
    """Where this runs, and which commit."""
    said: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version(), "device": device}
    said |= {"threads": torch.get_num_threads(), "load": os.getloadavg()[0], "system": platform.platform()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    said["commit"] = commit.stdout.strip() or None
    if torch.device(device).type == "cuda":
        about = torch.cuda.get_device_properties(device)
        said |= {"gpu": about.name, "gib": about.total_memory / 2**30, "cuda": torch.version.cuda}
        said["capability"] = f"{about.major}.{about.minor}"
    return said


def main(words: list[str]) -> None:
    """Run the jobs one after the other until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="such as cuda, cuda:1 or cpu")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--long", action="store_true", help="everything, however long it takes")
    parser.add_argument("--tiny", action="store_true", help="two miniatures only")
    options = parser.parse_args(words)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu --tiny is a dry run.")
    began = time.monotonic()
    record: dict[str, Any] = {"machine": machine(options.device), "rows": [], "left_out": []}
    for kind, name, job in jobs(options.device, tiny=options.tiny, everything=options.long):
        if not options.long and time.monotonic() - began > 60 * MINUTES:
            record["left_out"].append(f"{kind} {name}".strip())
            continue
        start = time.monotonic()
        try:
            with without_weights():
                found = job()
        except Exception as error:  # one that fails must not take the others' figures with it
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        row = {"what": kind, "recipe": name, **found, "seconds": round(time.monotonic() - start, 2)}
        record["rows"].append(row)
        write_text(options.out, json.dumps(record, indent=1) + "\n")
        said = {key: value for key, value in row.items() if key not in ("what", "recipe", "losses")}
        print(f"{kind:<22} {name:<36} {json.dumps(said)}", flush=True)
    write_text(options.out, json.dumps(record, indent=1) + "\n")
    left = f"; the time did not allow {len(record['left_out'])} more, --long does" if record["left_out"] else ""
    print(f"{len(record['rows'])} rows in {options.out}{left}.")
