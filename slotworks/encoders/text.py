"""Texts of a batch, and text encoders of `transformers` that are trained along: CLIP's, Sentence-T5's and BERT's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from safetensors.torch import load_file
from torch import Tensor, nn

from slotworks.encoders.blank import wanted
from slotworks.encoders.pretrained import load_part, start_from
from slotworks.encoders.word_tokenizer import word_tokenizer
from slotworks.errors import needs_extra
from slotworks.types import Batch, UserError


def captions_of(batch: Batch) -> list[str]:
    """The texts of a batch's `caption`, UTF-8 bytes `b l` with zeros behind.

    Raises:
        UserError: there are none.
    """
    if "caption" not in batch:
        raise UserError(
            "This method learns from images with captions, and these data have none; take ImageText, CaptionedScenes, "
            "or Pictures with captions beside them."
        )
    rows = batch["caption"].cpu().numpy().astype("uint8")
    return [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in rows]


@dataclass(frozen=True)
class TextConfig:
    """Which text encoder, its sizes, and what it starts from. Nothing is loaded or imported by this."""

    network: Literal["clip", "t5", "bert"] = "clip"
    model: str = "openai/clip-vit-base-patch16"  # hub id or folder of the tokenizer and first weights; "": `words`
    words: tuple[str, ...] = ()  # without a model: each is one token, other words are spelled
    vocabulary: int = 49_408  # tokens; without a model as many as the words need
    hidden_dim: int = 512  # width of a token
    num_layers: int = 12  # blocks
    num_heads: int = 8  # attention heads
    mlp_dim: int = 2_048  # hidden width of the blocks' networks
    embed_dim: int = 512  # width of the embedding of a text; BERT's is `hidden_dim`
    max_tokens: int = 77  # of a text; what is longer is cut

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.words):
            raise ValueError(
                f"model is {self.model!r} and words has {len(self.words)} words; give the one or the other."
            )


CLIP_TEXT = TextConfig()
SENTENCE_T5 = TextConfig("t5", "sentence-transformers/sentence-t5-base", (), 32_128, 768, 12, 12, 3_072, 768)
BERT = TextConfig("bert", "google-bert/bert-base-uncased", (), 30_522, 768, 12, 12, 3_072, 768)


class TextEncoder(nn.Module):
    """Texts to tokens and one embedding each, whose weights are parameters; fresh until `load` is called.

    The embedding is CLIP's, behind its projection; the mean of T5's tokens behind a linear layer, as Sentence-T5 has
    it; or BERT's first token.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self._tokenizer: tuple[Any, ...] = ()  # in a tuple, as other parts that are loaded when they are needed
        size = config.vocabulary
        if config.words:
            self._tokenizer = (word_tokenizer(config.words, config.max_tokens),)
            size = len(self._tokenizer[0])
        with needs_extra("vision"):
            import transformers
        heads: dict[str, Any] = {"num_attention_heads": config.num_heads}
        shape: dict[str, Any] = {"vocab_size": size, "hidden_size": config.hidden_dim}
        depth: dict[str, Any] = {"num_hidden_layers": config.num_layers, "intermediate_size": config.mlp_dim}
        self.dense: nn.Module = nn.Identity()
        if config.network == "clip":
            # the last two words of every CLIP's vocabulary, of which the very last also pads
            ends = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
            kind = transformers.CLIPTextModelWithProjection
            more: dict[str, Any] = {"projection_dim": config.embed_dim, "max_position_embeddings": config.max_tokens}
            self.network: Any = kind(transformers.CLIPTextConfig(**shape, **depth, **heads, **ends, **more))
        elif config.network == "t5":
            sizes: dict[str, Any] = {"d_model": config.hidden_dim, "d_kv": config.hidden_dim // config.num_heads}
            sizes |= {"d_ff": config.mlp_dim, "num_layers": config.num_layers, "num_heads": config.num_heads}
            self.network = transformers.T5EncoderModel(transformers.T5Config(vocab_size=size, **sizes))
            self.dense = nn.Linear(config.hidden_dim, config.embed_dim, bias=False)
        else:
            self.network = transformers.BertModel(
                transformers.BertConfig(**shape, **depth, **heads), add_pooling_layer=False
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": self._tokenizer if self.config.words else ()}

    def load(self) -> None:
        """Take the published weights that training starts from; with `words` they stay fresh.

        Raises:
            UserError: they cannot be had, or are of another network.
        """
        config = self.config
        if config.words or wanted(config.model):
            return
        options = {"add_pooling_layer": False} if config.network == "bert" else {}
        start_from(
            self.network,
            config.model,
            what=f"text encoder of the kind {config.network} and of the sizes of method.text",
            **options,
        )
        if isinstance(self.dense, nn.Linear):
            weight = load_part(_dense, config.model, "2_Dense")
            if weight.shape != self.dense.weight.shape:
                raise UserError(
                    f"The layer 2_Dense of {config.model} has the shape {tuple(weight.shape)}, expected is "
                    f"{tuple(self.dense.weight.shape)}; give a Sentence-T5 of this size."
                )
            self.dense.weight.data.copy_(weight)

    def tokens_of(
        self, texts: Sequence[str], device: torch.device, max_tokens: int | None = None
    ) -> tuple[Int64[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Texts as tokens, as many as the longest of them has, `max_tokens` at most; and which are no padding."""
        length = min(max_tokens or self.config.max_tokens, self.config.max_tokens)
        if self.config.model and wanted(self.config.model):  # nothing is read: any tokens
            ids = torch.zeros(len(texts), length, dtype=torch.int64, device=device)
            return ids, torch.ones_like(ids, dtype=torch.bool)
        if not self._tokenizer:
            from transformers import AutoTokenizer

            self._tokenizer = (load_part(AutoTokenizer.from_pretrained, self.config.model),)
        options = {"padding": True, "max_length": length, "truncation": True}
        found = self._tokenizer[0](list(texts), **options, return_tensors="pt")
        return found.input_ids.to(device), found.attention_mask.bool().to(device)

    def forward(
        self, ids: Int64[Tensor, "b l"], mask: Bool[Tensor, "b l"]
    ) -> tuple[Float[Tensor, "b l c"], Float[Tensor, "b d"]]:
        """Tokens of the last block, and the embedding of the text."""
        if self.config.network == "clip":  # causal: what is behind the end changes nothing
            out = self.network(input_ids=ids)
            return out.last_hidden_state, out.text_embeds
        tokens = self.network(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        if self.config.network == "bert":
            return tokens, tokens[:, 0]
        weights = mask[..., None].to(tokens)
        return tokens, self.dense((tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9))

    def embed(self, texts: Sequence[str], device: torch.device) -> Float[Tensor, "m d"]:
        """Embeddings of texts, not of length 1."""
        return self(*self.tokens_of(texts, device))[1]


def _dense(name: str, *, local_files_only: bool, subfolder: str) -> Tensor:
    """The weight of a Sentence-Transformers' linear layer, of a folder or a hub id."""
    from huggingface_hub import snapshot_download

    folder = Path(name)
    if not folder.is_dir():
        patterns = [f"{subfolder}/*"]
        folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=local_files_only))
    file = folder / subfolder / "model.safetensors"
    if file.is_file():
        return load_file(file)["linear.weight"]
    return torch.load(file.with_name("pytorch_model.bin"), map_location="cpu", weights_only=True)["linear.weight"]
