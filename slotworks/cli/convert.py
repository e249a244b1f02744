"""`slotworks convert`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from slotworks.cli.console import out, parse, print_json
from slotworks.cli.runs import run_of
from slotworks.errors import UserError
from slotworks.yaml_text import read_yaml


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(convert, argv, verb="convert")
    return 0


def convert(
    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[glass|unet] SOURCE")],
    /,
    out_folder: Annotated[Path, tyro.conf.arg(name="out")],
    to: Literal["spot", "lsd", "glass"] | None = None,
    recipe: str | None = None,
    encoder: str | None = None,
    num_slots: int | None = None,
    num_iterations: int | None = None,
    num_heads: int | None = None,
    patch_size: int = 14,
    feature_dim: int = 768,
    diffusion: str | None = None,
    image_size: int | None = None,
    settings: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Turn a published checkpoint into a run folder, write a run as its original's code reads it, take out a U-Net.

    Whose checkpoint it is, is recognised by the names of its tensors; docs/converting.md lists the families. Nothing is
    unpickled: what a file names beside tensors and plain containers is not called.

    Examples:
      slotworks convert spot_coco.pt.tar --out runs/spot.released
      slotworks segment runs/spot.released photo.jpg
      slotworks convert runs/spot.released --to spot --out spot.pt.tar
      slotworks convert glass glass_st1/glass/checkpoint --out runs/glass.released
      slotworks convert unet runs/glass.coco_phase2 --out folder       folder/unet, as diffusers reads it

    Args:
        words: file or folder of the checkpoint; before it, glass for a folder of StableLSD or GLASS whose network is
            named by patch-size and feature-dim, or unet to take the trained U-Net of a run.
        out_folder: run folder to make; with unet the folder that gets unet/; with --to the file or folder to write.
        to: write the run SOURCE as the code of this family reads it.
        recipe: whose data, protocol and settings the run takes where the checkpoint does not tell.
        encoder: the network that the slots were trained on, hub id or folder, or own: the one in the checkpoint.
        num_slots: where slots share one Gaussian, and so their number is not in the checkpoint.
        num_iterations: of Slot Attention, which are not in most checkpoints.
        num_heads: of the decoder's attentions, which are not in the checkpoint.
        patch_size: with the word glass: pixels of the network's patches.
        feature_dim: with the word glass: width of its tokens.
        diffusion: of GLASS: where the VAE and an untrained U-Net come from, hub id or folder; Stable Diffusion 2.1.
        image_size: pixels; of GLASS those of the images that are generated; 256.
        settings: others of the method that the checkpoint does not tell, such as slot_heads=2.
        json: print what was made as JSON.
    """
    from slotworks.convert import Options, convert_glass, export_unet, write_back
    from slotworks.convert import convert as convert_source
    from slotworks.encoders.vit import DINOV2_B14_NORMED_448
    from slotworks.ranges import check_options

    check_options(patch_size=patch_size, feature_dim=feature_dim, image_size=image_size)
    check_options(num_slots=num_slots, num_iterations=num_iterations, num_heads=num_heads)
    what, source = words if len(words) == 2 else (None, *words) if len(words) == 1 else (None, None)
    if source is None or what not in (None, "glass", "unet") or (to and what):
        raise UserError(
            f"{' '.join(words) or 'Nothing'} is not understood; give one checkpoint, or glass or unet before it."
        )
    foreign: tuple[str, ...] = ()
    if to or what == "unet":
        run = run_of(Path(source))
        folder = export_unet(run, out_folder) if to is None else write_back(run, out_folder, to)
        parts, facts = "unet" if to is None else to, {}
    else:
        if what == "glass":
            network = replace(
                DINOV2_B14_NORMED_448,
                model=encoder or "facebook/dinov2-base",
                patch_size=patch_size,
                feature_dim=feature_dim,
                image_size=32 * patch_size,
            )
            made = convert_glass(Path(source), out_folder, encoder=network, diffusion=diffusion, image_size=image_size)
        else:
            changes = {}
            for name, _, value in (word.partition("=") for word in settings):
                changes[name.replace("-", "_").removeprefix("method.")] = _value(name, value)
            options = Options(out_folder, recipe, encoder, num_slots, num_iterations, num_heads, image_size, changes)
            made = convert_source(Path(source), options, diffusion=diffusion)
        folder, parts, foreign = made.folder, ", ".join(made.parts), made.foreign
        kind = type(made.run.method).__name__.removesuffix("Config")
        facts: dict[str, Any] = {"method": kind, "parts": list(made.parts)}
        if what is None:
            facts |= {"family": made.family, "not_opened": list(foreign)}
            parts = f"{made.family}, {parts}"
    if json:
        print_json([{"folder": str(folder), **facts}])
    else:
        out.print(f"{folder}: {parts}", soft_wrap=True, markup=False)
        if foreign:
            more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
            said = f"Beside the weights it holds {', '.join(foreign[:3])}{more}, which were not opened."
            out.print(said, soft_wrap=True, markup=False)


def _value(name: str, text: str) -> Any:
    """A setting's value from the command line, as YAML says it.

    Raises:
        UserError: there is none.
    """
    if not text:
        raise UserError(f"{name} has no value; give NAME=VALUE, such as slot_heads=2.")
    try:
        value = read_yaml(text)
        return tuple(value) if isinstance(value, list) else value
    except ValueError as error:
        raise UserError(f"The value of {name} is not understood ({error}); give NAME=VALUE.") from None
