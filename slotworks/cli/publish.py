"""`slotworks publish`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from slotworks.cli.console import out, parse, print_json


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(publish, argv, verb="publish")
    return 0


def publish(
    run: Annotated[Path, tyro.conf.Positional],
    place: Annotated[str, tyro.conf.Positional],
    /,
    license: str | None = None,
    pictures: bool = False,
    half: bool = False,
    private: bool = False,
    json: bool = False,
) -> None:
    """Write a trained run as config.json, model.safetensors and a card, into a folder or to the Hugging Face hub.

    Every command that takes a run takes such a folder, and hf://OWNER/NAME for what is on the hub.

    Examples:
      slotworks publish runs/slot_attention.tetrominoes_mini tetrominoes --license apache-2.0
      slotworks publish runs/slot_attention.tetrominoes_mini hf://me/tetrominoes
      slotworks segment hf://me/tetrominoes my_pictures

    Args:
        run: run folder.
        place: folder to make, or hf://OWNER/NAME; who writes to the hub logs in before, with `hf auth login`.
        license: of the weights, by its name on the hub; the card says if there is none.
        pictures: show the last pictures of the run's samples in the card; they are of the data.
        half: weights as float16, half as large; numbers move a little.
        private: of a repository that is made: only its owner sees it.
        json: print where it is as JSON.
    """
    from slotworks.cli.runs import run_of
    from slotworks.hub import PREFIX, push_to_hub, save_pretrained

    run = run_of(run)
    if place.startswith(PREFIX):
        where = push_to_hub(run, place, license=license, pictures=pictures, half=half, private=private)
    else:
        where = str(save_pretrained(run, place, license=license, pictures=pictures, half=half))
    print_json({"place": where}) if json else out.print(where, soft_wrap=True, markup=False)
