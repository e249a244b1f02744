"""The frame encoder of SAVi: a network, a position embedding, a LayerNorm and an MLP.

Kipf et al. 2022 (arXiv 2111.12594), `savi/modules/video.py: FrameEncoder` of the released code; and the form that
SlotDiffusion (Wu et al. 2023) and its baselines share.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from slotworks.encoders.resnet import ResNetEncoder
from slotworks.encoders.vit import ViTConfig, ViTEncoder
from slotworks.nn.conv import StridedMap, same_conv
from slotworks.nn.init import lecun_
from slotworks.nn.position import PositionEmbedding
from slotworks.nn.resize import resize
from slotworks.types import Batch


@runtime_checkable
class Backbone(Protocol):
    """What `PositionedEncoder` needs of a network."""

    feature_dim: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map for an image of this size in pixels."""
        ...

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """One feature for every position of the map, row by row."""
        ...


class ConvBackbone(StridedMap):
    """Convolutions with ReLU after each, padded as TensorFlow's `SAME`: the network of SAVi-S and SAVi-M."""

    def __init__(self, channels: int = 32, *, strides: Sequence[int] = (1, 1, 1, 1), kernel_size: int = 5):
        super().__init__()
        self.strides, self.feature_dim = tuple(strides), channels
        widths = [3] + [channels] * len(self.strides)
        self.convs = nn.ModuleList(
            nn.Conv2d(c_in, channels, kernel_size, stride) for c_in, stride in zip(widths, self.strides, strict=False)
        )

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """One feature for every position of the map, row by row."""
        for conv in self.convs:
            image = same_conv(conv, image).relu_()  # pyright: ignore[reportArgumentType]
        return image.flatten(2).transpose(1, 2)


class ViTBackbone(nn.Module):
    """A vision transformer that looks at images of any size at its own."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.vit, self.feature_dim = ViTEncoder(config), config.feature_dim

    @property
    def frozen(self) -> bool:
        """Whether none of it is trained, so that its features may be cached."""
        return not self.vit.config.trained_blocks

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches, whatever the size of the image."""
        return self.vit.config.grid

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """One feature for every patch, row by row."""
        return self.vit(resize(image, self.vit.config.image_size))


class PositionedEncoder(nn.Module):
    """Features of a network that know their place. Images in [0, 1].

    Args:
        backbone: a network, such as `ConvBackbone` or `ResNetEncoder`.
        hidden_dim: of the MLP, which has no residual branch.
        out_dim: of the features; None is the network's own width.
        norm_eps: epsilon of the LayerNorm; flax has 1e-6.
        signed_position: positions as row and column from -1 to 1 (SAVi); False: as four distances (Slot Attention).
        signed_image: the network sees images in [-1, 1].
        init: initial weights of all layers, LeCun's as in flax; "torch" keeps the network's own and torch's elsewhere.

    >>> import torch
    >>> PositionedEncoder(ConvBackbone(32, strides=(2, 1)))(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 64, 32])
    """

    def __init__(
        self,
        backbone: Backbone,
        hidden_dim: int = 64,
        *,
        out_dim: int | None = None,
        norm_eps: float = 1e-6,
        signed_position: bool = True,
        signed_image: bool = False,
        init: Literal["lecun", "torch"] = "lecun",
    ):
        super().__init__()
        width = backbone.feature_dim
        self.backbone, self.feature_dim, self.signed_image = backbone, out_dim or width, signed_image
        self.position = PositionEmbedding(width, signed=signed_position)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = nn.Sequential(nn.Linear(width, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, self.feature_dim))
        if init == "lecun":
            lecun_(self)

    @classmethod
    def slot_diffusion(cls, dim: int) -> "PositionedEncoder":
        """What Slot Attention, SAVi, SLATE and STEVE have in SlotDiffusion's repository: its ResNet-18 of 256 channels.

        `img_based/models/slot_attention.py: SA._build_encoder` there. A quarter of the image's side, features of `dim`.
        """
        return cls(
            ResNetEncoder(18),
            dim,
            out_dim=dim,
            norm_eps=1e-5,
            signed_position=False,
            signed_image=True,
            init="torch",
        )

    @classmethod
    def of_vit(cls, config: ViTConfig, dim: int) -> "PositionedEncoder":
        """The same around a vision transformer, as SlotDiffusion's later code has it for VOC and COCO."""
        return cls(ViTBackbone(config), dim, out_dim=dim, norm_eps=1e-5, signed_position=False, init="torch")

    @classmethod
    def oclf(cls, dim: int) -> "PositionedEncoder":
        """What Slot Attention has in OCLF's comparisons: SAVi's ResNet-34 as read there, features of `dim`.

        `configs/experiment/projects/bridging/slot_attention/_base_large.yaml` and `resnet34_savi` there.
        """
        network = ResNetEncoder(34, strides=(1, 2, 2, 2), stem_kernel=7, stem_pool=True, zero_init=True)
        encoder = cls(network, dim, out_dim=dim, norm_eps=1e-5, signed_image=True, init="torch")
        for layer in encoder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
        return encoder

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map for an image of this size in pixels."""
        return self.backbone.grid(height, width)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """One feature for every position of the map, row by row."""
        features = self.backbone(2 * image - 1 if self.signed_image else image)
        return self._placed(features, self.grid(image.shape[-2], image.shape[-1]))

    def of_batch(self, batch: Batch) -> Float[Tensor, "b p c"]:
        """Of the images of a batch; from its cached `features` if it has them and they are a frozen transformer's."""
        if "features" in batch and isinstance(self.backbone, ViTBackbone) and self.backbone.frozen:
            return self._placed(batch["features"].float(), self.backbone.grid(0, 0))
        return self(batch["image"])

    def _placed(self, features: Float[Tensor, "b p c"], grid: tuple[int, int]) -> Float[Tensor, "b p d"]:
        return self.mlp(self.norm(features + self.position(*grid).flatten(2).transpose(1, 2)))
