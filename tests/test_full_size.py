"""One training step of every published network at its full size on the CPU, each in a process of its own: `-m slow`.

Random weights in the place of published ones, noise in the place of data, one image; two where a batch norm would see a
single number. Small networks come first, those with a Stable Diffusion last. What passed stands in
build/full_size.jsonl and is not done again unless the recipe changes or the file is deleted: stopped and started once
more, the test goes on where it was, and `-m slow -k "dvae or savi"` does a part. A step may take 20 GB;
SLOTWORKS_FULL_SIZE_GB lowers that on a smaller machine, where larger ones are skipped.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from networks import described, networks

from slotworks.configs import recipes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "full_size.jsonl"
GIGABYTES, MOST = float(os.environ.get("SLOTWORKS_FULL_SIZE_GB", "20")), 20.0
TOO_LARGE = 3  # exit code
STEP = """
import json, math, resource, sys
from dataclasses import replace
from pathlib import Path
name, size, gigabytes = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 1e9),) * 2)
import torch
from slotworks.configs import recipes
from slotworks.encoders.blank import without_weights
from slotworks.training.bench import noise
from slotworks.training.devices import open_fabric
from slotworks.training.loop import set_up
from slotworks.training.numerics import settle_run
from slotworks.types import VideoMethod

try:
    run = replace(recipes()[name](), batch_size=size, accumulate=1, precision="32")
    if getattr(run.method, "perceptual", False):  # LPIPS reads published weights
        run = replace(run, method=replace(run.method, perceptual=False))
    with without_weights():
        fabric = open_fabric(run, device="cpu")
        run = settle_run(run, fabric)
        method, model, optimizer = set_up(run, fabric, lambda folder: recipes()[Path(folder).name]().method.build())
        raw = noise(run, size, video=isinstance(method, VideoMethod))
        before = {name: p.detach().double().sum().item() for name, p in method.named_parameters() if p.requires_grad}
        terms = model(raw, 0)
        fabric.backward(torch.stack(list(terms.values())).sum())
        reached = sum(p.grad is not None for p in method.parameters())
        pulled = sum(p.grad is not None and bool(p.grad.any()) for p in method.parameters())
        for group in optimizer.param_groups:
            group["lr"] = 1e-3  # warm-ups begin at 0
        optimizer.step()
    after = {name: p.detach().double().sum().item() for name, p in method.named_parameters() if p.requires_grad}
except (MemoryError, RuntimeError) as error:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        sys.exit(3)
    raise
print(json.dumps({
    "terms": {name: value.item() for name, value in terms.items()},
    "trained": len(before),
    "reached": reached,
    "pulled": pulled,
    "moved": sum(before[name] != after[name] for name in before),
    "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
}))
"""


def _cost(name: str) -> tuple[bool, bool, int]:
    """By what networks are sorted: whether a Stable Diffusion is in them, and trained; pixels that slots draw."""
    run = recipes()[name]()
    diffusion = getattr(run.method, "diffusion", None)
    frames = getattr(run.data, "clip_length", None) or 1
    pixels = math.prod(run.data.size) * frames * getattr(run.method, "num_slots", 1)
    return diffusion is not None, getattr(diffusion, "trained", False), pixels


def _one_of_each() -> list[str]:
    """The networks, cheapest first; of those that differ in the weights of their losses alone, the first."""
    found: dict[tuple, str] = {}
    for name in networks():
        run = recipes()[name]()
        found.setdefault((described(replace(run.method, loss_weights={})), run.data.size), name)
    return sorted(found.values(), key=_cost)


def _key(name: str) -> str:
    return hashlib.sha256(repr(recipes()[name]()).encode()).hexdigest()[:16]


def _done() -> dict[str, str]:
    """The recipes that passed, with what they were."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    return {row["recipe"]: row["key"] for row in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.parametrize("name", _one_of_each())
def test_a_step_at_full_size(name):
    """Every term of the loss is a number, every weight that is trained has a gradient, and what it pulls moves.

    Layers that start at zero, as the last one of a U-Net does, leave nothing for those before them at the first step.
    """
    if _done().get(name) == _key(name):
        pytest.skip(f"passed before, see {RESULTS}")
    size = "2" if type(recipes()[name]().method).__name__ == "DatasetDiffusionConfig" else "1"
    words = [sys.executable, "-c", STEP, name, size, str(min(GIGABYTES, MOST))]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode == TOO_LARGE and GIGABYTES < MOST:
        pytest.skip(f"needs more than {GIGABYTES:g} GB")
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert all(abs(value) < float("inf") for value in found["terms"].values()), found  # NaN is not, either
    assert found["reached"] == found["trained"] > 0, found
    assert found["moved"] > 0.9 * found["pulled"] > 0, found
    assert found["gigabytes"] < MOST
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"recipe": name, "key": _key(name), **found}) + "\n")
