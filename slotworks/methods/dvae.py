"""Discrete VAE alone: the first of two stages where SLATE or STEVE is trained on fixed tokens.

The network is `slotworks.nn.dvae.DiscreteVAE`; SLATE and STEVE (Singh et al. 2022) train it together with the slots,
the code of SlotDiffusion (Wu et al. 2023) first and alone. It has no slots and no `encode`: `SlateConfig(dvae_run=RUN)`
and `SteveConfig(dvae_run=RUN)` take the weights of its run. Videos are taken frame by frame.
"""

from dataclasses import dataclass

from torch import Tensor

from slotworks.nn.dvae import Block, DiscreteVAE, cosine_anneal
from slotworks.types import Batch, Method, MethodConfig


@dataclass(frozen=True)
class DVAEConfig(MethodConfig):
    """Hyperparameters of the discrete VAE; the defaults are SLATE's."""

    image_size: int = 64  # height and width in pixels, a multiple of 4
    vocab_size: int = 1024  # words
    dvae_channels: int = 64  # of the hidden layers
    dvae_block: Block = "norm"  # norm: SLATE's, GroupNorm and no bias; bias: STEVE's, no norm
    dvae_signed: bool = False  # it sees images in [-1, 1], as in SlotDiffusion's repository, not in [0, 1]
    tau_start: float = 1.0  # temperature of the relaxed codes at step 0
    tau_end: float = 0.1  # and from tau_steps on
    tau_steps: int = 30_000  # half a cosine between
    hard_codes: bool = False  # reconstruct from one-hot codes, straight-through

    @property
    def finds_slots(self) -> bool:
        """No: methods build on it."""
        return False

    def build(self) -> "DVAE":
        """Make the method with fresh weights."""
        return DVAE(self)


class DVAE(Method):
    """Learns a vocabulary of squares of 4 x 4 pixels."""

    config: DVAEConfig

    def __init__(self, config: DVAEConfig):
        super().__init__()
        self.config = config
        self.dvae = DiscreteVAE(
            config.vocab_size, channels=config.dvae_channels, block=config.dvae_block, signed=config.dvae_signed
        )

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Squared error, summed over the values of an image, mean over images."""
        config = self.config
        image = batch["video"].flatten(0, 1) if "video" in batch else batch["image"]
        tau = cosine_anneal(step, config.tau_start, config.tau_end, config.tau_steps)
        recon = self.dvae(image, tau, hard=config.hard_codes).recon
        return {"recon": (recon - image).square().sum() / len(image)}
