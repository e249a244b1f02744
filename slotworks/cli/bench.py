"""`slotworks bench`."""

import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from slotworks.cli.console import err, out, parse, print_json
from slotworks.errors import UserError
from slotworks.machine import Precision
from slotworks.progress import progress
from slotworks.ranges import check_options

CPU_BATCH = 4  # 64 CLEVR images take minutes a step and tens of GB there

RENDERING = (  # of images, then of videos; StableLSD and GLASS need Stable Diffusion's weights
    *("slot_attention.clevrtex", "slate.clevrtex", "slot_diffusion.clevrtex"),
    *("savi.movi_d_unconditional", "steve.movi_d", "slot_diffusion.movi_d"),
)


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(bench, argv, verb="bench")
    return 0


def bench(
    recipes: tuple[str, ...] = (),
    rendering: bool = False,
    image_size: int | None = None,
    steps: int = 3,
    batch_size: int | None = None,
    precision: Precision | None = None,
    json: bool = False,
) -> None:
    """Time of a training step, images a second through training and inference, and peak memory of recipes here.

    Also the time to render 100 images, or videos of 24 frames, from their slots, as the method's paper samples. Each
    recipe runs on noise in a process of its own, with fresh weights in the place of those of an earlier run. Ratios
    against the plain forms: `python -m benchmarks` in a checkout.

    Examples:
      slotworks bench
      slotworks bench --recipes slot_attention.clevr6 --batch-size 8
      slotworks bench --rendering                     table 4 of SlotDiffusion for this machine

    Args:
        recipes: names; by default all that need no file (`_mini`).
        rendering: methods that render pictures, on CLEVRTex and MOVi-D, all at 128 pixels unless image-size is given.
        image_size: pixels, square, for all recipes; by default their own, 128 with --rendering.
        steps: timed steps of each, after two that are not.
        batch_size: images per step; by default the recipe's own on a GPU, at most 4 on a CPU.
        precision: of all recipes; by default the recipe's own. auto: what this device computes fast.
        json: print the rows as JSON.
    """
    from slotworks import configs

    check_options(steps=steps, batch_size=batch_size, image_size=image_size)
    if rendering and recipes:
        raise UserError("Give --rendering or --recipes; the first is a list of recipes of its own.")
    if rendering:
        recipes, image_size = RENDERING, image_size or 128
    names = recipes or tuple(name for name, run in configs.recipes().items() if name.endswith("_mini") and run().steps)
    for name in names:
        configs.find(name)  # a wrong name is found before the work
    rows, left_out = [], []
    context = multiprocessing.get_context("spawn")
    with progress("measuring", len(names), unit="recipes") as advance:
        for name in names:
            with ProcessPoolExecutor(1, mp_context=context) as pool:  # its own process: memory of its own
                try:
                    job = pool.submit(_measure, name, steps, batch_size, image_size, precision)
                    rows.append({"recipe": name, **job.result()})
                except UserError as error:  # weights or an earlier run that are not here
                    left_out.append(f"{name} was left out: {error}")
            advance(1)
    if not rows:
        raise UserError("\n".join(left_out))
    for sentence in left_out:
        err.print(sentence, soft_wrap=True, markup=False)
    if json:
        print_json(rows)
        return
    title = f"{rows[0]['device']}, {rows[0]['threads']} threads; medians of {steps}; MiB: peak of training; render: "
    title += "seconds for 100 images, or videos of 24 frames"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("recipe", no_wrap=True)
    table.add_column("precision")
    for column in ("batch", "step ms", "train/s", "infer/s", "MiB", "render"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = (row["step_ms"], row["train_images_per_second"], row["infer_images_per_second"], row["train_mib"])
        cells = ["-" if math.isnan(number) else f"{number:,.0f}" for number in numbers]
        rendered = "-" if math.isnan(row["render_s"]) else f"{row['render_s']:,.1f}"
        table.add_row(row["recipe"], row["precision"], str(row["batch_size"]), *cells, rendered)
    out.print(table)


def _measure(
    name: str, steps: int, batch_size: int | None, image_size: int | None, precision: Precision | None
) -> dict:
    from dataclasses import replace
    from pathlib import Path

    import torch

    from slotworks.configs import find
    from slotworks.training.bench import measure

    run = find(name)()
    own = run.batch_size if torch.cuda.is_available() else min(run.batch_size, CPU_BATCH)
    run = replace(run, batch_size=batch_size or own, precision=precision or run.precision)
    if image_size is not None:
        run = _at_size(run, image_size)
    rows = measure(run, steps=steps, load=lambda folder: find(Path(folder).name)().method.build())
    return {"batch_size": run.batch_size, **rows}


def _at_size(run: Any, size: int) -> Any:
    from dataclasses import fields, replace

    changes = {}
    try:
        for part in ("method", "data"):
            value = getattr(run, part)
            if "image_size" in {field.name for field in fields(value)}:
                new = (size, size) if isinstance(value.image_size, tuple) else size
                changes[part] = replace(value, image_size=new)
        return replace(run, **changes)
    except ValueError as error:
        raise UserError(f"This recipe cannot be run at {size} pixels: {error}") from None
