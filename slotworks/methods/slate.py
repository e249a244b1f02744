"""SLATE: image -> tokens of a discrete VAE -> slots -> Transformer -> the same tokens, one after the other -> image.

Singh, Deng and Ahn 2022, "Illiterate DALL-E Learns to Compose", arXiv 2110.11405; the defaults are the released code's
(github.com/singhgautam/slate), whose one data set is 3D Shapes.

Slots look at the embedded tokens, not at pixels, through the table and the positions that the decoder reads its input
with. The discrete VAE learns from its own error alone: tokens carry no gradient.

`parts="slot_diffusion"` is the SLATE of SlotDiffusion's tables (Wu et al. 2023, appendix D.3; released code,
`img_based/models/slate`): slots look at the image through a ResNet-18, they are projected with a bias, and the discrete
VAE is one trained before.

Differences from the released code: `mu` and `log_sigma` of the initial slots come from a range 1.4 times as wide, as in
Keras; the learning rate of the warm-up at step s is s / 30,000 of the full one, not (s + 1) / 30,000; no halving where
the validation loss stagnates (docs/methods/slate.md). `initializer`, `gradient`, `word_dropout` and `dvae_run` are
options of ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.decoders.tokens import TokenOptions, groups_of, words_of, write
from slotworks.encoders.savi import PositionedEncoder
from slotworks.encoders.vit import ViTConfig
from slotworks.nn.dvae import copy_trained
from slotworks.nn.init import he_glorot_, torch_
from slotworks.slots import INITIALIZERS, LearnedInit, SlotAttention
from slotworks.types import Batch, Method, SlotOutput


@dataclass(frozen=True)
class SlateConfig(TokenOptions):
    """Hyperparameters of SLATE; those of the words and the Transformer are `TokenOptions`."""

    parts: Literal["slate", "slot_diffusion"] = "slate"  # whose; slot_diffusion: see above
    encoder: ViTConfig | None = None  # a vision transformer that slots look at the image through (not in the papers)
    num_slots: int = 3  # K
    slot_dim: int = 192  # D of slots, queries, keys and values
    num_iterations: int = 3  # T of Slot Attention in training
    test_iterations: int | None = None  # T outside of training; None: as in training
    slot_heads: int = 1  # heads of Slot Attention, one softmax over heads and slots
    mlp_dim: int = 192  # hidden width of the residual MLP inside Slot Attention
    initializer: Literal["gaussian", "per_slot", "learned"] = "gaussian"  # where slots start from
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # through all iterations, or the last only

    def build(self) -> "Slate":
        """Make the method with fresh weights."""
        return Slate(self)


class Slate(Method):
    """Slots that an image can be written from, word by word."""

    config: SlateConfig

    def __init__(self, config: SlateConfig):
        super().__init__()
        self.config = config
        self.dvae = config.discrete_vae()
        self.decoder = config.token_decoder(config.slot_dim, begin="word", make=config.parts)
        other = config.parts == "slot_diffusion"
        self.encoder = _encoder(config)
        self.token_mlp = _token_mlp(config.model_dim) if self.encoder is None else None
        self.initializer = INITIALIZERS[config.initializer](config.num_slots, config.slot_dim)
        self.slot_attention = SlotAttention(
            config.model_dim if self.encoder is None else config.slot_dim,
            config.slot_dim,
            config.num_iterations,
            mlp_dim=config.mlp_dim,
            num_heads=config.slot_heads,
            eps=1e-6 if other else 1e-8,
            gradient=config.gradient,
        )
        if other:
            torch_(self.slot_attention)
            if isinstance(self.initializer, LearnedInit):
                nn.init.normal_(self.initializer.slots)
        elif self.slot_attention.mlp is not None:
            he_glorot_(self.slot_attention.mlp)

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Take the discrete VAE of `dvae_run`, where there is one."""
        if self.config.dvae_run:
            copy_trained(self.dvae, load(self.config.dvae_run), self.config.dvae_run)

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Images in [0, 1] to slots, through their most probable tokens, the ResNet or the vision transformer.

        `num_slots` may differ from training where the initialiser is shared; `num_iterations` may always.
        """
        if self.encoder is None:
            features = self._token_features(self.decoder.embed(self.dvae.tokenize(image)))
        else:
            features = self.encoder(image)
        return self._group(features, num_slots, num_iterations)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Squared error of the discrete VAE and cross-entropy of the tokens, both summed over an image.

        Cached `features` of a frozen vision transformer spare running it.
        """
        terms, tokens = words_of(batch["image"], self.dvae, self.config, step)
        embedded = self.decoder.embed(tokens)
        features = self._token_features(embedded) if self.encoder is None else self.encoder.of_batch(batch)
        terms["cross_entropy"] = self.decoder.loss(self._group(features).slots, embedded, tokens)
        return terms

    def sample(
        self,
        slots: Float[Tensor, "b n d"],
        *,
        steps: int = 0,
        cfg_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] from slots; `temperature`, `top_k` and `top_p` of the config say how words are chosen.

        `steps` and `cfg_scale`, which other generators take, mean nothing here.
        """
        return write(slots, self.decoder, self.dvae, self.config, generator)

    @property
    def sampling(self) -> dict[str, Any]:
        """None: there is one step for each token, and no guidance."""
        return {}

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """`encoder` (up to the slots as SLATE's decoder sees them), `decoder`, and `dvae`, empty if it is fixed."""
        return groups_of(self, projection="decoder" if self.encoder is not None else "encoder")

    def _token_features(self, embedded: Float[Tensor, "b p1 c"]) -> Float[Tensor, "b p c"]:
        assert self.token_mlp is not None
        return self.token_mlp(embedded[:, 1:])

    def _group(
        self, features: Float[Tensor, "b p c"], num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        if num_iterations is None and not self.training:
            num_iterations = self.config.test_iterations
        slots = self.initializer(features.shape[0], num_slots)
        out = self.slot_attention(features, slots, num_iterations=num_iterations)
        size = self.config.image_size
        return replace(out, grid=self.config.grid if self.encoder is None else self.encoder.grid(size, size))


def _encoder(config: SlateConfig) -> PositionedEncoder | None:
    """What slots see the image through; None: its tokens."""
    if config.encoder is not None:
        return PositionedEncoder.of_vit(config.encoder, config.slot_dim)
    return PositionedEncoder.slot_diffusion(config.slot_dim) if config.parts == "slot_diffusion" else None


def _token_mlp(width: int) -> nn.Module:
    layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    return nn.Sequential(nn.LayerNorm(width), he_glorot_(layers))
