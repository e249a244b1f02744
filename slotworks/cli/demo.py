"""`slotworks demo`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from slotworks import tables
from slotworks.cli.console import err, out, parse, percent, print_json, show_page
from slotworks.machine import Precision

RECIPE = "slot_attention.tetrominoes_mini"
MOST_THREADS = 4  # its maps of 18 x 18 are too small to be worth dividing among more


def main(argv: Sequence[str]) -> int:
    """Parse and run; `demo glass` is another one."""
    if argv and argv[0] == "glass":
        from slotworks.cli.demo_glass import main as glass

        return glass(argv[1:])
    parse(demo, argv, verb="demo")
    return 0


def demo(
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("runs/demo"),
    seed: int = 0,
    steps: int | None = None,
    precision: Precision = "auto",
    device: str | None = None,
    keep_memory: bool = sys.platform == "linux",
    open: bool = True,
    json: bool = False,
) -> None:
    """Draw Tetrominoes, train Slot Attention on them, measure on held-out scenes, write and open the report.

    Stopped, it goes on where it was. It is the recipe slot_attention.tetrominoes_mini.

    Examples:
      slotworks demo
      slotworks demo --seed 1 --out runs/demo1
      slotworks demo glass                       GLASS in miniature: generate, guide, measure, edit

    Args:
        out_folder: run folder.
        seed: of weights, data order and noise.
        steps: fewer or more than the recipe's.
        precision: 32, bf16 or 16 (mixed); auto: what this device computes fast.
        device: cpu, cuda, cuda:1 or mps; by default the first GPU, or the CPU.
        keep_memory: keep freed memory: faster on a CPU, at the cost of some memory; only under Linux, there by default.
        open: show the report in a browser where there is one.
        json: print the result as JSON.
    """
    from dataclasses import replace

    import torch

    from slotworks.cli.train import check_stopped, train_one
    from slotworks.configs import find
    from slotworks.files import check_writable
    from slotworks.ranges import check_options
    from slotworks.training.allocator import keep_freed_memory

    if keep_memory:
        keep_freed_memory()
    check_options(seed=seed, steps=steps)
    check_writable(out_folder)
    run = replace(find(RECIPE)(), seed=seed, precision=precision)
    run = replace(run, steps=steps or run.steps)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), MOST_THREADS))
    known = tables.row(RECIPE)
    assert known is not None
    err.print(f"Training {RECIPE} for {run.steps} steps. Measured before: {known['measured']}.", soft_wrap=True)
    answer = train_one(run, out_folder, device=device)
    if json:
        print_json(answer)
    elif "metrics" in answer:
        fg_ari = answer["metrics"]["fg_ari"]["mean"]
        page = Path(answer["report"]).resolve()
        out.print(f"FG-ARI {percent(fg_ari)} on held-out scenes. Open {page}", soft_wrap=True, markup=False)
        show_page(page, open=open)
    check_stopped(answer)
