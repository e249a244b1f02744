"""ResNet-50 and ResNet-101 of `transformers` with maps of an eighth of the image, as segmenters take them.

The last two stages keep the size of their input and look two and four times as far instead (Chen et al. 2017); the
first block of each looks half as far as the others, as mmsegmentation's `contract_dilation` has it. Weights are those
of the network without this.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.encoders.blank import wanted
from slotworks.encoders.pretrained import start_from
from slotworks.encoders.vit import IMAGENET_MEAN, IMAGENET_STD
from slotworks.errors import needs_extra

DEPTHS = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}
"""Blocks of each stage, by the number of layers in the name."""

STAGES = ["stage1", "stage3", "stage4"]


class DilatedResNet(nn.Module):
    """Maps of an image in [0, 1], normalised by ImageNet's statistics: of the first, the third and the fourth stage.

    Fresh until `load` is called. Needs the extra `vision`.

    Args:
        depth: 50 or 101.
        frozen_stages: how many of the stem and the four stages, from the stem on, are not trained. The statistics of
            their BatchNorm go on being measured, as those of the others.
    """

    feature_dims = (256, 1024, 2048)
    mean: Tensor
    std: Tensor

    def __init__(self, depth: int, *, frozen_stages: int = 0):
        super().__init__()
        with needs_extra("vision"):
            from transformers import ResNetBackbone, ResNetConfig
        self.depth = depth
        settings: dict[str, Any] = {"depths": DEPTHS[depth], "out_features": STAGES}
        self.network: Any = ResNetBackbone(ResNetConfig(**settings))
        for stage, rate in ((2, 2), (3, 4)):
            for number, block in enumerate(self.network.encoder.stages[stage].layers):
                for conv in (layer for layer in block.modules() if isinstance(layer, nn.Conv2d)):
                    conv.stride = (1, 1)
                    if conv.kernel_size == (3, 3):
                        conv.dilation = conv.padding = (rate, rate) if number else (rate // 2, rate // 2)
        for part in (self.network.embedder, *self.network.encoder.stages)[:frozen_stages]:
            part.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(
        self, image: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b 256 k l"], Float[Tensor, "b 1024 y x"], Float[Tensor, "b 2048 y x"]]:
        """What the stages give: the first for every fourth pixel of each side, the others for every eighth."""
        first, third, fourth = self.network((image - self.mean) / self.std).feature_maps
        return first, third, fourth

    def load(self, model: str) -> None:
        """Take the weights of a published ResNet of the same depth.

        Args:
            model: hub id, or a folder as `save_pretrained` writes it.

        Raises:
            UserError: it cannot be found, downloaded or read, or is another network.
        """
        if not wanted(model):  # its shape is this one
            what = f"ResNet-{self.depth}, as method.backbone asks for"
            start_from(self.network, model, what=what, out_features=STAGES)
