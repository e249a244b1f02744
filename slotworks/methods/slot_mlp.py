"""Slot MLP, the baseline of Slot Attention: image -> CNN -> one MLP -> all slots -> objects, or an image.

Locatello et al. 2020, "Object-Centric Learning with Slot Attention", arXiv 2006.15055, supplement, section 5.5: the MLP
of table 8 (set prediction) or table 9 (object discovery) takes the place of Slot Attention; encoder, head, decoder and
losses are the same. It is not symmetric: each slot has weights of its own, so their number is fixed. There is no
attention; `encode` returns uniform maps.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slotworks.decoders import SetHead, SpatialBroadcastDecoder
from slotworks.encoders import CNNEncoder
from slotworks.guidance import matched_huber
from slotworks.slots import SlotMLP
from slotworks.types import Batch, DecoderOutput, Method, MethodConfig, SlotOutput


@dataclass(frozen=True)
class SlotMLPConfig(MethodConfig):
    """Hyperparameters for set prediction (table 8); the defaults are CLEVR10's."""

    image_size: tuple[int, int] = (128, 128)  # height and width in pixels
    num_slots: int = 10  # K: objects and background
    slot_dim: int = 64  # D, the width of a slot
    channels: int = 64  # of the encoder
    encoder_strides: tuple[int, ...] = (1, 2, 2, 1)  # one 5x5 convolution each
    norm_eps: float = 1e-5  # of the encoder's LayerNorm: torch's; Keras', and so Slot Attention's own code, has 1e-3
    hidden_dims: tuple[int, ...] = (512, 512)  # of the MLP over the whole feature map
    feature_side: int = 16  # feature maps are resized to this height and width
    head_dim: int = 64  # hidden width of the MLP that reads a slot
    categories: tuple[int, ...] = (2, 2, 3, 8)  # classes of each property, in the order of the data set
    coordinate_scale: float = 1.0  # coordinates are compared in [0, scale]

    def build(self) -> "SlotMLPSets":
        """Make the method with fresh weights."""
        return SlotMLPSets(self)


@dataclass(frozen=True)
class SlotMLPAutoencoderConfig(MethodConfig):
    """Hyperparameters for object discovery (table 9); the defaults are Tetrominoes', as in `SlotAttentionConfig`."""

    image_size: tuple[int, int] = (35, 35)  # height and width in pixels
    num_slots: int = 4  # K: objects and background
    slot_dim: int = 64  # D, the width of a slot
    channels: int = 32  # of encoder and decoder
    encoder_strides: tuple[int, ...] = (1, 1, 1, 1)  # one 5x5 convolution each
    norm_eps: float = 1e-5  # of the encoder's LayerNorm: torch's; Keras', and so Slot Attention's own code, has 1e-3
    decoder_strides: tuple[int, ...] = (1, 1, 1)  # one 5x5 layer each; 2 doubles the size
    decoder_shuffle: int = 1  # the last layer renders this many pixels squared at each position
    hidden_dims: tuple[int, ...] = (512, 1024, 1024)  # of the MLP over the whole feature map
    per_slot_dim: int = 64  # hidden width of the MLP that each slot passes alone
    feature_side: int = 16  # feature maps are resized to this height and width

    def build(self) -> "SlotMLPAutoencoder":
        """Make the method with fresh weights."""
        return SlotMLPAutoencoder(self)


class _SlotMLPMethod(Method):
    """The part before the slots, which both tasks share."""

    def __init__(self, config: SlotMLPConfig | SlotMLPAutoencoderConfig, *, per_slot_dim: int | None = None):
        super().__init__()
        self.config = config
        self.encoder = CNNEncoder(config.channels, strides=config.encoder_strides, norm_eps=config.norm_eps)
        self.slot_mlp = SlotMLP(
            config.channels,
            config.num_slots,
            config.slot_dim,
            hidden_dims=config.hidden_dims,
            per_slot_dim=per_slot_dim,
            side=config.feature_side,
        )

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to slots; the maps are uniform, for there is no attention."""
        grid = self.encoder.grid(*image.shape[-2:])
        slots = self.slot_mlp(self.encoder(2 * image - 1), grid)
        uniform = slots.new_full((*slots.shape[:2], grid[0] * grid[1]), 1 / slots.shape[1])
        return SlotOutput(slots, uniform, grid=grid)


class SlotMLPSets(_SlotMLPMethod):
    """Slot MLP trained to say what objects there are."""

    config: SlotMLPConfig

    def __init__(self, config: SlotMLPConfig):
        super().__init__(config)
        self.head = SetHead(config.slot_dim, 3 + sum(config.categories) + 1, config.head_dim)

    def predict_set(self, slots: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        """Slots to objects: coordinates, one number for each class of each property, presence; all in (0, 1)."""
        return self.head(slots)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """That of `SetPrediction`."""
        pred = self.predict_set(self.encode(batch["image"]).slots)
        return {"set": matched_huber(pred, batch["objects"], coordinate_scale=self.config.coordinate_scale).mean()}


class SlotMLPAutoencoder(_SlotMLPMethod):
    """Slot MLP trained to render its input."""

    config: SlotMLPAutoencoderConfig

    def __init__(self, config: SlotMLPAutoencoderConfig):
        super().__init__(config, per_slot_dim=config.per_slot_dim)
        self.decoder = SpatialBroadcastDecoder(
            config.slot_dim,
            config.image_size,
            channels=config.channels,
            strides=config.decoder_strides,
            shuffle=config.decoder_shuffle,
        )

    def decode(self, slots: Float[Tensor, "b n d"]) -> DecoderOutput:
        """Slots to images in about [0, 1]."""
        out = self.decoder(slots)
        return DecoderOutput((out.recon + 1) / 2, out.masks, (out.parts + 1) / 2)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Mean squared error over all values in [-1, 1], as that of the Slot Attention autoencoder."""
        recon = self.decode(self.encode(batch["image"]).slots).recon
        return {"recon": 4 * F.mse_loss(recon, batch["image"])}
