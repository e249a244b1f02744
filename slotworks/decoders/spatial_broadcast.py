"""The spatial broadcast decoder: each slot renders its own picture and says where it shows.

Watters et al. 2019 (arXiv 1901.07017), as in Locatello et al. 2020, supplement tables 5 and 6.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.nn.init import glorot_
from slotworks.nn.position import PositionEmbedding
from slotworks.types import DecoderOutput


def _border_patterns(size: int, kernel: int, like: Tensor) -> Tensor:
    """Which taps of a zero-padded kernel fall inside, as one-hot rows: `size` positions by `kernel` patterns.

    Pattern i < kernel // 2 is position i from the start, the middle pattern everywhere inside, the others from the end.
    Device and dtype are those of `like`.
    """
    half = kernel // 2
    index = torch.arange(size, device=like.device)
    inside = (index >= half) & (index < size - half)
    index = torch.where(inside, half, torch.where(index < half, index, index - size + kernel))
    return nn.functional.one_hot(index, kernel).to(like)


class BroadcastConv(nn.Conv2d):
    """A zero-padded stride-1 convolution of a slot tiled over a grid plus a position embedding, without the tiling.

    The tiled slot is the same at every position, so all outputs that see the same part of the kernel are equal, and
    along each axis there are only as many different parts as the kernel is wide. A small product gives one vector for
    each, a one-hot product spreads them, and the position embedding, which no slot changes, is convolved once. Exact up
    to rounding; with a 5x5 kernel on 35x35 it needs 2 % of the multiplications.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, slots: Float[Tensor, "s d"], position: Float[Tensor, "1 d h w"]
    ) -> Float[Tensor, "s c h w"]:
        """`s` slots to `s` maps of the size of `position`."""
        height, width = position.shape[-2:]
        kernel = self.kernel_size[0]
        if min(height, width) < kernel:  # the borders overlap: no pattern is the middle one
            return self._conv_forward(slots[:, :, None, None] + position, self.weight, self.bias)
        # Sum of the kernel's taps that fall inside, by pattern: taps[a, i] says whether pattern a sees tap i.
        half = kernel // 2
        offset = torch.arange(kernel)
        taps = (offset[None, :] + offset[:, None] >= half) & (offset[None, :] + offset[:, None] < kernel + half)
        taps = taps.to(self.weight)
        summed = torch.einsum("cdij,ai,ej->daec", self.weight, taps, taps).flatten(1)  # d (a e c)
        patterns = (slots @ summed).unflatten(1, (kernel * kernel, -1))  # s (a e) c
        rows = _border_patterns(height, kernel, self.weight)
        columns = _border_patterns(width, kernel, self.weight)
        spread = torch.einsum("ya,xe->yxae", rows, columns).flatten(2).flatten(0, 1)  # (y x) (a e)
        fixed = nn.functional.conv2d(position, self.weight, self.bias, padding=half)  # 1 c h w
        if self.weight.is_contiguous():  # the layers that follow take maps as they lie, and are slow across
            x = torch.matmul(patterns.transpose(1, 2), spread.T) + fixed.flatten(2)  # s c (y x)
        else:
            x = (torch.matmul(spread, patterns) + fixed.flatten(2).transpose(1, 2)).transpose(1, 2)  # channels last
        return x.unflatten(-1, (height, width))


class SameConvTranspose(nn.ConvTranspose2d):
    """A transposed convolution that multiplies the size by its stride and crops as TensorFlow's `SAME` does.

    With `crop="torch"` it crops as torch does with a padding of half the kernel.
    """

    def __init__(
        self, dim_in: int, dim: int, kernel_size: int, stride: int, *, crop: Literal["same", "torch"] = "same"
    ):
        super().__init__(dim_in, dim, kernel_size, stride)
        self.crop = kernel_size // 2 if crop == "torch" else (kernel_size - stride) // 2
        self.more = stride - 1 if crop == "torch" else 0  # rows after, without which torch's crop leaves too few

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "s d h w"]
    ) -> Float[Tensor, "s c h2 w2"]:
        """TensorFlow crops one pixel less before than after where the kernel leaves an odd number, torch one more."""
        height, width = x.shape[-2] * self.stride[0], x.shape[-1] * self.stride[1]
        full = nn.functional.conv_transpose2d(x, self.weight, self.bias, self.stride, self.crop, self.more)
        return full[..., :height, :width]


