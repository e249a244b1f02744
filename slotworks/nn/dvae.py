"""Discrete VAE: an image as a short list of words from a learned vocabulary, and back.

Ramesh et al. 2021 (arXiv 2102.12092), in the small form of SLATE (Singh et al. 2022, arXiv 2110.11405; released code)
and STEVE (Singh et al. 2022, arXiv 2205.14065; released code), which differ in `block` and size:

| code base | arguments |
| --- | --- |
| SLATE (3D Shapes) | `vocab_size=1024, block="norm"` |
| STEVE | `vocab_size=4096, block="bias"` |
| SLATE and STEVE in SlotDiffusion's repository | `vocab_size=4096, block="norm", signed=True` |
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding, group_norm, log_softmax, one_hot

from slotworks.errors import UserError
from slotworks.nn.init import unlike
from slotworks.nn.noise import batch_uniform

Block = Literal["norm", "bias"]
PATCH = 4
"""Pixels of each side of the square that one token stands for."""


def cosine_anneal(step: int, start: float, end: float, steps: int) -> float:
    """From `start` at step 0 to `end` at `steps` and after, along half a cosine: the temperature of SLATE and STEVE.

    >>> [round(cosine_anneal(step, 1.0, 0.1, 30_000), 4) for step in (0, 7_500, 15_000, 22_500, 30_000, 99_999)]
    [1.0, 0.8682, 0.55, 0.2318, 0.1, 0.1]
    """
    if step >= steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


def gumbel_noise(like: Float[Tensor, "b *s"]) -> Float[Tensor, "b *s"]:
    """Noise whose addition to log-probabilities makes their argmax a sample (Gumbel 1954); float32 or wider."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    uniform = batch_uniform(tuple(like.shape), like.device, dtype).clamp_(min=torch.finfo(dtype).tiny)
    return uniform.log_().neg_().log_().neg_()


def gumbel_softmax(
    log_probs: Float[Tensor, "b v *s"], temperature: float, *, hard: bool = False
) -> Float[Tensor, "b v *s"]:
    """A relaxed sample of the words, axis 1: one-hot as the temperature goes to 0 (Jang et al. 2017, arXiv 1611.01144).

    With `hard` the sample is one-hot, and its gradient that of the relaxed one (straight-through).
    """
    soft = ((log_probs + gumbel_noise(log_probs)) / temperature).softmax(dim=1)
    if not hard:
        return soft
    return one_hot_at(soft.argmax(dim=1), soft.shape[1]).to(soft) - soft.detach() + soft


def gumbel_argmax(log_probs: Float[Tensor, "b v *s"]) -> Int64[Tensor, "b *s"]:
    """A sample of the words, axis 1, without gradient."""
    log_probs = log_probs.detach()
    return (log_probs + gumbel_noise(log_probs)).argmax(dim=1)


def one_hot_at(index: Int64[Tensor, "b *s"], count: int) -> Int64[Tensor, "b v *s"]:
    """One-hot codes on axis 1."""
    return one_hot(index, count).movedim(-1, 1)


