"""`slotworks evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from slotworks.cli.console import out, parse, print_json, scores_table


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(evaluate, argv, verb="evaluate")
    return 0


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    protocol: tuple[str, ...] = ("slot-attention",),
    data: str | None = None,
    root: Path | None = None,
    split: Literal["train", "val", "test"] = "test",
    images: int | None = None,
    seed: int = 0,
    device: str | None = None,
    module: Path | None = None,
    json: bool = False,
) -> None:
    """Score a run under named protocols; prints a table and writes RUN/eval/DATA-SPLIT-PROTOCOL.json.

    Examples:
      slotworks evaluate runs/slot_attention.tetrominoes_mini
      slotworks evaluate RUN --protocol oclf spot          or: --protocol all
      slotworks evaluate RUN --data clevrtex --root DIR    another data set than the run's own

    Args:
        run: run folder.
        protocol: names of protocols, or all.
        data: data set by name (`slotworks data list`) instead of the run's own.
        root: folder of that data set.
        split: train, val or test.
        images: how many images; all by default.
        seed: of the initial slots.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        module: Python file that defines the run's own classes.
        json: print the records as JSON.
    """
    from slotworks import api
    from slotworks.cli.sources import find_data
    from slotworks.configs import import_file

    if module:
        import_file(module)
    source = find_data(data, root) if data else None
    records = api.evaluate(
        run, data=source, split=split, protocols=protocol, num_images=images, seed=seed, device=device
    )
    if json:
        print_json(records)
        return
    out.print(scores_table(f"{run}: {records[0]['data']}, {split} split, percent, mean ± standard error", records))
    for record in records:
        out.print(record["rules"], style="dim", soft_wrap=True, markup=False)
