"""`slotworks plan`."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from slotworks import tables
from slotworks.cli.console import out, print_json, take_option
from slotworks.cli.train import build
from slotworks.errors import UserError, nearest
from slotworks.ranges import whole_number

if TYPE_CHECKING:
    from slotworks.plan import Plan
    from slotworks.training import Run

HELP = """usage: slotworks plan CONFIG [--gpu NAME] [--devices N] [--utilisation U] [--json] [--OPTION VALUE ...]

What a training will ask of a machine, before its data or weights are there: parameters, operations and memory of a
step, the disk, counted without computing one, and the hours that follow on a GPU.

  slotworks plan glass.coco                          on an A100, at 30 percent of its peak
  slotworks plan glass.coco_phase2 --gpu h100 --devices 8
  slotworks plan dinosaur.coco_mlp --batch-size 128 --utilisation 0.4
  slotworks plan slot_attention.tetrominoes_mini --gpu here
  slotworks plan slot_attention.clevr6 --json

  --gpu NAME        %s; default a100.
                    here: this machine's CPU, whose rates are tried for two seconds
  --devices N       GPUs that share a step; default 1
  --utilisation U   share of the peak rate that is reached, above 0 to 1; default 0.3
  --json            print the result as JSON

All other options are those of the recipe, as in `slotworks train CONFIG --help`. Hours are the operations of all steps
by peak rate, utilisation and number of GPUs: no evaluation, no waiting for data. Element-wise work is not counted,
which small networks spend most of their time on; for this CPU it is, as the bytes that it moves. Memory is of one
device, in float32; mixed precision keeps about half of the activations."""

GPUS = {  # published dense peak rates of matrix products in 16 bits, 10^12 operations a second, and memory in GB
    "t4": ("NVIDIA T4", 65, 16),
    "v100": ("NVIDIA V100 SXM2", 125, 32),
    "a40": ("NVIDIA A40", 149.7, 48),
    "a100": ("NVIDIA A100 SXM", 312, 80),
    "l40s": ("NVIDIA L40S", 362, 48),
    "h100": ("NVIDIA H100 SXM", 989, 80),
    "h200": ("NVIDIA H200 SXM", 989, 141),
}


HERE = "here"


def main(argv: Sequence[str]) -> int:
    """Parse by hand what belongs to the verb; the rest are fields of the recipe."""
    if not argv or {"-h", "--help"} & set(argv):
        print(HELP % ", ".join(GPUS))
        return 0
    name, *rest = argv
    rest, gpu = take_option(rest, "--gpu")
    rest, devices = take_option(rest, "--devices")
    rest, share = take_option(rest, "--utilisation")
    gpu, devices, share = gpu or "a100", devices or "1", share or "0.3"
    if gpu not in GPUS and gpu != HERE:
        raise UserError(f"--gpu is {gpu}; known are {', '.join([*GPUS, HERE])}. Nearest: {nearest(gpu, GPUS)}.")
    if gpu == HERE and (devices != "1" or share != "0.3"):
        raise UserError("--gpu here is one CPU whose rates are measured; leave --devices and --utilisation out.")
    if not whole_number(devices):
        raise UserError(f"--devices is {devices}; expected a number of GPUs, 1 or more.")
    utilisation = _share(share)
    run = build(name, [word for word in rest if word != "--json"])
    if run.batch_size // run.accumulate % int(devices):
        raise UserError(
            f"batch_size is {run.batch_size} in {run.accumulate} micro-batches, which {devices} GPUs cannot share "
            "evenly; choose another number."
        )
    answer = hours_of(run, plan_of(run, int(devices)), gpu, int(devices), utilisation)
    if "--json" in argv:
        print_json(answer)
        return 0
    for label, text in _lines(name, answer).items():
        out.print(f"{label:<12}{text}", soft_wrap=True, markup=False)
    return 0


def plan_of(run: "Run", devices: int) -> "Plan":
    """The plan of one device's share of a step; earlier runs are made anew from their recipes."""
    from dataclasses import replace

    from slotworks.configs import find
    from slotworks.plan import plan

    one = replace(run, batch_size=run.batch_size // devices)
    return plan(one, load=lambda folder: find(Path(folder).name)().method.build())


def hours_of(run: "Run", plan: "Plan", gpu: str, devices: int, utilisation: float) -> dict:
    """The plan of one device's share of a step, with the time that all steps take."""
    if gpu == HERE:
        from slotworks.plan import rates_here

        name, memory, seconds = "this machine's CPU", math.inf, plan.seconds(rates_here())
    else:
        name, peak, memory = GPUS[gpu]
        seconds = plan.flops / (peak * 1e12 * utilisation)
    return {
        **{name: value for name, value in asdict(plan).items() if name != "work"},
        "steps": run.steps,
        "batch_size": run.batch_size,
        "gpu": name,
        "gpu_memory_gb": memory if memory < math.inf else None,
        "devices": devices,
        "utilisation": utilisation if gpu != HERE else None,
        "step_seconds": seconds,
        "hours": seconds * run.steps / 3600,
        "gpu_hours": seconds * run.steps * devices / 3600,
        "disk": disk_of(run, plan),
    }


def disk_of(run: "Run", plan: "Plan") -> dict:
    """On the disk: bytes of a checkpoint and of stored features of an image; in words what prepared data take."""
    from slotworks.data import CachedFeatures
    from slotworks.encoders.blank import without_weights
    from slotworks.plan import BYTES

    stored = run.data if isinstance(run.data, CachedFeatures) else None
    name = run.data.name if stored is None else stored.source_images.name
    rows = {row["name"]: row["disk"] for row in tables.read()["data"]}
    with without_weights():
        features = None if stored is None else stored.row_bytes * (1 + stored.crops) * (1 + stored.flips)
    return {
        "checkpoint": (plan.parameters + (2 + (run.ema_decay is not None)) * plan.trained) * BYTES,
        "features": features,
        "data": rows.get(name),
    }


def _lines(recipe: str, answer: dict) -> dict[str, str]:
    trained, kept = answer["trained"], answer["parameters"]
    parameters = f"{trained:,} trained" + (f" of {kept:,}" if kept != trained else "")
    if answer["frozen"]:
        parameters += f", beside {answer['frozen']:,} of frozen networks"
    weights, optimizer, activations = (answer[key] / 1e9 for key in ("weights", "optimizer", "activations"))
    total = weights + optimizer + activations
    many = f"{answer['devices']} x " if answer["devices"] > 1 else ""
    there = answer["gpu_memory_gb"]
    fits = "" if there is None or total <= there else "; more than it has: use 16 bits, or more micro-batches"
    days = f" ({answer['hours'] / 24:.1f} days)" if answer["hours"] > 48 else ""
    disk = answer["disk"]
    kept_there = [f"{_size(disk['checkpoint'])} for each checkpoint"]
    if disk["features"]:
        many_images = f"{_size(100_000 * disk['features'])} for 100,000"
        kept_there.append(f"{_size(disk['features'])} of features for each image, {many_images}")
    kept_there += [f"the data prepared {disk['data']}"] * bool(disk["data"])
    waits = ", ".join(f"{count} x {what}" for what, count in answer["visits"].items()) or "never"
    return {
        "recipe": f"{recipe}: {answer['steps']:,} steps of {answer['batch_size']}",
        "parameters": parameters,
        "a step": f"{answer['flops'] / 1e12:,.2f} x 10^12 operations on each device, forward and backward",
        "memory": f"{total:.1f} GB in float32 (weights {weights:.1f}, gradients and moments {optimizer:.1f}, "
        f"activations {activations:.1f}){'' if there is None else f' of {there} GB'}{fits}",
        "disk": ", ".join(kept_there),
        "waits": f"for numbers of the device in a step: {waits}",
        "time": f"{_round(answer['hours'])} hours{days} on {many}{answer['gpu']}{_share_of(answer)}",
    }


def _size(count: int) -> str:
    """
    >>> _size(1_700_000), _size(17_800_000_000)
    ('1.7 MB', '17.8 GB')
    """
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _share_of(answer: dict) -> str:
    if answer["utilisation"] is None:
        return f", {1000 * answer['step_seconds']:,.0f} ms a step"
    return f" at {answer['utilisation']:.0%} of its peak, {_round(answer['gpu_hours'])} GPU hours"


def _round(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise UserError(f"--utilisation is {text}; expected a share of the peak rate, above 0 to 1, such as 0.3.")
    return value
