"""A vision transformer whose weights are all trained, from those of a published one on: `transformers`' `ViTModel`."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.encoders.blank import wanted
from slotworks.encoders.pretrained import start_from
from slotworks.encoders.vit import IMAGENET_MEAN, IMAGENET_STD
from slotworks.errors import needs_extra
from slotworks.nn.noise import batch_uniform


@dataclass(frozen=True)
class TrainedViTConfig:
    """Sizes of the network, and what it starts from. Nothing is loaded or imported by this."""

    model: str = "facebook/dino-vitb16"  # hub id or folder of the first weights; "": fresh ones
    image_size: int = 224  # pixels, square, of training; a multiple of the patch
    patch_size: int = 16  # pixels
    hidden_dim: int = 768  # width of a token
    num_layers: int = 12  # blocks
    num_heads: int = 12  # attention heads
    mean: tuple[float, float, float] = IMAGENET_MEAN  # subtracted from an image in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # divided by

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size is {self.image_size}, which patches of {self.patch_size} pixels do not fill; choose a "
                "multiple."
            )


class TrainedViT(nn.Module):
    """Images in [0, 1] to tokens behind the last LayerNorm, the CLS token first; fresh until `load` is called."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TrainedViTConfig, *, eps: float = 1e-12):
        super().__init__()
        with needs_extra("vision"):
            from transformers import ViTConfig, ViTModel
        self.config = config
        settings = ViTConfig(
            hidden_size=config.hidden_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=4 * config.hidden_dim,
            image_size=config.image_size,
            patch_size=config.patch_size,
            layer_norm_eps=eps,
        )
        self.network: Any = ViTModel(settings, add_pooling_layer=False)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(config, name))[:, None, None], persistent=False)

    def load(self) -> None:
        """Take the published weights that training starts from.

        Raises:
            UserError: they cannot be had, or are of another network.
        """
        if self.config.model and not wanted(self.config.model):
            start_from(
                self.network,
                self.config.model,
                what="vision transformer of the sizes of method.vit",
                add_pooling_layer=False,
            )

    def embedded(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b s c"]:
        """The CLS token and the patches, with their positions, before the first block."""
        return self.network.embeddings((image - self.mean) / self.std, interpolate_pos_encoding=True)

    def blocks(self, tokens: Float[Tensor, "b s c"], start: int = 0, stop: int | None = None) -> Float[Tensor, "b s c"]:
        """Some of the blocks, one after the other."""
        for layer in self.network.layers[start:stop]:
            tokens = layer(tokens, None)
        return tokens

    def forward(self, image: Float[Tensor, "b 3 h w"], *, dropped: float = 0.0) -> Float[Tensor, "b s c"]:
        """Tokens of images of any size that is a multiple of the patch.

        Args:
            image: in [0, 1].
            dropped: share of the patches that are left out, drawn anew for each image (Li et al. 2022, FLIP).
        """
        tokens = self.embedded(image)
        if dropped:
            patches = tokens.shape[1] - 1
            kept = batch_uniform((len(tokens), patches), tokens.device).topk(max(1, round(patches * (1 - dropped))), 1)
            chosen = tokens[:, 1:].gather(1, kept.indices[..., None].expand(-1, -1, tokens.shape[2]))
            tokens = torch.cat([tokens[:, :1], chosen], 1)
        return self.network.layernorm(self.blocks(tokens))
