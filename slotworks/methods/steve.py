"""STEVE: video -> CNN -> slots carried from frame to frame -> Transformer -> the tokens of each frame, one by one.

Singh, Wu and Ahn 2022, "Simple Unsupervised Object-Centric Learning for Complex and Naturalistic Videos", arXiv
2205.14065; the defaults are the released code's (github.com/singhgautam/steve). The decoder is SLATE's with a larger
vocabulary. Here slots look at pixels, through a CNN of their own, and two iterations for each frame carry the residual
MLP in the first alone; a Transformer block among slots leads to the next frame.

`parts="slot_diffusion"` is the STEVE of SlotDiffusion's tables (Wu et al. 2023, appendix D.3; released code,
`video_based/models/steve`): a ResNet-18 before the slots, the residual MLP in every iteration, torch's Transformer
between frames, slots projected with a bias, and a discrete VAE trained before.

Differences from the released code: `mu` and `log_sigma` of the initial slots come from a range 1.4 times as wide, as in
Keras; the learning rate of the warm-up at step s is s / 30,000 of the full one, not (s + 1) / 30,000. `initializer`,
`word_dropout` and `dvae_run` are options of ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.decoders.tokens import TokenOptions, groups_of, words_of, write
from slotworks.encoders.savi import PositionedEncoder
from slotworks.encoders.steve import SteveEncoder
from slotworks.nn.dvae import Block, copy_trained
from slotworks.nn.init import he_glorot_, torch_
from slotworks.slots import (
    INITIALIZERS,
    LearnedInit,
    SlotAttention,
    TransformerPredictor,
    VideoSlotAttention,
    map_over_time,
)
from slotworks.types import Batch, Method, ShortClips, SlotOutput, TrainsOnClips, VideoMethod, cut_clips, refuse_ignored


@dataclass(frozen=True)
class SteveConfig(TrainsOnClips, TokenOptions):
    """Hyperparameters of STEVE; those of the words and the Transformer that are as in SLATE are `TokenOptions`."""

    image_size: int = 128  # height and width of a frame in pixels, a multiple of 4
    vocab_size: int = 4096  # words of the discrete VAE
    dvae_block: Block = "bias"  # bias: no norm; norm: SLATE's, GroupNorm and no bias
    decoder_blocks: int = 8  # of the Transformer
    parts: Literal["steve", "slot_diffusion"] = "steve"  # whose; slot_diffusion: see above
    cnn_channels: int = 64  # of the encoder's first three convolutions
    cnn_stride: int = 2  # of the first; the released code has 1 for frames of 64 pixels
    num_slots: int = 15  # K
    slot_dim: int = 192  # D of slots, queries, keys and values
    num_iterations: int = 2  # T of Slot Attention for each frame
    first_iterations: int | None = None  # T for the first frame of a video; None: as for all others
    short_clips: ShortClips = ()  # training on pieces of clips at first: (until step, frames), ... (not in the paper)
    mlp_dim: int = 192  # hidden width of the residual MLP inside Slot Attention
    mlp_in_last_iteration: bool = False  # the released code leaves it out there; a bi-level gradient needs it
    predictor_blocks: int = 1  # Transformer blocks among slots, between frames
    predictor_heads: int = 4  # attention heads of the predictor
    predictor_dropout: float = 0.0  # share of the predictor's numbers that training drops
    initializer: Literal["gaussian", "per_slot", "learned"] = "gaussian"  # where slots start from
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # through all iterations, or the last only

    def build(self) -> "Steve":
        """Make the method with fresh weights."""
        return Steve(self)


class Steve(VideoMethod):
    """Slots of a video that each of its frames can be written from, word by word."""

    config: SteveConfig

    def __init__(self, config: SteveConfig):
        super().__init__()
        self.config = config
        self.dvae = config.discrete_vae()
        other = config.parts == "slot_diffusion"
        if other:
            unread = ("cnn_channels", "cnn_stride", "mlp_in_last_iteration")
            refuse_ignored(config, "parts='slot_diffusion'", unread)
            self.encoder = PositionedEncoder.slot_diffusion(config.slot_dim)
        else:
            self.encoder = SteveEncoder(config.model_dim, config.cnn_channels, stride=config.cnn_stride)
        self.initializer = INITIALIZERS[config.initializer](config.num_slots, config.slot_dim)
        attention = SlotAttention(
            config.slot_dim if other else config.model_dim,
            config.slot_dim,
            config.num_iterations,
            mlp_dim=config.mlp_dim,
            mlp_in_last_iteration=other or config.mlp_in_last_iteration,
            eps=1e-6 if other else 1e-8,
            gradient=config.gradient,
        )
        if other:
            torch_(attention)
            if isinstance(self.initializer, LearnedInit):
                nn.init.normal_(self.initializer.slots)
        elif attention.mlp is not None:
            he_glorot_(attention.mlp)
        make = TransformerPredictor.slot_diffusion if other else TransformerPredictor.steve
        predictor = make(
            config.slot_dim,
            config.predictor_heads,
            num_blocks=config.predictor_blocks,
            dropout=config.predictor_dropout,
        )
        self.slots = VideoSlotAttention(attention, predictor, first_iterations=config.first_iterations)
        if other:
            self.decoder = config.token_decoder(config.slot_dim, begin="word", make="slot_diffusion")
        else:
            self.decoder = config.token_decoder(config.slot_dim, begin="vector")

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Take the discrete VAE of `dvae_run`, where there is one."""
        if self.config.dvae_run:
            copy_trained(self.dvae, load(self.config.dvae_run), self.config.dvae_run)

    def encode(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        video: Float[Tensor, "b t 3 h w"],
        *,
        state: Float[Tensor, "b n d"] | None = None,
        num_slots: int | None = None,
        ends: bool = False,
    ) -> SlotOutput:
        """Videos in [0, 1] to the slots of every frame.

        `state` is that of an earlier call with the frames before these; `num_slots` may differ from training where the
        initialiser is shared; `ends` says that nothing comes after, so that nobody asks for `state`.
        """
        features = map_over_time(self.encoder, video)
        slots = self.initializer(video.shape[0], num_slots) if state is None else state
        out = self.slots(features, slots, first=state is None, ends=ends)
        return replace(out, grid=self.encoder.grid(video.shape[-2], video.shape[-1]))

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Squared error of the discrete VAE and cross-entropy of the tokens, both sums over a frame, averaged."""
        batch = cut_clips(batch, self.config.short_clips, step)
        video = batch["video"]
        terms, tokens = words_of(video.flatten(0, 1), self.dvae, self.config, step)
        slots = self.encode(video, ends=True).slots.flatten(0, 1)
        terms["cross_entropy"] = self.decoder.loss(slots, self.decoder.embed(tokens), tokens)
        return terms

    def sample(
        self,
        slots: Float[Tensor, "*b n d"],
        *,
        steps: int = 0,
        cfg_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*b 3 h w"]:
        """Frames in [0, 1] from slots, `b n d` of single frames or `b t n d` of videos, each frame for itself.

        `temperature`, `top_k` and `top_p` of the config say how words are chosen. `steps` and `cfg_scale`, which other
        generators take, mean nothing here.
        """
        images = write(slots.flatten(0, -3), self.decoder, self.dvae, self.config, generator)
        return images.unflatten(0, slots.shape[:-2])

    @property
    def sampling(self) -> dict[str, Any]:
        """None: there is one step for each token, and no guidance."""
        return {}

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """`encoder` (up to the slots as STEVE's decoder sees them), `decoder`, and `dvae`, empty if it is fixed."""
        return groups_of(self, projection="decoder" if self.config.parts == "slot_diffusion" else "encoder")
