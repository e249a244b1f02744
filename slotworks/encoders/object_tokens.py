"""Objects as the context of a diffusion model: one token for each, from what is known of it.

    token = LN(shape + colour + size + order + linear(Fourier features of x, y))

What is not known has a learned vector in its place, an object that is not there the learned null. Beside them stands a
token for the background. A caption tells the same, once a text encoder has learned to say these tokens.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from slotworks.encoders.vit import package_folder
from slotworks.types import UserError

FREQUENCIES = (1, 2, 4, 8)
"""Half periods of the sines and cosines of a place, over the side of the picture."""

FILE = "model.safetensors"


@dataclass(frozen=True)
class Objects:
    """What is known of the objects of each picture. Ids count from 1; 0, and NaN, stand for what is not known."""

    present: Bool[Tensor, "b m"]
    shape: Int64[Tensor, "b m"]
    color: Int64[Tensor, "b m"]
    size: Float[Tensor, "b m"]  # diameter as a share of the side
    x: Float[Tensor, "b m"]  # middle, across, in [0, 1]
    y: Float[Tensor, "b m"]  # middle, down, in [0, 1]
    order: Int64[Tensor, "b m"]  # 1 for the farthest

    @staticmethod
    def of(batch: dict[str, Tensor]) -> "Objects":
        """Those of a batch of drawn shapes, all known."""
        present = batch["shape"] > 0
        order = present.cumsum(1) * present
        size, x, y = (batch[name].float() for name in ("size", "x", "y"))
        return Objects(present, batch["shape"].long(), batch["color"].long(), size, x, y, order)


class ObjectTokens(nn.Module):
    """Objects and backgrounds to tokens, `dim` wide, each of mean 0 and variance 1.

    Args:
        dim: width of a token.
        num_shapes: ids of shapes.
        num_colors: ids of colours.
        num_backgrounds: ids of backgrounds.
        max_objects: most objects in a picture.
    """

    def __init__(self, dim: int, *, num_shapes: int, num_colors: int, num_backgrounds: int, max_objects: int):
        super().__init__()
        self.shape, self.color = nn.Embedding(1 + num_shapes, dim), nn.Embedding(1 + num_colors, dim)
        self.order, self.background = nn.Embedding(1 + max_objects, dim), nn.Embedding(num_backgrounds, dim)
        self.size, self.place = nn.Linear(2, dim), nn.Linear(2 + 4 * len(FREQUENCIES), dim)
        self.no_size, self.no_place, self.null = (nn.Parameter(torch.randn(dim)) for _ in range(3))
        with torch.no_grad():
            self.place.weight.mul_(2)  # as large as the others from the start
        self.max_objects = max_objects

    def forward(self, objects: Objects) -> Float[Tensor, "b m c"]:
        """A token for each object, the null for one that is not there.

        Raises:
            UserError: for more objects than `max_objects`, or one that stands outside the picture.
        """
        self.check(objects)
        token = self.shape(objects.shape) + self.color(objects.color) + self.order(objects.order)
        known = ~objects.size.isnan()[..., None]
        around = 10 * (objects.size.nan_to_num(0)[..., None] - 0.33)
        token = token + torch.where(known, self.size(torch.cat([around, around.abs()], -1)), self.no_size)
        place = torch.stack([objects.x, objects.y], -1)
        known = ~place.isnan().any(-1, keepdim=True)
        token = token + torch.where(known, self.place(fourier(place.nan_to_num(0))), self.no_place)
        return self._normed(torch.where(objects.present[..., None], token, self.null))

    def check(self, objects: Objects) -> None:
        """Raises UserError for more objects than `max_objects`, or one that stands outside the picture."""
        count = int(objects.order.max()) if objects.order.numel() else 0
        if count > self.max_objects:
            raise UserError(f"{count} objects are asked for; this model draws up to {self.max_objects} in a picture.")
        for name, values in (("x", objects.x), ("y", objects.y)):
            outside = objects.present & ((values < 0) | (values > 1))
            if outside.any():
                raise UserError(
                    f"{name} of an object is {float(values[outside][0]):g}; places are shares of the side, 0 to 1."
                )

    def background_token(self, background: Int64[Tensor, " b"]) -> Float[Tensor, "b 1 c"]:
        """The token of each background; the null for id 0, one that is not known."""
        token = self.background((background - 1).clamp(min=0))
        return self._normed(torch.where((background > 0)[:, None], token, self.null))[:, None]

    def nulls(self, batch: int, count: int) -> Float[Tensor, "b n c"]:
        """Tokens that say nothing."""
        return self._normed(self.null).expand(batch, count, -1)

    def context(self, objects: Objects, background: Int64[Tensor, " b"]) -> Float[Tensor, "b n c"]:
        """The background's token and those of the objects."""
        return torch.cat([self.background_token(background), self(objects)], 1)

    @staticmethod
    def _normed(token: Tensor) -> Tensor:
        return layer_norm(token, token.shape[-1:])

    def save(self, folder: Path) -> None:
        """Write the weights in float16."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.half().contiguous() for name, value in self.state_dict().items()}, folder / FILE)


def load_object_tokens(model: str) -> ObjectTokens:
    """The tokens that a model of this package was trained with, frozen: a folder of a pipeline or `package:NAME`.

    Raises:
        UserError: if the model has none.
    """
    folder = package_folder(model) if model.startswith("package:") else Path(model).expanduser()
    file = folder / "objects" / FILE
    if not file.is_file():
        raise UserError(f"{model!r} has no tokens of objects; package:painted_diffusion has, others take captions.")
    weights = {name: value.float() for name, value in load_file(file).items()}
    sizes = {name: len(weights[f"{name}.weight"]) for name in ("shape", "color", "background", "order")}
    tokens = ObjectTokens(
        weights["null"].shape[0],
        num_shapes=sizes["shape"] - 1,
        num_colors=sizes["color"] - 1,
        num_backgrounds=sizes["background"],
        max_objects=sizes["order"] - 1,
    )
    tokens.load_state_dict(weights)
    return tokens.eval().requires_grad_(False)


def fourier(place: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b f"]:
    """A place in [0, 1]: itself, and sines and cosines of it."""
    angle = math.pi * place[..., None] * place.new_tensor(FREQUENCIES)
    return torch.cat([2 * place - 1, angle.sin().flatten(-2), angle.cos().flatten(-2)], -1)
