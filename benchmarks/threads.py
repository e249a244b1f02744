"""A training step beside another busy process: threads that soon sleep while they wait, against threads that spin.

OpenMP's threads wait for one another after each of some hundred parallel loops of a step. By default they spin; beside
another process they spin on the core that the thread they wait for should have. `slotworks.machine` lets them sleep
soon, and a training takes as many threads as cores are free when it starts.

Each row is measured in processes of their own, several times in turns; the busy one is a session of its own, as from
another terminal. The machine should do nothing else: what else runs makes threads slower that hand over their core.
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from statistics import median

from slotworks.machine import usable_cores

STEP = """
import sys, time
from pathlib import Path
import slotworks
import torch
from statistics import median
from slotworks.configs.slot_attention import tetrominoes_mini
from slotworks.training import open_fabric
from slotworks.training.devices import shared_processor
from slotworks.training.numerics import device_kind, settle
from slotworks.training.optimizer import build_optimizer

run = settle(tetrominoes_mini(), device_kind(torch.device("cpu")))
method = run.method.build()
layout = torch.channels_last if run.channels_last else torch.contiguous_format
method.to(memory_format=layout)
optimizer = build_optimizer(method, run)
image = torch.rand(run.batch_size, 3, *run.data.size).contiguous(memory_format=layout)
times = []
with shared_processor(open_fabric(run, device="cpu"), Path("no earlier run")):
    for _ in range(3 + int(sys.argv[1])):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "bf16"):
            loss = method.loss({"image": image}, 0)["recon"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
print(median(times[3:]))
"""

ALL = {"OMP_NUM_THREADS": str(usable_cores())}  # what is given stays
SPINNING = ALL | {"GOMP_SPINCOUNT": "300000"}  # GNU OpenMP's default
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


@contextmanager
def busy():
    """Another process that never rests."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        yield
    finally:
        other.kill()
        other.wait()


def step_seconds(settings: dict[str, str], steps: int) -> float:
    """The median step of `slot_attention.tetrominoes_mini` in a fresh process."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS} | settings
    command = [sys.executable, "-c", STEP, str(steps)]
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    return float(done.stdout)


def run(rounds: int = 3, steps: int = 20) -> list[dict]:
    """Medians in seconds and their ratios."""
    found: dict[str, list[float]] = {
        name: [] for name in ("alone", "beside", "all beside", "spinning alone", "spinning beside")
    }
    for _ in range(rounds):
        found["alone"].append(step_seconds({}, steps))
        found["spinning alone"].append(step_seconds(SPINNING, steps))
        with busy():
            found["beside"].append(step_seconds({}, steps))
            found["all beside"].append(step_seconds(ALL, steps))
            found["spinning beside"].append(step_seconds(SPINNING, steps))
    seconds = {name: median(values) for name, values in found.items()}
    step = "step of tetrominoes_mini"
    return [
        {"name": f"{step}: {what}", "ours_s": seconds[ours], "naive_s": seconds[plain]}
        | {"ratio": seconds[plain] / seconds[ours]}
        for what, ours, plain in (
            ("beside a busy process, threads for free cores against all that spin", "beside", "spinning beside"),
            ("beside a busy process, threads for free cores against all", "beside", "all beside"),
            ("alone, sleeping against spinning", "alone", "spinning alone"),
            ("threads for free cores, alone against beside a busy process", "alone", "beside"),
            ("spinning, alone against beside a busy process", "spinning alone", "spinning beside"),
        )
    ]


if __name__ == "__main__":
    print("load averages:", *(f"{load:.1f}" for load in os.getloadavg()))
    for row in run():
        print(f"{row['name']}: {row['ours_s']:.3f} s, plain {row['naive_s']:.3f} s, ratio {row['ratio']:.2f}")
