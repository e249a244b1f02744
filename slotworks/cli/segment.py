"""`slotworks segment`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.progress import track

from slotworks.cli.console import err, out, parse, print_json


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    return parse(segment, argv, verb="segment")


def segment(
    run: Annotated[Path, tyro.conf.Positional],
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("segments"),
    num_slots: int | None = None,
    masks: Literal["decoder", "attention"] = "decoder",
    seed: int = 0,
    device: str | None = None,
    module: Path | None = None,
    json: bool = False,
) -> int:
    """Take own pictures of any size and mode apart with a trained run.

    For cat.jpg it writes cat_mask.png (palette, value = slot), cat_overlay.png, cat_slots.npz (slot vectors and soft
    masks) and
    cat_rle.json (COCO run-length masks). A picture that cannot be read is named and skipped; the exit code is then 1.

    Examples:
      slotworks segment runs/slot_attention.tetrominoes_mini photo.jpg
      slotworks segment RUN holiday/ --out masks --num-slots 8

    Args:
        run: run folder.
        images: picture files, or folders of pictures.
        out_folder: folder for the results.
        num_slots: another number of slots than in training, where the method allows it.
        masks: what the decoder mixes with, or the attention of the slots.
        seed: of the initial slots; `slotworks edit` means the same slots with the same seed.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        module: Python file that defines the run's own classes.
        json: print what was written as JSON.
    """
    from slotworks import api
    from slotworks.configs import import_file
    from slotworks.images import find_images

    if module:
        import_file(module)
    files = find_images(images)
    options = {"num_slots": num_slots, "masks": masks, "seed": seed, "device": device, "skip_damaged": True}
    found = api.segment(run, files, out=out_folder, **options)
    results = list(track(found, "segmenting", total=len(files), console=err, disable=json or len(files) < 3))
    if json:
        print_json(results)
    else:
        for result in results:
            text = result.get("error") or f"{result['file']}: {result['slots']} segments, {result['written'][1]}"
            out.print(text, soft_wrap=True, markup=False)
    return 1 if any("error" in result for result in results) else 0
