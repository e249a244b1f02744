"""`slotworks convert`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from slotworks.cli.console import out, parse, print_json


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(convert, argv, verb="convert")
    return 0


def convert(
    what: Annotated[Literal["glass", "unet"], tyro.conf.Positional],
    source: Annotated[Path, tyro.conf.Positional],
    /,
    out_folder: Annotated[Path, tyro.conf.arg(name="out")],
    encoder: str = "facebook/dinov2-base",
    patch_size: int = 14,
    feature_dim: int = 768,
    diffusion: str | None = None,
    image_size: int | None = None,
    json: bool = False,
) -> None:
    """Turn a published checkpoint of StableLSD or GLASS into a run folder, or take the trained U-Net out of a run.

    No file is unpickled: weights are read from safetensors, or by torch's reader for tensors alone.

    Examples:
      slotworks convert glass glass_st1/glass/checkpoint --out runs/glass.released
      slotworks evaluate runs/glass.released --data coco2017 --root DIR
      slotworks convert unet runs/glass.coco_phase2 --out folder       folder/unet, as diffusers reads it

    Args:
        what: glass, a checkpoint to read, also of StableLSD; or unet, of a run.
        source: folder of the checkpoint, or run folder.
        out_folder: run folder to make, or the folder that gets unet/.
        encoder: of glass: the network that the slots were trained on, hub id or folder; after its last LayerNorm.
        patch_size: of glass: pixels of its patches.
        feature_dim: of glass: width of its tokens.
        diffusion: of glass: where the VAE and an untrained U-Net come from, hub id or folder; Stable Diffusion 2.1.
        image_size: of glass: pixels of the images that are generated; 256.
        json: print what was made as JSON.
    """
    from slotworks.convert import convert_glass, export_unet
    from slotworks.encoders.vit import DINOV2_B14_NORMED_448
    from slotworks.ranges import check_options

    check_options(patch_size=patch_size, feature_dim=feature_dim, image_size=image_size)
    if what == "unet":
        folder = export_unet(source, out_folder)
        facts, parts = {"folder": str(folder)}, "unet"
    else:
        network = replace(
            DINOV2_B14_NORMED_448,
            model=encoder,
            patch_size=patch_size,
            feature_dim=feature_dim,
            image_size=32 * patch_size,
        )
        made = convert_glass(source, out_folder, encoder=network, diffusion=diffusion, image_size=image_size)
        folder, parts = made.folder, ", ".join(made.parts)
        kind = type(made.run.method).__name__.removesuffix("Config")
        facts = {"folder": str(folder), "method": kind, "parts": list(made.parts)}
    if json:
        print_json([facts])
    else:
        out.print(f"{folder}: {parts}", soft_wrap=True, markup=False)
