"""Which family a checkpoint is of, and its conversion."""

from dataclasses import replace
from pathlib import Path

from slotworks.convert import (
    clippy,
    comus,
    dinosaur,
    glass,
    ov_segmentor,
    savi,
    seg_clip,
    slate,
    slot_attention,
    slot_diffusion,
    spot,
)
from slotworks.convert.family import Converted, Family, Options, check_place, write_run
from slotworks.convert.source import Source, open_source
from slotworks.encoders.vit import DINOV2_B14_NORMED_448, fitted
from slotworks.errors import UserError, shorten
from slotworks.methods import Glass, Spot, StableLSD
from slotworks.training import load_method

FAMILIES: tuple[Family, ...] = (
    *(dinosaur.FAMILY, spot.FAMILY),
    *slot_diffusion.FAMILIES,
    *slate.FAMILIES,
    *(savi.FAMILY, slot_attention.FAMILY, comus.FAMILY),
    *(clippy.FAMILY, seg_clip.FAMILY, ov_segmentor.FAMILY),
)


def recognise(source: Source) -> Family:
    """The family of a checkpoint, by the names of its tensors.

    Raises:
        UserError: it is of none, or of several.
    """
    found = [family for family in FAMILIES if family.is_of(source)]
    if len(found) != 1:
        first = ", ".join(shorten(name, 80) for name in list(source.tensors)[:3])
        known = "; ".join(family.about for family in FAMILIES)
        raise UserError(f"{source.path} holds tensors such as {first}, which are of none of these: {known}.")
    return found[0]


def convert(path: Path | str, options: Options, *, diffusion: str | None = None) -> Converted:
    """A published checkpoint as a run folder that `evaluate` and `segment` open; its family is recognised.

    Args:
        path: the checkpoint's file or folder.
        options: the run folder, and what the checkpoint does not tell.
        diffusion: for a folder of StableLSD or GLASS: where the VAE and an untrained U-Net come from.

    Raises:
        UserError: it is of no known family, damaged, incomplete, or does not fit the options; or the folder is in use.
    """
    path = Path(path)
    check_place(options.out)
    if (path / glass.SLOTS).is_dir():
        encoder = DINOV2_B14_NORMED_448
        if options.encoder:
            encoder = fitted(replace(encoder, model=options.encoder))
        return glass.convert_glass(
            path, options.out, encoder=encoder, diffusion=diffusion, image_size=options.image_size
        )
    source = open_source(path)
    family = recognise(source)
    made = family.convert(source, options)
    write_run(made.run, made.weights, options.out, extras=made.extras)
    return Converted(options.out, made.run, made.parts, family.name, source.foreign)


def write_back(run_folder: Path | str, out: Path | str, family: str) -> Path:
    """Write a run as the code of a family reads it; returns what was written.

    Raises:
        UserError: the run is of another method, or the disk refuses.
    """
    method = load_method(run_folder)
    if family == "spot" and isinstance(method, Spot):
        return spot.write_back(method, Path(out))
    if (family == "lsd" and isinstance(method, StableLSD)) or (family == "glass" and isinstance(method, Glass)):
        return glass.write_back(method, Path(out))
    raise UserError(f"{run_folder} is a run of {type(method).__name__}, which cannot be written for {family}.")
