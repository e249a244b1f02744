"""Whether `slotworks plan RECIPE --gpu here` says how long a step takes: against steps that are measured here.

    OMP_NUM_THREADS=1 python -m benchmarks.plan          recipes of all families that need no download
    OMP_NUM_THREADS=1 python -m benchmarks.plan dspn.scenes_mini

Times are those of the processor (one thread), not of the clock: other work on the machine hardly counts. Steps are made
with noise in the place of data; the least of four is taken.
"""

import sys
import time
from dataclasses import replace

import torch

from slotworks.configs import find
from slotworks.plan import plan, rates_here
from slotworks.training import bench

RECIPES = (
    "slot_attention.tetrominoes_mini",
    "set_prediction.scenes_mini",
    "slot_mlp.scenes_mini",
    "dspn.scenes_mini",
    "savi.frames_mini",
    "steve.scenes_mini",
    "slate.scenes_mini",
    "dvae.videos_mini",
    "vqvae.scenes_mini",
    "slot_diffusion.scenes_mini",
    "dinosaur.scenes_mini",
    "spot.scenes_mini",
    "mae.scenes_mini",
    "glass.scenes_mini",
    "stable_lsd.scenes_mini",
    "dataset_diffusion.painted_mini",
    "tiny_diffusion.scenes",
)


def main() -> None:
    torch.set_num_threads(1)
    rates = rates_here()
    for kind, pace in rates.items():
        print(f"{kind:<12}{1e6 * pace.start:6.0f} us{pace.flops / 1e9:>12.1f} GFLOP/s{pace.memory / 1e9:>8.1f} GB/s")
    clock = type("ProcessTime", (), {"perf_counter": staticmethod(time.process_time)})
    bench.time, bench.median = clock, min
    for name in sys.argv[1:] or RECIPES:
        run = replace(find(name)(), precision="32", channels_last=False, compile=False)
        load = lambda folder: find(folder.rpartition("/")[2])().method.build()  # noqa: E731
        said = plan(run, load=load).seconds(rates)
        found = bench.measure(run, steps=4, load=load, training_only=True, device="cpu")["step_ms"] / 1000
        print(f"{name:<36}{1000 * said:>9.1f} ms said{1000 * found:>9.1f} ms measured{said / found:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
