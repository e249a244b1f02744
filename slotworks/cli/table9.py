"""`slotworks table9`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape
from rich.table import Table

from slotworks.cli.console import out, parse, print_json
from slotworks.errors import UserError

if TYPE_CHECKING:
    from slotworks.configs.table9 import Row


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    return parse(table9, argv, verb="table9")


def table9(
    data: Literal["voc", "coco", "painted"] = "painted",
    runs: Path = Path("runs"),
    root: Path | None = None,
    images: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    device: str | None = None,
    only: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    """Score the sixteen methods of GLASS's table 9 on one data set: mIoU over classes, beside the number it prints.

    A method whose run folder lies below RUNS is scored; one that trains nothing is scored as it is; of every other the
    commands are printed that make its run. k-means and blocks stand below. Methods without classes of their own are
    matched to classes in each image, all others by class or cluster over the data set: the two do not compare.

    Examples:
      slotworks table9                                       painted scenes, minutes for what needs no training
      slotworks table9 --data voc --root data/VOCdevkit
      slotworks table9 --only CLIPpy SegCLIP --images 64

    Args:
        data: VOC 2012, COCO 2017, or painted scenes with the miniatures.
        runs: folder of the run folders, each by the name of its recipe.
        root: folder of the data set.
        images: how many images, from the first on; all by default.
        batch_size: images per forward pass.
        seed: of initial slots and of clusters.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        only: methods to score, as the table names them.
        json: print the rows as JSON.
    """
    from slotworks.cli.sources import find_data
    from slotworks.configs.table9 import BESIDE, ROWS
    from slotworks.ranges import check_options

    check_options(num_images=images, batch_size=batch_size, seed=seed)
    rows = (*ROWS, *BESIDE)
    known = [row.method for row in rows]
    if unknown := [name for name in only if name not in known]:
        raise UserError(f"Table 9 has no row {unknown[0]!r}; it has {', '.join(known)}.")
    source = None
    if data == "painted" or root is not None:
        source = find_data({"painted": "painted_scenes", "voc": "voc", "coco": "coco"}[data], root)
    how = {"data": source, "num_images": images, "batch_size": batch_size, "seed": seed, "device": device}
    found = [_scored(row, data, runs, how) for row in rows if not only or row.method in only]
    if json:
        print_json(found)
        return 0
    table = Table(title=f"GLASS, table 9, on {data}; mIoU over classes, %", title_justify="left")
    for column in ("method", "printed", "here", "pixels right", "s", "rule", ""):
        table.add_column(column, justify="right" if column in ("printed", "here", "pixels right", "s") else "left")
    for one in found:
        numbers = [f"{100 * one[name]:.1f}" if name in one else "" for name in ("miou", "pixel_accuracy")]
        spent = f"{one['seconds']:.0f}" if "seconds" in one else ""
        table.add_row(one["method"], one["printed"], *numbers, spent, one.get("rule", ""), escape(one["note"]))
    out.print(table)
    for one in found:
        if "commands" in one:
            out.print(f"{one['method']}: {' ; '.join(one['commands'])}", soft_wrap=True, markup=False, highlight=False)
    return 0


def _scored(row: "Row", where: Any, runs: Path, how: dict[str, Any]) -> dict[str, Any]:
    """The row with its score, or with the commands that make its run, or with why there is none."""
    from slotworks import api
    from slotworks.configs import find
    from slotworks.configs.table9 import PER_IMAGE

    name = row.recipe(where)
    one: dict[str, Any] = {"method": row.method, "printed": row.printed(where), "note": ""}
    if name is None:
        return one | {"note": "no recipe on these data"}
    one["recipe"] = name
    run, folder = find(name)(), runs / name
    if run.steps and not folder.exists():
        return one | {"note": "not trained", "commands": list(row.commands[where])}
    rule = "per_image" if row.method in PER_IMAGE else None
    began = time.monotonic()
    try:
        folder = folder if run.steps else api.untrained(run, folder)
        (record,) = api.evaluate(folder, task="semantic", rule=rule, **how)
    except UserError as error:
        earlier = {"commands": list(row.commands[where])} if len(row.commands[where]) > 1 else {}
        return one | {"note": str(error)} | earlier
    scores = {name: record["metrics"][name]["mean"] for name in ("semantic_miou", "pixel_accuracy")}
    return one | {
        "miou": scores["semantic_miou"],
        "pixel_accuracy": scores["pixel_accuracy"],
        "seconds": time.monotonic() - began,
        "rule": record["protocol"].removeprefix("semantic-"),
        "images": record["num_images"],
        "note": row.note if where == "painted" or not row.printed(where) else "",
    }
