"""Autoregressive decoder of tokens: each word of an image is predicted from the slots and from the words before it.

SLATE (Singh et al. 2022, arXiv 2110.11405) and STEVE (Singh et al. 2022, arXiv 2205.14065), from their released code.
The Transformer is that of `AutoregressiveDecoder` (DINOSAUR, SPOT); here its sequence is of words, with learned
positions, so it can also be continued: `generate` writes an image from slots alone.

`TokenOptions` is what the configs of both share, the discrete VAE included, and makes the parts; `words_of` and `write`
are the way from images to words and from slots to images.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, pad

from slotworks.nn.dvae import PATCH, Block, DiscreteVAE, cosine_anneal
from slotworks.nn.noise import batch_uniform
from slotworks.nn.transformer import TransformerDecoder
from slotworks.types import MethodConfig

Groups = dict[str, list[nn.Parameter]]


@dataclass(frozen=True)
class TokenOptions(MethodConfig):
    """The discrete VAE, the Transformer that writes its words, and how it generates. The defaults are SLATE's."""

    image_size: int = 64  # height and width in pixels, a multiple of 4
    vocab_size: int = 1024  # words of the discrete VAE
    dvae_channels: int = 64  # of its hidden layers
    dvae_block: Block = "norm"  # norm: GroupNorm and no bias, as in SLATE; bias: STEVE's, no norm
    dvae_signed: bool = False  # it sees images in [-1, 1], as in SlotDiffusion's repository, not in [0, 1]
    dvae_run: str = ""  # run folder of a discrete VAE trained before, which then stays as it is; "": trained jointly
    tau_start: float = 1.0  # temperature of the relaxed codes at step 0
    tau_end: float = 0.1  # and from tau_steps on
    tau_steps: int = 30_000  # half a cosine between
    hard_codes: bool = False  # reconstruct from one-hot codes, straight-through
    target_tokens: Literal["sampled", "probable"] = "sampled"  # what the Transformer learns: a sample, or the argmax
    model_dim: int = 192  # width of features, embeddings and Transformer
    decoder_blocks: int = 4  # of the Transformer
    decoder_heads: int = 4  # of its attentions
    dropout: float = 0.1  # on embeddings (SLATE's slots see that, too) and in the Transformer
    word_dropout: float = 0.0  # share of the words before a position that training hides from the Transformer
    temperature: float = 0.0  # of generation; 0 takes the most probable word
    top_k: int | None = None  # words to choose among in generation; None: all
    top_p: float | None = None  # probability of those words together; None: all

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.image_size // PATCH, self.image_size // PATCH

    def discrete_vae(self) -> DiscreteVAE:
        """Fresh weights; they need no gradient where `dvae_run` names trained ones."""
        dvae = DiscreteVAE(self.vocab_size, channels=self.dvae_channels, block=self.dvae_block, signed=self.dvae_signed)
        return dvae.requires_grad_(not self.dvae_run)

    def token_decoder(
        self, slot_dim: int, *, begin: Literal["word", "vector"], make: Literal["slate", "slot_diffusion"] = "slate"
    ) -> "TokenDecoder":
        """The Transformer with these options; `begin` and `make` as there."""
        return TokenDecoder(
            slot_dim,
            self.vocab_size,
            self.grid[0] * self.grid[1],
            dim=self.model_dim,
            num_blocks=self.decoder_blocks,
            num_heads=self.decoder_heads,
            dropout=self.dropout,
            begin=begin,
            make=make,
            word_dropout=self.word_dropout,
        )


