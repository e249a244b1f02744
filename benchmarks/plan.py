"""Whether `slotworks plan RECIPE --gpu here` says how long a step takes: against steps that are measured here.

    OMP_NUM_THREADS=1 python -m benchmarks.plan                    some recipes that need no download
    OMP_NUM_THREADS=1 python -m benchmarks.plan dspn.scenes_mini

Times are those of the processor (one thread), not of the clock: other work on the machine does not count.
"""

import sys
import time
from dataclasses import replace

import torch

from slotworks.configs import find
from slotworks.plan import plan, rates_here
from slotworks.training import bench
from slotworks.training.trial import dry_run

RECIPES = ("slot_attention.tetrominoes_mini", "set_prediction.scenes_mini", "slot_mlp.scenes_mini", "vqvae.scenes_mini")


def main() -> None:
    torch.set_num_threads(1)
    rates = rates_here()
    print(rates, flush=True)
    for name in sys.argv[1:] or RECIPES:
        run = replace(find(name)(), precision="32", channels_last=False, compile=False)
        said = plan(run, load=lambda folder: find(folder.rpartition("/")[2])().method.build()).seconds(rates)
        bench.time = type("ProcessTime", (), {"perf_counter": staticmethod(time.process_time)})
        found = dry_run(run, steps=5, device="cpu")["step_seconds"]
        print(f"{name:<36}{1000 * said:>9.1f} ms said{1000 * found:>9.1f} ms measured{said / found:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
