"""The convolutional encoder of Slot Attention."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from slotworks.nn.conv import StridedMap, same_conv
from slotworks.nn.init import glorot_
from slotworks.nn.position import PositionEmbedding


class CNNEncoder(StridedMap):
    """Four 5x5 convolutions, a position embedding, a LayerNorm and an MLP (Locatello et al. 2020, tables 3 and 4).

    Images are expected in [-1, 1]. Padding is TensorFlow's `SAME`. CLEVR uses 64 channels, Tetrominoes and
    multi-dSprites 32; `strides=(1, 2, 2, 1)` is the set-prediction encoder of table 3. `kernel_size` may be one for
    each convolution.

    >>> import torch
    >>> CNNEncoder(channels=32)(torch.zeros(2, 3, 35, 35)).shape
    torch.Size([2, 1225, 32])
    """

    def __init__(
        self,
        channels: int = 64,
        *,
        strides: Sequence[int] = (1, 1, 1, 1),
        kernel_size: int | Sequence[int] = 5,
        position_embedding: bool = True,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.strides, self.feature_dim = tuple(strides), channels
        count = len(self.strides)
        kernels = [kernel_size] * count if isinstance(kernel_size, int) else list(kernel_size)
        if len(kernels) != count:
            raise ValueError(f"kernel_size is {kernel_size} and strides {strides}; give one of each for every layer.")
        widths = [3] + [channels] * (count - 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(c_in, channels, kernel, stride)
            for c_in, kernel, stride in zip(widths, kernels, self.strides, strict=True)
        )
        self.position = PositionEmbedding(channels) if position_embedding else None
        self.norm = nn.LayerNorm(channels, eps=norm_eps)
        self.mlp = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
        glorot_(self)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """One feature for every position of the map, row by row."""
        x = image
        for conv in self.convs:
            x = same_conv(conv, x).relu_()  # pyright: ignore[reportArgumentType]  (ModuleList has no element type)
        if self.position is not None:
            x = x + self.position(x.shape[-2], x.shape[-1])
        return self.mlp(self.norm(x.flatten(2).transpose(1, 2)))