class TokenDecoder(nn.Module):
    """A Transformer over the tokens of an image, row by row, that looks at the slots.

    Args:
        slot_dim: width of a slot.
        vocab_size: number of words.
        num_tokens: tokens of an image.
        dim: width of the Transformer.
        num_blocks: of the Transformer.
        num_heads: of its attentions.
        dropout: on embeddings, attention weights and branches.
        begin: how the begin token starts: "word" is one more row of SLATE's table, normal; "vector" is STEVE's, Glorot.
        make: "slot_diffusion" as in SlotDiffusion's repository (`img_based/models/slate/slate_transformer.py`): slots
            are projected with a bias, that projection and the head start as torch starts them, and there is no position
            for the last token, which only SLATE's slots look at.
        word_dropout: share of the words before a position that training hides from it, their places stay (Bowman et
            al. 2016, arXiv 1511.06349). Not in the papers: it makes the decoder ask the slots early in training.

    >>> decoder = TokenDecoder(slot_dim=16, vocab_size=20, num_tokens=9, dim=24, num_blocks=2, num_heads=3).eval()
    >>> slots, tokens = torch.randn(2, 4, 16), torch.randint(20, (2, 9))
    >>> decoder(slots, decoder.embed(tokens)).shape, decoder.generate(slots).shape
    (torch.Size([2, 9, 20]), torch.Size([2, 9]))
    """

    def __init__(
        self,
        slot_dim: int,
        vocab_size: int,
        num_tokens: int,
        *,
        dim: int = 192,
        num_blocks: int = 4,
        num_heads: int = 4,
        dropout: float = 0.1,
        begin: Literal["word", "vector"] = "word",
        make: Literal["slate", "slot_diffusion"] = "slate",
        word_dropout: float = 0.0,
    ):
        super().__init__()
        if not 0 <= word_dropout < 1:
            raise ValueError(f"word_dropout is {word_dropout}; give a share of the words from 0 up to, not with, 1.")
        self.num_tokens, self.dropout, self.word_dropout = num_tokens, dropout, word_dropout
        self.words = nn.Embedding(vocab_size, dim)
        limit = 0.0 if begin == "word" else (3 / dim) ** 0.5  # torch's Glorot for a tensor `1 1 c`
        self.begin = nn.Parameter(torch.randn(dim) if begin == "word" else torch.empty(dim).uniform_(-limit, limit))
        places = num_tokens + (make == "slate")
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(places, dim)))
        self.project_slots = nn.Linear(slot_dim, dim, bias=make == "slot_diffusion")
        self.transformer = TransformerDecoder(dim, num_blocks, num_heads, dropout=dropout, norm_stream=True)
        self.head = nn.Linear(dim, vocab_size, bias=False)
        if make == "slate":
            for layer in (self.project_slots, self.head):
                nn.init.xavier_uniform_(layer.weight)

    def embed(self, tokens: Int64[Tensor, "b p"]) -> Float[Tensor, "b p1 c"]:
        """Begin token and words with their positions: `1 + p` places, of which the decoder reads all but the last.

        SLATE's slots look at the same embeddings, without the begin token.
        """
        begin = self.begin.expand(tokens.shape[0], 1, -1)
        x = torch.cat([begin, self.words(tokens)], dim=1)
        positions = self.positions[: x.shape[1]]
        if len(positions) < x.shape[1]:  # the last token has none, and nobody reads it
            positions = pad(positions, (0, 0, 0, 1))
        x = x + positions
        return dropout(x, self.dropout, self.training)

    def forward(self, slots: Float[Tensor, "b n d"], embedded: Float[Tensor, "b p1 c"]) -> Float[Tensor, "b p v"]:
        """Logits of every token from the slots and from the true tokens before it, which `embed` made."""
        x = embedded[:, :-1]
        if self.training and self.word_dropout:
            hidden = batch_uniform(tuple(x.shape[:2]), x.device) < self.word_dropout
            hidden[:, 0] = False  # the begin token is no word
            x = torch.where(hidden[..., None], self.positions[: x.shape[1]], x)
        out, _ = self.transformer(x, self.project_slots(slots))
        return self.head(out)

    def loss(
        self, slots: Float[Tensor, "b n d"], embedded: Float[Tensor, "b p1 c"], tokens: Int64[Tensor, "b p"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy in nats, summed over the tokens of an image, mean over images."""
        logits = self(slots, embedded).flatten(0, 1)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return cross_entropy(logits, tokens.flatten(), reduction="sum") / len(tokens)

    @torch.no_grad()
    def generate(
        self,
        slots: Float[Tensor, "b n d"],
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        cache: bool = True,
    ) -> Int64[Tensor, "b p"]:
        """Tokens of images, one after the other, each from the slots and from those chosen before.

        Every position is computed once: keys and values of positions and slots are kept (`TransformerDecoder.start`).
        Dropout must be off, as it is in evaluation mode.

        Args:
            slots: of one or several images, any number of them.
            temperature: 0 takes the most probable word (greedy, as the originals do); 1 samples from the model.
            top_k: choose among so many of the most probable words.
            top_p: choose among the most probable words that together have this probability.
            generator: of the random numbers, which depend on the number of images alone, never on the slots.
            cache: False computes all earlier positions again at each step, as the originals do. For comparison.

        Raises:
            ValueError: if `temperature`, `top_k` or `top_p` is out of range.
        """
        _check(temperature, top_k, top_p)
        memory, b = self.project_slots(slots), len(slots)
        device = generator.device if generator is not None else slots.device
        draws = torch.rand(b, self.num_tokens, generator=generator, device=device).to(slots.device)
        kept = self.transformer.start(memory, self.num_tokens) if cache else None
        tokens = torch.zeros(b, self.num_tokens, dtype=torch.long, device=slots.device)
        x = (self.begin + self.positions[0]).expand(b, 1, -1)
        for i in range(self.num_tokens):
            if kept is not None:
                out = self.transformer.step(x, kept)
            else:
                out = self.transformer(self.embed(tokens[:, :i]), memory)[0][:, -1:]
            tokens[:, i] = pick(self.head(out)[:, 0], draws[:, i], temperature, top_k, top_p)
            if i + 1 < self.num_tokens:
                x = (self.words(tokens[:, i]) + self.positions[i + 1])[:, None]
        return tokens


def pick(
    logits: Float[Tensor, "b v"],
    uniform: Float[Tensor, " b"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int64[Tensor, " b"]:
    """One word for each row: the most probable at temperature 0, else that at which the cumulated probability, most
    probable words first, passes `uniform`. `top_p` counts probabilities among the `top_k`."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    probs, words = (logits.float() / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    if top_k is not None:
        probs = probs[:, :top_k] / probs[:, :top_k].sum(dim=-1, keepdim=True)
    if top_p is not None:
        probs = probs.where(probs.cumsum(dim=-1) - probs < top_p, 0)  # the word that reaches it is the last
    total = probs.cumsum(dim=-1)
    place = torch.searchsorted(total, uniform[:, None].to(total) * total[:, -1:], right=True)
    place = place.minimum((probs > 0).sum(dim=-1, keepdim=True) - 1)  # uniform * total may be rounded up to total
    return words.gather(1, place)[:, 0]


def words_of(
    image: Float[Tensor, "b 3 h w"], dvae: DiscreteVAE, options: TokenOptions, step: int
) -> tuple[dict[str, Tensor], Int64[Tensor, "b p"]]:
    """The words that the Transformer has to write in training, without gradient.

    Before them what trains the discrete VAE: `recon`, its squared error summed over an image, mean over images. There
    is no such term where it was trained before.
    """
    sample = options.target_tokens == "sampled"
    if options.dvae_run:
        return {}, dvae.tokenize(image, sample=sample)
    tau = cosine_anneal(step, options.tau_start, options.tau_end, options.tau_steps)
    code = dvae(image, tau, hard=options.hard_codes, sample=sample)
    return {"recon": (code.recon - image).square().sum() / len(image)}, code.tokens


def write(
    slots: Float[Tensor, "b n d"],
    decoder: TokenDecoder,
    dvae: DiscreteVAE,
    options: TokenOptions,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """Images in [0, 1] from slots: words as `temperature`, `top_k` and `top_p` say, then the discrete VAE."""
    chosen = {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}
    tokens = decoder.generate(slots, generator=generator, **chosen)
    return dvae.decode(tokens, options.grid).clamp(0, 1)


def groups_of(method: nn.Module, *, projection: Literal["encoder", "decoder"] = "encoder") -> Groups:
    """Trainable parameters of SLATE and STEVE by learning rate: `encoder`, `decoder` and `dvae`.

    The decoder's `projection` of the slots belongs to the encoder in STEVE's code, to the decoder in SlotDiffusion's.
    The group of a fixed discrete VAE is empty.
    """
    groups: Groups = {"encoder": [], "decoder": [], "dvae": []}
    for name, parameter in method.named_parameters():
        part = name.split(".")[0]
        if name.startswith("decoder.project_slots."):
            part = projection
        elif part not in ("decoder", "dvae"):
            part = "encoder"
        if parameter.requires_grad:
            groups[part].append(parameter)
    return groups


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; 0 takes the most probable word, above 0 words are drawn.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; give a number of words, 1 or more, or None for all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; give a probability above 0 and up to 1, or None for all words.")
