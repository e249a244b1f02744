"""EmerDiff: image -> inverted latents -> queries of a U-Net, clustered -> which pixels each cluster moves. No learning.

Namekata, Sabour, Fidler, Kim 2024, "EmerDiff: Emerging Pixel-level Semantic Knowledge in Diffusion Models", arXiv
2401.11739. No code is published, and this file was written from summaries of the paper, not from its text: the layers,
timesteps 1 and 281, the strength 10, the attention maps shared with the unmodulated image and the Gaussian filter are
documented there; its width, the layer that is modulated of the three, and the way real images are inverted are not, and
are choices of ours (`blur`, `modulated_layer`, DDIM inversion). Do not read a difference from the paper's numbers as a
finding.

    clusters of queries --offset +s, -s on the members, denoise--> two images --distance--> pixels each cluster moves

Only the steps below the modulated one are computed: before it all images are the same, and DDIM is deterministic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from slotworks.encoders.diffusion import LatentDiffusion
from slotworks.nn.clustering import kmeans, segments_as_slots
from slotworks.types import MethodConfig, SlotOutput, Untrained, UserError


@dataclass(frozen=True)
class EmerDiffConfig(MethodConfig):
    """Settings of the segmentation."""

    model: str = "CompVis/stable-diffusion-v1-4"  # hub id, or a folder in the format of diffusers
    image_size: int = 512  # pixels, square: queries are then taken at 16 x 16
    num_slots: int = 20  # clusters; 10 to 40 make little difference in the paper
    num_steps: int = 50  # of 1000 timesteps: 1, 21, ..., 981
    modulated_timestep: int = 281  # where the offset is added
    modulated_layer: int = -1  # which cross-attention of the block, from 0 or from the end; -1: our choice, see above
    strength: float = 10.0  # the offset, lambda
    blur: float = 4.0  # standard deviation of the Gaussian on distance maps, pixels; 0: none; our choice, see above
    map_stride: int = 2  # masks have one value for so many pixels squared
    images_per_pass: int = 20  # images in one pass of the U-Net: memory, not results
    restarts: int = 8  # k-means runs; the best is kept

    def build(self) -> "EmerDiff":
        """Make the method; the diffusion model is loaded at the first image."""
        return EmerDiff(self)


class EmerDiff(Untrained):
    """Pixels are given to the cluster of low-resolution queries that moves them most."""

    config: EmerDiffConfig

    def __init__(self, config: EmerDiffConfig):
        super().__init__(config)
        self.diffusion = LatentDiffusion(config.model)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to soft masks of clusters; slots are the mean queries.

        `attn` is the distance by which each cluster moves a pixel, divided by the sum over clusters. Clusters without
        members move nothing.
        """
        config = self.config
        unet = self.diffusion.parts(image).unet
        layers = up_cross_attentions(unet)
        inverted = [self.invert(part) for part in image.split(config.images_per_pass)]
        queries = torch.cat(
            [self.diffusion.features(clean, self.timesteps()[0], layers[0].to_q) for clean, _ in inverted]
        )
        noisy = torch.cat([latents for _, latents in inverted])
        labels = kmeans(queries, config.num_slots, restarts=config.restarts)
        low = segments_as_slots(labels, queries, config.num_slots, square(labels))
        distance = torch.cat(
            [
                self.moved(z.unsqueeze(0), masks, layers[config.modulated_layer])
                for z, masks in zip(noisy, low.attn, strict=True)
            ]
        )
        distance = F.avg_pool2d(blurred(distance, config.blur), config.map_stride)
        attn = (distance + 1e-12) / (distance + 1e-12).sum(1, keepdim=True)
        return SlotOutput(low.slots, attn.flatten(2), grid=(attn.shape[2], attn.shape[3]))

    def timesteps(self) -> list[int]:
        """From the cleanest, 1, up to the modulated one."""
        stride = 1000 // self.config.num_steps
        return [t for t in range(1, 1000, stride) if t <= self.config.modulated_timestep]

    def invert(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b l y x"], Float[Tensor, "b l y x"]]:
        """DDIM run backwards (Song et al. 2021): latents at the first timestep and at the modulated one."""
        latents, level, first = self.diffusion.encode(image), 0, None
        for t in self.timesteps():
            latents = self._move(latents, self.diffusion.predict_noise(latents, t), level, t)
            first, level = latents if first is None else first, t
        assert first is not None
        return first, latents

    def moved(
        self, noisy: Float[Tensor, "1 l y x"], masks: Float[Tensor, "n p"], layer: Any
    ) -> Float[Tensor, "1 n h w"]:
        """How far each mask moves each pixel: distance of the images denoised with the offset and with its negative.

        Args:
            noisy: latents of one image at the modulated timestep.
            masks: 0 or 1 at the positions of the layer.
            layer: the attention whose output gets the offset.
        """
        offsets = self.config.strength * torch.stack([masks, -masks], 1).flatten(0, 1)  # +, -, +, -, ...
        images = torch.cat(
            [
                self.diffusion.decode(self._denoised(noisy, part, layer)[1:])
                for part in offsets.split(2 * max(1, self.config.images_per_pass // 2))
            ]
        )
        plus, minus = images.unflatten(0, (-1, 2)).unbind(1)
        return (plus - minus).norm(dim=1).unsqueeze(0)

    def _denoised(self, noisy: Tensor, offsets: Float[Tensor, "m p"], layer: Any) -> Float[Tensor, "_ l y x"]:
        """Latents without noise: first of the image as it is, then one for each offset, with its attention maps."""
        latents = noisy.expand(len(offsets) + 1, -1, -1, -1)
        times = self.timesteps()
        unet = self.diffusion.parts(noisy).unet
        before = dict(unet.attn_processors)
        try:
            for i in range(len(times) - 1, -1, -1):
                changed = {layer: F.pad(offsets, (0, 0, 1, 0))} if i == len(times) - 1 else {}
                share_attention(unet, changed)
                noise = self.diffusion.predict_noise(latents, times[i])
                latents = self._move(latents, noise, times[i], times[i - 1] if i else 0)
        finally:
            unet.set_attn_processor(before)
        return latents

    def _move(self, latents: Tensor, noise: Tensor, level: int, target: int) -> Tensor:
        """One deterministic DDIM step between two timesteps; 0 is the image (as in Stable Diffusion's scheduler)."""
        alphas = self.diffusion.parts(latents).alphas
        clean = (latents - (1 - alphas[level]).sqrt() * noise) / alphas[level].sqrt()
        return alphas[target].sqrt() * clean + (1 - alphas[target]).sqrt() * noise


def up_cross_attentions(unet: Any) -> Sequence[Any]:
    """The cross-attentions of the first up block that has any: at 16 x 16 for Stable Diffusion 1.x at 512 pixels."""
    for block in unet.up_blocks:
        if hasattr(block, "attentions"):
            return [attention.transformer_blocks[0].attn2 for attention in block.attentions]
    raise UserError("This U-Net has no attention in its up blocks; choose a Stable Diffusion model.")


def share_attention(unet: Any, offsets: dict[Any, Float[Tensor, "m p"]]) -> None:
    """Make all images of a batch use the attention maps of the first; `offsets` are added to what a layer returns.

    The maps are computed once: values of all images are laid side by side, as if they were one wide value.
    """

    def process(
        attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any
    ):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch = len(hidden_states)
        q, k = (
            project(x[:1]).unflatten(2, (attn.heads, -1)).transpose(1, 2)  # 1 k p d
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, context))
        )
        v = attn.to_v(context).unflatten(2, (attn.heads, -1)).permute(2, 1, 0, 3).flatten(2).unsqueeze(0)  # 1 k p (b d)
        out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)[0].unflatten(2, (batch, -1))  # k p b d
        out = attn.to_out[0](out.permute(2, 1, 0, 3).flatten(2))
        return out + offsets[attn].unsqueeze(2) if attn in offsets else out

    unet.set_attn_processor(dict.fromkeys(unet.attn_processors, process))


def blurred(maps: Float[Tensor, "b n h w"], sigma: float) -> Float[Tensor, "b n h w"]:
    """A Gaussian filter over rows and columns; the border is continued."""
    if sigma <= 0:
        return maps
    radius = round(4 * sigma)
    x = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = (-x.square() / (2 * sigma**2)).exp()
    kernel = kernel / kernel.sum()
    flat = F.pad(maps.flatten(0, 1).unsqueeze(1), (radius,) * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return flat.squeeze(1).unflatten(0, maps.shape[:2])


def square(labels: Int64[Tensor, "b p"]) -> tuple[int, int]:
    """Height and width of a square map with so many positions."""
    side = round(labels.shape[1] ** 0.5)
    return side, labels.shape[1] // side