class ConvBlock(nn.Module):
    """A convolution and a ReLU, SLATE's with a normalisation between ("norm"), STEVE's without ("bias").

    "norm": no bias in the convolution, then a GroupNorm of one group with scale and offset for each channel. Initial
    weights are He's.
    """

    def __init__(self, channels_in: int, channels: int, kernel_size: int, stride: int = 1, *, block: Block = "norm"):
        super().__init__()
        padding = kernel_size // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(channels_in, channels, kernel_size, stride, padding, bias=block == "bias")
        nn.init.kaiming_uniform_(self.conv.weight, nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.norm = nn.GroupNorm(1, channels) if block == "norm" else None

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o y x"]:
        """The block's output."""
        return self.finish(self.conv(x))

    def finish(self, x: Float[Tensor, "b o y x"]) -> Float[Tensor, "b o y x"]:
        """What follows the convolution."""
        if self.norm is not None:
            x = group_norm(x, 1, self.norm.weight, self.norm.bias, self.norm.eps)
        return x.relu_()


@dataclass(frozen=True)
class DiscreteCode:
    """What training needs of an image: its reconstruction from a relaxed sample, and another, independent sample."""

    recon: Float[Tensor, "b 3 h w"]  # carries the gradient of the dVAE
    tokens: Int64[Tensor, "b p"]  # carries none


class DiscreteVAE(nn.Module):
    """Each square of 4 x 4 pixels becomes one of `vocab_size` tokens; a few convolutions make an image of them again.

    Images are in [0, 1], height and width multiples of 4; reconstructions are not limited to that range.

    Args:
        vocab_size: number of words.
        channels: of the hidden layers, in both directions.
        block: "norm" as in SLATE or "bias" as in STEVE, see `ConvBlock`.
        signed: the network reads and writes images in [-1, 1]; outside of it they are in [0, 1] all the same.

    >>> dvae = DiscreteVAE(vocab_size=32, channels=16)
    >>> tokens = dvae.tokenize(torch.rand(2, 3, 32, 24))
    >>> tokens.shape, dvae.decode(tokens, (8, 6)).shape
    (torch.Size([2, 48]), torch.Size([2, 3, 32, 24]))
    """

    def __init__(self, vocab_size: int, *, channels: int = 64, block: Block = "norm", signed: bool = False):
        super().__init__()
        self.vocab_size, self.signed = vocab_size, signed

        def conv(channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1) -> ConvBlock:
            return ConvBlock(channels_in, channels_out, kernel, stride, block=block)

        def plain(channels_in: int, channels_out: int) -> nn.Conv2d:
            layer = nn.Conv2d(channels_in, channels_out, 1)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
            return layer

        c = channels
        self.encoder = nn.Sequential(conv(3, c, PATCH, PATCH), *(conv(c, c) for _ in range(6)), plain(c, vocab_size))
        self.first = conv(vocab_size, c)  # of the decoder; apart, since for tokens it is a table
        self.decoder = nn.Sequential(
            *(conv(c, c, 3), conv(c, c), conv(c, c), conv(c, 4 * c), nn.PixelShuffle(2)),
            *(conv(c, c, 3), conv(c, c), conv(c, c), conv(c, 4 * c), nn.PixelShuffle(2)),
            plain(c, 3),
        )

    def log_probs(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b v y x"]:
        """Log-probabilities of the words at each square."""
        if image.shape[-2] % PATCH or image.shape[-1] % PATCH:
            raise ValueError(
                f"The image has {image.shape[-2]} x {image.shape[-1]} pixels; both must be multiples of {PATCH}."
            )
        logits = self.encoder(2 * image - 1 if self.signed else image)
        return log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=1)

    def forward(
        self, image: Float[Tensor, "b 3 h w"], temperature: float, *, hard: bool = False, sample: bool = True
    ) -> DiscreteCode:
        """Reconstruct from a relaxed sample, and draw tokens with noise of their own.

        Args:
            image: in [0, 1].
            temperature: of the relaxed sample.
            hard: reconstruct from a one-hot sample, straight-through.
            sample: False takes the most probable tokens.
        """
        log_probs = self.log_probs(image)
        recon = self.decode_codes(gumbel_softmax(log_probs, temperature, hard=hard))
        tokens = gumbel_argmax(log_probs) if sample else log_probs.argmax(dim=1)
        return DiscreteCode(recon, tokens.flatten(1))

    @torch.no_grad()
    def tokenize(self, image: Float[Tensor, "b 3 h w"], *, sample: bool = False) -> Int64[Tensor, "b p"]:
        """The most probable tokens, or a sample of them, row by row, without gradient."""
        log_probs = self.log_probs(image)
        return (gumbel_argmax(log_probs) if sample else log_probs.argmax(dim=1)).flatten(1)

    def decode_codes(self, codes: Float[Tensor, "b v y x"]) -> Float[Tensor, "b 3 h w"]:
        """An image of soft or one-hot codes."""
        return self._image(self.decoder(self.first(codes)))

    def decode(self, tokens: Int64[Tensor, "b p"], grid: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        """An image of tokens, row by row: as from their one-hot codes, but the first layer only looks them up."""
        table = self.first.conv.weight.flatten(1).T  # v c
        x = embedding(tokens, table).transpose(1, 2).unflatten(-1, grid)
        if self.first.conv.bias is not None:
            x = x + self.first.conv.bias[:, None, None]
        return self._image(self.decoder(self.first.finish(x.contiguous())))

    def _image(self, out: Tensor) -> Tensor:
        out = out if out.dtype == torch.float64 else out.float()
        return (out + 1) / 2 if self.signed else out


def copy_trained(dvae: DiscreteVAE, source: nn.Module, run: str) -> None:
    """Take the weights of the discrete VAE of a trained method; `run` is where it came from, for messages.

    Raises:
        UserError: if the method has none, or one of another kind.
    """
    trained = getattr(source, "dvae", None)
    if not isinstance(trained, DiscreteVAE):
        raise UserError(f"{run} is a run of {type(source).__name__}, which has no discrete VAE; give one of dvae.")
    if unlike(dvae.state_dict(), trained.state_dict()) or dvae.signed != trained.signed:
        raise UserError(
            f"The discrete VAE of {run} has {trained.vocab_size} words and is of another make than the one asked for, "
            f"with {dvae.vocab_size}; set vocab_size, dvae_channels, dvae_block and dvae_signed as in that run."
        )
    dvae.load_state_dict(trained.state_dict())
