"""Vision transformers from `transformers`: DINO, DINOv2, MAE, or a user's own; frozen, or the last blocks trained."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViTConfig:
    """Which network, which of its features, and at which image size. Nothing is loaded or imported by this."""

    model: str = "facebook/dino-vitb16"  # hub id, or a folder with config.json and model.safetensors
    image_size: int = 224  # pixels, square; a multiple of patch_size
    patch_size: int = 16  # pixels
    feature_dim: int = 768  # width of a token
    features: Literal["tokens", "normed", "queries", "keys", "values"] = "tokens"  # tokens: before the last norm
    layer: int = -1  # block whose output (or attention) is taken, from 0, or from the end
    trained_blocks: int = 0  # how many of the last blocks are trained; the rest is frozen
    mean: tuple[float, float, float] = IMAGENET_MEAN  # subtracted from an image in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # divided by

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return (self.image_size // self.patch_size,) * 2


class ViTEncoder(nn.Module):
    """A pretrained vision transformer as a feature extractor: image -> patch features, row major, no CLS token.

    The frozen network is loaded at the first image, on its device, and never becomes part of the state dict; trained
    blocks (`trained_blocks > 0`) are loaded at once and do.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """Images in [0, 1] to patch features."""
        raise NotImplementedError
