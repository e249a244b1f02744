"""STEVE: video -> CNN -> slots carried from frame to frame -> Transformer -> the tokens of each frame, one by one.

Singh, Wu and Ahn 2022, "Simple Unsupervised Object-Centric Learning for Complex and Naturalistic Videos", arXiv
2205.14065; the defaults are the released code's (github.com/singhgautam/steve). The decoder is SLATE's with a larger
vocabulary. Here slots look at pixels, through a CNN of their own, and two iterations for each frame carry the residual
MLP in the first alone; a Transformer block among slots leads to the next frame.

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

from slotworks.decoders.tokens import TokenDecoder, groups_of
from slotworks.encoders.steve import SteveEncoder
from slotworks.nn.dvae import PATCH, Block, DiscreteVAE, copy_trained, cosine_anneal
from slotworks.nn.init import he_glorot_
from slotworks.slots import INITIALIZERS, SlotAttention, TransformerPredictor, VideoSlotAttention, map_over_time
from slotworks.types import Batch, Method, MethodConfig, SlotOutput, VideoMethod


@dataclass(frozen=True)
class SteveConfig(MethodConfig):
    """Hyperparameters of STEVE."""

    image_size: int = 128  # height and width of a frame in pixels, a multiple of 4
    vocab_size: int = 4096  # words of the discrete VAE
    dvae_channels: int = 64  # of its hidden layers
    dvae_block: Block = "bias"  # bias: no norm; norm: SLATE's, GroupNorm and no bias
    dvae_run: str = ""  # run folder of a discrete VAE trained before, which then stays as it is; "": trained jointly
    tau_start: float = 1.0  # temperature of the relaxed codes at step 0
    tau_end: float = 0.1  # and from tau_steps on
    tau_steps: int = 30_000  # half a cosine between
    hard_codes: bool = False  # reconstruct from one-hot codes, straight-through
    target_tokens: Literal["sampled", "probable"] = "sampled"  # what the Transformer learns: a sample, or the argmax
    cnn_channels: int = 64  # of the encoder's first three convolutions
    cnn_stride: int = 2  # of the first; the released code has 1 for frames of 64 pixels
    num_slots: int = 15  # K
    slot_dim: int = 192  # D of slots, queries, keys and values
    num_iterations: int = 2  # T of Slot Attention for each frame
    mlp_dim: int = 192  # hidden width of the residual MLP inside Slot Attention, left out in the last iteration
    predictor_blocks: int = 1  # Transformer blocks among slots, between frames
    predictor_heads: int = 4
    predictor_dropout: float = 0.0
    initializer: Literal["gaussian", "per_slot", "learned"] = "gaussian"
    model_dim: int = 192  # width of features, embeddings and Transformer
    decoder_blocks: int = 8  # of the Transformer
    decoder_heads: int = 4  # of its attentions
    dropout: float = 0.1  # on embeddings and in the Transformer
    word_dropout: float = 0.0  # share of the words before a position that training hides from the Transformer
    temperature: float = 0.0  # of generation; 0 takes the most probable word
    top_k: int | None = None  # words to choose among in generation; None: all
    top_p: float | None = None  # probability of those words together; None: all

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.image_size // PATCH, self.image_size // PATCH

    def build(self) -> "Steve":
        """Make the method with fresh weights."""
        return Steve(self)


class Steve(VideoMethod):
    """Slots of a video that each of its frames can be written from, word by word."""

    config: SteveConfig

    def __init__(self, config: SteveConfig):
        super().__init__()
        self.config = config
        self.dvae = DiscreteVAE(config.vocab_size, channels=config.dvae_channels, block=config.dvae_block)
        self.dvae.requires_grad_(not config.dvae_run)
        self.encoder = SteveEncoder(config.model_dim, config.cnn_channels, stride=config.cnn_stride)
        self.initializer = INITIALIZERS[config.initializer](config.num_slots, config.slot_dim)
        attention = SlotAttention(
            config.model_dim,
            config.slot_dim,
            config.num_iterations,
            mlp_dim=config.mlp_dim,
            mlp_in_last_iteration=False,
        )
        if attention.mlp is not None:
            he_glorot_(attention.mlp)
        predictor = TransformerPredictor.steve(
            config.slot_dim,
            config.predictor_heads,
            num_blocks=config.predictor_blocks,
            dropout=config.predictor_dropout,
        )
        self.slots = VideoSlotAttention(attention, predictor)
        self.decoder = TokenDecoder(
            config.slot_dim,
            config.vocab_size,
            config.grid[0] * config.grid[1],
            dim=config.model_dim,
            num_blocks=config.decoder_blocks,
            num_heads=config.decoder_heads,
            dropout=config.dropout,
            begin="vector",
            word_dropout=config.word_dropout,
        )

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
    ) -> SlotOutput:
        """Videos in [0, 1] to the slots of every frame.

        `state` is that of an earlier call with the frames before these; `num_slots` may differ from training where the
        initialiser is shared.
        """
        features = map_over_time(self.encoder, video)
        slots = self.initializer(len(video), num_slots) if state is None else state
        out = self.slots(features, slots, first=state is None)
        return replace(out, grid=self.encoder.grid(video.shape[-2], video.shape[-1]))

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Squared error of the discrete VAE and cross-entropy of the tokens, both sums over a frame, averaged."""
        terms, video, config = {}, batch["video"], self.config
        image, sample = video.flatten(0, 1), config.target_tokens == "sampled"
        if config.dvae_run:
            tokens = self.dvae.tokenize(image, sample=sample)
        else:
            tau = cosine_anneal(step, config.tau_start, config.tau_end, config.tau_steps)
            code = self.dvae(image, tau, hard=config.hard_codes, sample=sample)
            terms["recon"], tokens = (code.recon - image).square().sum() / len(image), code.tokens
        slots = self.encode(video).slots.flatten(0, 1)
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

        `steps` and `cfg_scale` mean nothing here: one step for each token, no guidance. How words are chosen is said by
        `temperature`, `top_k` and `top_p` of the config.
        """
        config, frames = self.config, slots.shape[:-2]
        tokens = self.decoder.generate(
            slots.flatten(0, -3),
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            generator=generator,
        )
        return self.dvae.decode(tokens, config.grid).clamp(0, 1).unflatten(0, frames)

    @property
    def sampling(self) -> dict[str, Any]:
        """Settings that `sample` is called with where none are given; they change nothing."""
        return {"steps": self.decoder.num_tokens, "cfg_scale": 1.0}

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """`encoder` (up to the slots as the decoder sees them), `decoder`, and `dvae`, empty if that is fixed."""
        return groups_of(self)
