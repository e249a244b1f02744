"""SlotDiffusion's sampling: keys and values of the slots computed once against once at every step.

On a GPU 100 images with the published networks (134 million parameters, 128 pixels, 20 steps); on a CPU 100 images with
the networks of `slot_diffusion.scenes_mini`. Weights are random, which takes as long. The U-Net spends most of its time
in convolutions, so little can be gained; the second row shows the gain where slots are many: 256 of them.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from slotworks.configs.slot_diffusion import clevrtex, scenes_mini

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
IMAGES = 100
REPEATS = 3


def run() -> list[dict]:
    """Seconds to sample 100 images, the best of three after one to warm up."""
    torch.manual_seed(0)
    config: Any = (clevrtex() if GPU else scenes_mini()).method
    method = config.build().to(DEVICE).eval()
    method.decoder.ready.fill_(True)
    rows = []
    for count in (config.num_slots, 256):
        slots = torch.randn(IMAGES, count, config.slot_dim, device=DEVICE)

        def sample(*, fixed: bool, slots: torch.Tensor = slots) -> None:
            generator = torch.Generator(DEVICE).manual_seed(0)
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=GPU):
                method.decoder.sample(slots, generator=generator, fixed=fixed)

        ours, plain = (best(lambda fixed=fixed: sample(fixed=fixed)) for fixed in (True, False))
        rows.append(
            {
                "name": f"SlotDiffusion, {IMAGES} images, {count} slots: keys once / every step",
                "ours_s": ours,
                "naive_s": plain,
                "ratio": plain / ours,
            }
        )
    return rows


def best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        work()
        if GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
