"""`slotworks compose`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from slotworks.cli.console import out, parse, print_json
from slotworks.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(compose, argv, verb="compose")
    return 0


def compose(
    text: Annotated[str, tyro.conf.Positional],
    /,
    model: str = "stabilityai/stable-diffusion-2-1-base",
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("composed"),
    steps: int = 50,
    guidance: float = 7.5,
    seeds: tuple[int, ...] = (0,),
    size: int | None = None,
    device: str | None = None,
    json: bool = False,
) -> None:
    """Pictures of several prompts at once by Composable Diffusion, beside which GLASS puts its own (figure 9).

    Nothing of it has slots: it is the comparison with text. GLASS joins the class names of two pictures by AND and
    states neither model, steps, weights nor seed. For "pizza AND person" it writes pizza_and_person_0.png for seed 0,
    and so on.

    Examples:
      slotworks compose "pizza AND person"
      slotworks compose "bowl AND bowl AND banana" --seeds 0 1 2 3
      slotworks compose "cat AND sink AND NOT towel" --guidance 5 --model FOLDER

    Args:
        text: prompts joined by AND, AND NOT, or |; one given twice counts twice.
        model: hub id or folder of a Stable Diffusion 1.x or 2.x in the format of diffusers.
        out_folder: where the pictures go; files that are not from here are never replaced.
        steps: of DDIM.
        guidance: weight of each prompt, negative behind NOT; they add up.
        seeds: of the starting noise, one picture for each.
        size: height and width in pixels; by default what the model was trained at.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        json: print what was written as JSON.
    """
    from slotworks.editing import composable
    from slotworks.editing.pictures import to_picture
    from slotworks.outputs import writing
    from slotworks.ranges import check_options
    from slotworks.training.numerics import find_device

    check_options(steps=steps, noise_seeds=seeds)
    if not seeds:
        raise UserError("--seeds is empty; give the seed of at least one picture, such as 0.")
    prompts, weights = composable.read_composition(text, guidance)
    stem = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:80]
    names = [f"{stem}_{seed}.png" for seed in seeds]
    with writing(out_folder, doing="writing pictures") as outputs:
        outputs.check_free(names)
        how = {"steps": steps, "seeds": seeds, "size": (size, size) if size else None, "device": find_device(device)}
        try:
            pictures = composable.compose(model, prompts, weights, **how)
        except ValueError as error:
            raise UserError(str(error)) from None
        for name, picture in zip(names, pictures, strict=True):
            with outputs.replacing(name) as path:
                to_picture(picture).save(path, format="PNG", optimize=True)
    written = [str(out_folder / name) for name in names]
    if json:
        print_json({"prompts": prompts, "weights": weights, "seeds": seeds, "written": written})
    else:
        for path in written:
            out.print(path, soft_wrap=True, markup=False)
