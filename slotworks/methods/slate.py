"""SLATE: image -> tokens of a discrete VAE -> slots -> Transformer -> the same tokens, one after the other -> image.

Singh, Deng and Ahn 2022, "Illiterate DALL-E Learns to Compose", arXiv 2110.11405; the defaults are the released code's
(github.com/singhgautam/slate), whose one data set is 3D Shapes.

Slots look at the embedded tokens, not at pixels, through the table and the positions that the decoder reads its input
with. The discrete VAE learns from its own error alone: tokens carry no gradient.

Differences from the released code: `mu` and `log_sigma` of the initial slots come from a range 1.4 times as wide, as in
Keras; the learning rate of the warm-up at step s is s / 30,000 of the full one, not (s + 1) / 30,000; no halving where
the validation loss stagnates. `initializer`, `gradient`, `word_dropout` and `dvae_run` are options of ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.decoders.tokens import TokenDecoder, groups_of
from slotworks.nn.dvae import PATCH, Block, DiscreteVAE, copy_trained, cosine_anneal
from slotworks.nn.init import he_glorot_
from slotworks.slots import INITIALIZERS, SlotAttention
from slotworks.types import Batch, Method, MethodConfig, SlotOutput


@dataclass(frozen=True)
class SlateConfig(MethodConfig):
    """Hyperparameters of SLATE."""

    image_size: int = 64  # height and width in pixels, a multiple of 4
    vocab_size: int = 1024  # words of the discrete VAE
    dvae_channels: int = 64  # of its hidden layers
    dvae_block: Block = "norm"  # norm: GroupNorm and no bias; bias: STEVE's, no norm
    dvae_run: str = ""  # run folder of a discrete VAE trained before, which then stays as it is; "": trained jointly
    tau_start: float = 1.0  # temperature of the relaxed codes at step 0
    tau_end: float = 0.1  # and from tau_steps on
    tau_steps: int = 30_000  # half a cosine between
    hard_codes: bool = False  # reconstruct from one-hot codes, straight-through
    target_tokens: Literal["sampled", "probable"] = "sampled"  # what the Transformer learns: a sample, or the argmax
    num_slots: int = 3  # K
    slot_dim: int = 192  # D of slots, queries, keys and values
    num_iterations: int = 3  # T of Slot Attention in training
    test_iterations: int | None = None  # T outside of training; None: as in training
    slot_heads: int = 1  # heads of Slot Attention, one softmax over heads and slots
    mlp_dim: int = 192  # hidden width of the residual MLP inside Slot Attention
    initializer: Literal["gaussian", "per_slot", "learned"] = "gaussian"
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # through all iterations, or the last only
    model_dim: int = 192  # width of embeddings and Transformer
    decoder_blocks: int = 4  # of the Transformer
    decoder_heads: int = 4  # of its attentions
    dropout: float = 0.1  # on embeddings (slots see that, too) and in the Transformer
    word_dropout: float = 0.0  # share of the words before a position that training hides from the Transformer
    temperature: float = 0.0  # of generation; 0 takes the most probable word
    top_k: int | None = None  # words to choose among in generation; None: all
    top_p: float | None = None  # probability of those words together; None: all

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.image_size // PATCH, self.image_size // PATCH

    def build(self) -> "Slate":
        """Make the method with fresh weights."""
        return Slate(self)


class Slate(Method):
    """Slots that an image can be written from, word by word."""

    config: SlateConfig

    def __init__(self, config: SlateConfig):
        super().__init__()
        self.config = config
        self.dvae = DiscreteVAE(config.vocab_size, channels=config.dvae_channels, block=config.dvae_block)
        self.dvae.requires_grad_(not config.dvae_run)
        self.decoder = TokenDecoder(
            config.slot_dim,
            config.vocab_size,
            config.grid[0] * config.grid[1],
            dim=config.model_dim,
            num_blocks=config.decoder_blocks,
            num_heads=config.decoder_heads,
            dropout=config.dropout,
            word_dropout=config.word_dropout,
        )
        width = config.model_dim
        self.token_mlp = nn.Sequential(
            nn.LayerNorm(width), he_glorot_(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)))
        )
        self.initializer = INITIALIZERS[config.initializer](config.num_slots, config.slot_dim)
        self.slot_attention = SlotAttention(
            width,
            config.slot_dim,
            config.num_iterations,
            mlp_dim=config.mlp_dim,
            num_heads=config.slot_heads,
            gradient=config.gradient,
        )
        if self.slot_attention.mlp is not None:
            he_glorot_(self.slot_attention.mlp)

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Take the discrete VAE of `dvae_run`, where there is one."""
        if self.config.dvae_run:
            copy_trained(self.dvae, load(self.config.dvae_run), self.config.dvae_run)

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Images in [0, 1] to slots, through their most probable tokens.

        `num_slots` may differ from training where the initialiser is shared; `num_iterations` may always.
        """
        embedded = self.decoder.embed(self.dvae.tokenize(image))
        return self._group(embedded, num_slots, num_iterations)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Squared error of the discrete VAE and cross-entropy of the tokens, both summed over an image."""
        terms, image, config = {}, batch["image"], self.config
        sample = config.target_tokens == "sampled"
        if config.dvae_run:
            tokens = self.dvae.tokenize(image, sample=sample)
        else:
            tau = cosine_anneal(step, config.tau_start, config.tau_end, config.tau_steps)
            code = self.dvae(image, tau, hard=config.hard_codes, sample=sample)
            terms["recon"], tokens = (code.recon - image).square().sum() / len(image), code.tokens
        embedded = self.decoder.embed(tokens)
        terms["cross_entropy"] = self.decoder.loss(self._group(embedded).slots, embedded, tokens)
        return terms

    def sample(
        self,
        slots: Float[Tensor, "b n d"],
        *,
        steps: int = 0,
        cfg_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] from slots. `steps` and `cfg_scale` mean nothing here: one step for each token, no guidance.

        How words are chosen is said by `temperature`, `top_k` and `top_p` of the config.
        """
        config = self.config
        tokens = self.decoder.generate(
            slots, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p, generator=generator
        )
        return self.dvae.decode(tokens, config.grid).clamp(0, 1)

    @property
    def sampling(self) -> dict[str, Any]:
        """Settings that `sample` is called with where none are given; they change nothing."""
        return {"steps": self.decoder.num_tokens, "cfg_scale": 1.0}

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """`encoder` (up to the slots as the decoder sees them), `decoder`, and `dvae`, empty if that is fixed."""
        return groups_of(self)

    def _group(
        self, embedded: Float[Tensor, "b p1 c"], num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        if num_iterations is None and not self.training:
            num_iterations = self.config.test_iterations
        slots = self.initializer(len(embedded), num_slots)
        out = self.slot_attention(self.token_mlp(embedded[:, 1:]), slots, num_iterations=num_iterations)
        return replace(out, grid=self.config.grid)