class SpatialBroadcastDecoder(nn.Module):
    """Tile each slot over a grid, add a position embedding, decode with shared convolutions, mix with soft masks.

    Args:
        slot_dim: width of a slot.
        image_size: height and width of the rendered image in pixels.
        channels: width of every hidden layer.
        strides: one hidden layer each; 1 is a convolution, 2 a transposed convolution that doubles the size.
            Tetrominoes and multi-dSprites (table 6): `(1, 1, 1)`; CLEVR (table 5): `(2, 2, 2, 2, 1)`.
        kernel_size: of the hidden layers, or one for each, odd; the last layer has 3.
        broadcast_size: height and width of the grid; None divides `image_size` by all strides and by `shuffle`.
        shuffle: the last layer renders `shuffle x shuffle` pixels of colour at each position and one mask value, which
            is interpolated bilinearly. Not in the paper: 2 costs a quarter, and a coarse mask cannot draw an object's
            texture, which soft full-size masks do early in training, whoever's pixel it is.
        mask_shuffle: the last layer renders `mask_shuffle x mask_shuffle` mask values at each position, of which the
            interpolation starts. Divides `shuffle`.
        mask_pool: mask values are averaged over squares of this many positions before they are interpolated. Not in
            the paper: on a ground that every slot can draw, coarser masks leave an object's shape to its colours, and
            its dark edges to its slot.
        out_channels: of what is rendered: 3 colours, or the channels of another target.
        last_kernel_size: of the last layer; SAVi has 1.
        signed_position: positions as row and column from -1 to 1 (SAVi), not as four distances.
        make: "keras" has Glorot's initial weights and TensorFlow's crop; "torch" has torch's for both (SlotDiffusion's
            repository, `deconv_norm_act` of its library nerv).

    Raises:
        ValueError: if a kernel is even or one is missing, the grid does not grow to the size of the image,
            `mask_shuffle` does not divide `shuffle`, or `mask_pool` the map of mask values.

    >>> decoder = SpatialBroadcastDecoder(slot_dim=64, image_size=(35, 35), channels=32, strides=(1, 1, 1))
    >>> out = decoder(torch.randn(2, 4, 64))
    >>> out.recon.shape, out.masks.shape
    (torch.Size([2, 3, 35, 35]), torch.Size([2, 4, 35, 35]))
    """

    def __init__(
        self,
        slot_dim: int,
        image_size: tuple[int, int],
        *,
        channels: int = 64,
        strides: Sequence[int] = (2, 2, 2, 2, 1),
        kernel_size: int | Sequence[int] = 5,
        broadcast_size: tuple[int, int] | None = None,
        shuffle: int = 1,
        mask_shuffle: int = 1,
        mask_pool: int = 1,
        out_channels: int = 3,
        last_kernel_size: int = 3,
        signed_position: bool = False,
        make: Literal["keras", "torch"] = "keras",
    ):
        super().__init__()
        factor = shuffle
        for stride in strides:
            factor *= stride
        kernels = [kernel_size] * len(strides) if isinstance(kernel_size, int) else list(kernel_size)
        if len(kernels) != len(strides):
            raise ValueError(f"kernel_size is {kernel_size} and strides {strides}; give one of each for every layer.")
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernel_size is {kernel_size}; an odd one keeps the size of a map, for example 5.")
        if broadcast_size and (
            broadcast_size[0] * factor < image_size[0] or broadcast_size[1] * factor < image_size[1]
        ):
            raise ValueError(
                f"A grid of {broadcast_size} grows by {factor} and does not reach image_size {image_size}; leave "
                "broadcast_size out, or make it larger."
            )
        if shuffle % mask_shuffle:
            raise ValueError(f"mask_shuffle is {mask_shuffle} and shuffle {shuffle}; choose a divisor of shuffle.")
        self.image_size = image_size
        self.broadcast_size = broadcast_size or (-(-image_size[0] // factor), -(-image_size[1] // factor))
        values = [size * factor // shuffle * mask_shuffle for size in self.broadcast_size]
        if any(value % mask_pool for value in values):
            raise ValueError(
                f"mask_pool is {mask_pool} and masks have {values[0]} x {values[1]} values; choose a divisor of both."
            )
        self.mask_pool = mask_pool
        self.position = PositionEmbedding(slot_dim, signed=signed_position)
        layers: list[nn.Module] = []
        for i, (stride, kernel) in enumerate(zip(strides, kernels, strict=True)):
            width = slot_dim if i == 0 else channels
            if stride == 1 and i == 0:
                layers.append(BroadcastConv(width, channels, kernel, padding="same"))
            elif stride == 1:
                layers.append(nn.Conv2d(width, channels, kernel, padding="same"))
            else:
                crop = "same" if make == "keras" else "torch"
                layers.append(SameConvTranspose(width, channels, kernel, stride, crop=crop))
        self.layers = nn.ModuleList(layers)
        self.last = nn.Conv2d(channels, out_channels * shuffle**2 + mask_shuffle**2, last_kernel_size, padding="same")
        self.shuffle, self.mask_shuffle = nn.PixelShuffle(shuffle), nn.PixelShuffle(mask_shuffle)
        if make == "keras":
            glorot_(self)

    def forward(self, slots: Float[Tensor, "b n d"]) -> DecoderOutput:
        """Render slots. No activation on the colours, so they may leave their range."""
        b, n, _ = slots.shape
        position = self.position(*self.broadcast_size)
        if self.layers[0].weight.is_contiguous():  # pyright: ignore[reportCallIssue]  (all maps then lie as this one)
            position = position.contiguous()
        x = slots.flatten(0, 1)  # (b n) d
        for i, layer in enumerate(self.layers):
            if i == 0:
                x = layer(x, position) if isinstance(layer, BroadcastConv) else layer(x[:, :, None, None] + position)
            else:
                x = layer(x)
            x = x.relu_() if type(layer) is nn.Conv2d else x.relu()  # in place costs a copy where `x` is a part
        x = self.last(x)
        x = x if x.dtype == torch.float64 else x.float()  # masks and colours leave mixed precision
        height, width = self.image_size
        scale, fine = self.shuffle.upscale_factor, self.mask_shuffle.upscale_factor
        colors, logits = x.split([x.shape[1] - fine**2, fine**2], dim=1)
        parts = self.shuffle(colors)[..., :height, :width].unflatten(0, (b, n))  # b n c h w
        logits = self.mask_shuffle(logits)
        grow = scale // fine * self.mask_pool
        if self.mask_pool > 1:
            logits = nn.functional.avg_pool2d(logits, self.mask_pool)
        if grow > 1:
            logits = nn.functional.interpolate(logits, scale_factor=grow, mode="bilinear", align_corners=False)
        masks = logits[:, 0, :height, :width].unflatten(0, (b, n)).softmax(dim=1)  # b n h w
        return DecoderOutput((parts * masks[:, :, None]).sum(dim=1), masks, parts)


def posterior_masks(
    masks: Float[Tensor, "b n h w"], parts: Float[Tensor, "b n c h w"], image: Float[Tensor, "b c h w"], std: float
) -> Float[Tensor, "b n h w"]:
    """Which slot a pixel belongs to, given its colour: Bayes' rule with the decoder's masks as what is known before.

    The mixture by which IODINE explains a picture (Greff et al. 2019, arXiv 1903.00450), and its "mask posterior": slot
    k shows a pixel with probability `masks[k]`, and then its colour is normal around `parts[k]`. A mask that knows a
    shape roughly gives an object's edge to the ground; the posterior gives it to the slot that has its colour there.

    Args:
        masks: sum to one over slots.
        parts: what each slot shows alone, on the scale of the image.
        image: what was seen.
        std: standard deviation of a colour, above 0, on the same scale; the larger, the closer to `masks`.
    """
    distance = (parts - image[:, None]).square().sum(dim=2) / (2 * std**2)
    return (masks.clamp_min(torch.finfo(masks.dtype).tiny).log() - distance).softmax(dim=1)
