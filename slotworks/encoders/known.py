"""Whether an encoder is the one that weights were trained on: its features of one drawn picture.

Networks of one name differ: fine-tuned, converted, or of another release. A run that travels says in `encoder.json`
which file it was trained on and what that network made of the picture; `expect` compares when another one is loaded.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slotworks.encoders.vit import ViTConfig, ViTEncoder, weights_hash
from slotworks.errors import quote
from slotworks.json_text import read_json
from slotworks.progress import say
from slotworks.types import UserError

FILE = "encoder.json"
TOLERANCE = 1e-2
"""Of the largest difference of a feature: rounding of another machine is a thousand times smaller."""

PATCHES = 4  # of the picture, spread over it, whose features are kept


def picture(size: int) -> Float[Tensor, "1 3 {size} {size}"]:
    """Waves of three colours, in [0, 1]: the same on every machine.

    >>> picture(28).shape
    torch.Size([1, 3, 28, 28])
    """
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    waves = [(k * row + (4 - k) * column + k * row * column // size) / size for k in (1, 2, 3)]
    return (torch.stack(waves) * torch.pi).sin()[None] / 2 + 0.5


def features_of_picture(encoder: ViTEncoder) -> Float[Tensor, "k c"]:
    """Features of the picture at a few patches, in float32."""
    with torch.no_grad():
        features = encoder(picture(encoder.config.image_size))[0]
    return features[torch.linspace(0, len(features) - 1, PATCHES).long()].float()


def describe(config: ViTConfig) -> dict[str, Any]:
    """What `encoder.json` holds: name, checksum of the files, settings, and features of the picture.

    Raises:
        UserError: if the network cannot be had.
    """
    frozen = replace(config, trained_blocks=0)
    features = features_of_picture(ViTEncoder(frozen))
    return {
        "model": Path(config.model).name if Path(config.model).is_dir() else config.model,
        "sha256": weights_hash(config),
        "image_size": config.image_size,
        "features": config.features,
        "layer": config.layer,
        "values": [[round(value, 4) for value in row] for row in features.tolist()],
    }


def compare(encoder: ViTEncoder, known: Mapping[str, Any]) -> float | None:
    """The largest difference of a feature of the picture; None if what is known does not fit."""
    try:
        values = torch.tensor(known["values"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError, RuntimeError):
        return None
    found = features_of_picture(encoder)
    return (found - values).abs().max().item() if values.shape == found.shape else None


def warn_of_another(encoder: ViTEncoder, folder: Path | str) -> None:
    """Compare an encoder with the one that the run in `folder` was trained on, and say so if it is another.

    Nothing is done for a folder without `encoder.json`. The network is loaded if it is not yet.

    Raises:
        UserError: if the file is damaged, or the network cannot be had.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return
    try:
        known = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({quote(error)}); get the run again.") from None
    difference = compare(encoder, known if isinstance(known, dict) else {})
    if difference is None or not difference <= TOLERANCE:
        by = "of another size" if difference is None else f"other by up to {difference:.2g}"
        say(
            f"{encoder.config.model} is another encoder than this run was trained on ({known.get('model')}, sha256 "
            f"{str(known.get('sha256'))[:12]}): its features of one drawn picture are {by}. Masks may be worse."
        )
