"""`slotworks bench`."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from rich.box import SIMPLE
from rich.progress import track
from rich.table import Table

from slotworks.cli.console import err, out, parse, print_json
from slotworks.types import UserError

CPU_BATCH = 4  # 64 CLEVR images take minutes a step and tens of GB there


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(bench, argv, verb="bench")
    return 0


def bench(recipes: tuple[str, ...] = (), steps: int = 3, batch_size: int | None = None, json: bool = False) -> None:
    """Time of a training step, images a second through training and inference, and peak memory of recipes here.

    Each recipe runs on noise in a process of its own. Ratios against the plain forms: `python -m benchmarks` in a
    checkout.

    Examples:
      slotworks bench
      slotworks bench --recipes slot_attention.clevr6 --batch-size 8

    Args:
        recipes: names; by default all that need no file (`_mini`).
        steps: timed steps of each, after two that are not.
        batch_size: images per step; by default the recipe's own on a GPU, at most 4 on a CPU.
        json: print the rows as JSON.
    """
    from slotworks import configs

    names = recipes or tuple(name for name, run in configs.recipes().items() if name.endswith("_mini") and run().steps)
    for name in names:
        configs.find(name)  # a wrong name is found before the work
    rows, left_out = [], []
    context = multiprocessing.get_context("spawn")
    for name in track(names, "measuring", console=err, disable=json):
        with ProcessPoolExecutor(1, mp_context=context) as pool:  # its own process: memory of its own
            try:
                rows.append({"recipe": name, **pool.submit(_measure, name, steps, batch_size).result()})
            except UserError as error:  # weights or an earlier run that are not here
                left_out.append(f"{name} was left out: {error}")
    if not rows:
        raise UserError("\n".join(left_out))
    for sentence in left_out:
        err.print(sentence, soft_wrap=True, markup=False)
    if json:
        print_json(rows)
        return
    table = Table(
        title=f"{rows[0]['device']}, {rows[0]['threads']} threads; medians of {steps}", title_justify="left", box=SIMPLE
    )
    table.add_column("recipe", no_wrap=True)
    for column in ("batch", "step ms", "train/s", "infer/s", "MiB"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = (row["step_ms"], row["train_images_per_second"], row["infer_images_per_second"], row["peak_mib"])
        table.add_row(row["recipe"], str(row["batch_size"]), *(f"{number:,.0f}" for number in numbers))
    out.print(table)


def _measure(name: str, steps: int, batch_size: int | None) -> dict:
    from dataclasses import replace

    import torch

    from slotworks.configs import find
    from slotworks.training.bench import measure

    run = find(name)()
    own = run.batch_size if torch.cuda.is_available() else min(run.batch_size, CPU_BATCH)
    run = replace(run, batch_size=batch_size or own)
    return {"batch_size": run.batch_size, **measure(run, steps=steps)}
