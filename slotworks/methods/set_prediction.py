"""Set prediction with Slot Attention: image -> CNN -> slots -> a shared MLP -> objects with their properties.

Locatello et al. 2020, "Object-Centric Learning with Slot Attention", arXiv 2006.15055, section 4.2; hyperparameters
from the supplement, sections 5.1 and 5.4. Supervised: predicted objects are matched with the true ones, Huber loss.
Differences from the paper: none with the defaults. The loss of an image is the sum over its pairs, as in the released
code. `stepwise_loss` and `coordinate_scale` are the variants of the supplement's section 3.2; it does not say whether
the losses of the iterations are summed or averaged: we sum.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from slotworks.decoders import SetHead
from slotworks.encoders import CNNEncoder
from slotworks.guidance import matched_huber
from slotworks.slots import INITIALIZERS, SlotAttentionOptions
from slotworks.types import Batch, Method, SlotOutput


@dataclass(frozen=True)
class SetPredictionConfig(SlotAttentionOptions):
    """Hyperparameters of set prediction; the defaults are CLEVR10's."""

    image_size: tuple[int, int] = (128, 128)  # height and width in pixels
    num_slots: int = 10  # K: as many as objects; there is none for the background
    slot_dim: int = 64  # D
    num_iterations: int = 3  # T in training
    test_iterations: int | None = None  # T outside of training; None: as in training
    mlp_dim: int | None = 128  # hidden width of the residual MLP inside Slot Attention; None: no MLP
    channels: int = 64  # of the encoder
    encoder_strides: tuple[int, ...] = (1, 2, 2, 1)  # one 5x5 convolution each
    position_embedding: bool = True  # added to the encoder's features
    head_dim: int = 64  # hidden width of the MLP that reads a slot
    categories: tuple[int, ...] = (2, 2, 3, 8)  # classes of each property, in the order of the data set
    initializer: Literal["gaussian", "per_slot", "learned"] = "gaussian"  # where slots start from
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # through all iterations, or the last only
    stepwise_loss: bool = False  # a loss after every iteration, summed, instead of the last only
    coordinate_scale: float = 1.0  # coordinates are compared in [0, scale]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stepwise_loss and self.gradient != "unrolled":
            raise ValueError(f'stepwise_loss needs gradient="unrolled", but it is {self.gradient!r}.')

    def build(self) -> "SetPrediction":
        """Make the method with fresh weights."""
        return SetPrediction(self)


class SetPrediction(Method):
    """Slot Attention trained to say what objects there are, where, and what they are like."""

    config: SetPredictionConfig

    def __init__(self, config: SetPredictionConfig):
        super().__init__()
        self.config = config
        self.encoder = CNNEncoder(
            config.channels,
            strides=config.encoder_strides,
            position_embedding=config.position_embedding,
            norm_eps=config.norm_eps,
        )
        self.initializer = INITIALIZERS[config.initializer](config.num_slots, config.slot_dim)
        self.slot_attention = config.slot_attention(
            config.channels, config.slot_dim, config.num_iterations, mlp_dim=config.mlp_dim, gradient=config.gradient
        )
        self.head = SetHead(config.slot_dim, 3 + sum(config.categories) + 1, config.head_dim)

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Images in [0, 1] to slots.

        `num_slots` may differ from training where the initialiser is shared; `num_iterations` may always.
        """
        if num_iterations is None and not self.training:
            num_iterations = self.config.test_iterations
        features = self.encoder(2 * image - 1)
        out = self.slot_attention(features, self.initializer(image.shape[0], num_slots), num_iterations=num_iterations)
        return replace(out, grid=self.encoder.grid(*image.shape[-2:]))

    def predict_set(self, slots: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        """Slots to objects: coordinates, one number for each class of each property, presence; all in (0, 1)."""
        return self.head(slots)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`batch["objects"]` are the true vectors, `b m c`, see `slotworks.data.sets`."""
        config = self.config
        out = self.encode(batch["image"])
        steps = out.slot_steps if config.stepwise_loss else (out.slots,)
        losses = [
            matched_huber(self.predict_set(slots), batch["objects"], coordinate_scale=config.coordinate_scale).mean()
            for slots in steps
        ]
        return {"set": torch.stack(losses).sum()}
