"""The first stage of SlotDiffusion: a VQ-VAE of images, trained before the slots and then frozen.

Wu et al. 2023 (arXiv 2305.11281), appendix D.4, with the networks of Rombach et al. 2022. The loss is that of the
released code: mean absolute error, LPIPS with VGG, and the two errors of quantisation, of which, after a mistake that
latent diffusion's code keeps, the commitment weighs 1 and the codebook 0.25. There is no discriminator. With
`perceptual=False` there is no LPIPS and the error is squared, as in that code.

This trains no slots; `slot_diffusion` takes its run folder.
"""

from dataclasses import dataclass, field

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slotworks.nn.perceptual import PerceptualLoss
from slotworks.nn.vqvae import VQAutoencoder, VQConfig
from slotworks.types import Batch, Method, MethodConfig


@dataclass(frozen=True)
class VQVAEConfig(MethodConfig):
    """Hyperparameters of the first stage."""

    loss_weights: dict[str, float] = field(default_factory=lambda: {"codebook": 0.25})  # the VQ-VAE paper: commit 0.25
    image_size: int = 128  # pixels, square
    autoencoder: VQConfig = field(default_factory=VQConfig)  # the networks
    perceptual: bool = True  # LPIPS beside the absolute error; False: squared error alone

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.autoencoder.stride:
            raise ValueError(
                f"image_size is {self.image_size}; the VQ-VAE needs a multiple of {self.autoencoder.stride}."
            )

    @property
    def finds_slots(self) -> bool:
        """No: methods build on it."""
        return False

    def build(self) -> "VQVAE":
        """Make the method with fresh weights."""
        return VQVAE(self)


class VQVAE(Method):
    """Images to codes and back. It finds no slots; it is the autoencoder of `SlotDiffusion`."""

    config: VQVAEConfig

    def __init__(self, config: VQVAEConfig):
        super().__init__()
        self.config = config
        self.autoencoder = VQAutoencoder(config.autoencoder)
        self.perceptual = PerceptualLoss() if config.perceptual else None

    def reconstruct(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] through the codes and back, not clamped."""
        return self.autoencoder.decode(self.autoencoder.encode(image))

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`recon` of images in [-1, 1], `perceptual`, `commit` and `codebook`. Frames of videos count as images."""
        image = batch["video"].flatten(0, 1) if "video" in batch else batch["image"]
        found = self.autoencoder.quantize(self.autoencoder.encode(image))
        recon = self.autoencoder.decode(found.codes, quantize=False).float()
        terms = {"commit": found.commit, "codebook": found.codebook}
        if self.perceptual is None:
            return {"recon": F.mse_loss(2 * recon, 2 * image), **terms}
        return {"recon": F.l1_loss(2 * recon, 2 * image), "perceptual": self.perceptual(recon, image), **terms}
