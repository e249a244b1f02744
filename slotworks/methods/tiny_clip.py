"""A CLIP of two megabytes: picture and caption -> two transformers -> embeddings that should be near each other.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020; the
network is `transformers`' `CLIPModel`. This trains no slots: what it leaves behind is `clip/`, a Hugging Face folder
that whatever takes `openai/clip-vit-base-patch16` takes too, for MaskCLIP, OVDiff and SegCLIP where nothing can be
downloaded.

Differences from the paper: everything is small; the tokenizer has a token for each of `words`; and a second term,
`patches`, asks the same of the largest value over patches (as in CLIPpy) of what MaskCLIP reads from the last block. In
a large CLIP these agree with the texts by themselves; in a small one that has seen little they do not.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slotworks.encoders.clip import CLIP_MEAN, CLIP_STD, value_path
from slotworks.encoders.text import captions_of
from slotworks.encoders.word_tokenizer import word_tokenizer
from slotworks.errors import needs_extra
from slotworks.files import replacing_tree
from slotworks.nn.contrastive import contrastive_loss
from slotworks.types import Batch, Method, MethodConfig


@dataclass(frozen=True)
class TinyCLIPConfig(MethodConfig):
    """Hyperparameters of the two transformers."""

    loss_weights: dict[str, float] = field(default_factory=lambda: {"patches": 1.0})
    """by term; a term not named here weighs 1"""
    words: tuple[str, ...] = ()  # each is one token; other words are spelled letter by letter
    image_size: int = 64  # pixels, square
    patch_size: int = 8  # pixels
    hidden_dim: int = 96  # width of a token of the image
    num_layers: int = 4  # blocks of the image tower
    num_heads: int = 4  # of the image tower
    text_dim: int = 64  # width of a token of the text
    text_layers: int = 2  # blocks of the text tower
    text_heads: int = 4  # of the text tower
    max_tokens: int = 48  # of a caption, with those of its beginning and end
    embed_dim: int = 64  # width of the embeddings

    @property
    def finds_slots(self) -> bool:
        """No: methods build on it."""
        return False

    @property
    def reads_captions(self) -> bool:
        """Batches have a `caption`."""
        return True

    def build(self) -> "TinyCLIP":
        """Make the method with fresh weights."""
        return TinyCLIP(self)


class TinyCLIP(Method):
    """Both towers; batches have `image` and `caption`, UTF-8 bytes `b l` that end in zeros."""

    config: TinyCLIPConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: TinyCLIPConfig):
        super().__init__()
        with needs_extra("vision"):
            from transformers import CLIPConfig, CLIPModel
        self.config = config
        self.tokenizer = word_tokenizer(config.words, config.max_tokens)
        text = {
            "vocab_size": len(self.tokenizer),
            "hidden_size": config.text_dim,
            "intermediate_size": 4 * config.text_dim,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": config.text_heads,
            "max_position_embeddings": config.max_tokens,
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
            "projection_dim": config.embed_dim,  # also of each tower, which may be read alone
        }
        vision = {
            "hidden_size": config.hidden_dim,
            "intermediate_size": 4 * config.hidden_dim,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "projection_dim": config.embed_dim,
        }
        self.clip: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.embed_dim))
        for name, value in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
            self.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)

    def embed(
        self, image: Float[Tensor, "b 3 h w"], texts: list[str]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b p d"], Float[Tensor, "m d"]]:
        """Embeddings of images, of their patches along the value path, and of texts; none of length 1."""
        whole, patches, _ = value_path(self.clip, (image - self.mean) / self.std)
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=self.config.max_tokens, truncation=True, return_tensors="pt"
        )
        text = self.clip.get_text_features(input_ids=tokens.input_ids.to(image.device)).pooler_output
        return whole, patches, text

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`contrastive`, of the CLS token, and `patches`, of the largest value over patches in each channel."""
        whole, patches, text = self.embed(batch["image"], captions_of(batch))
        how = (text, self.clip.logit_scale)
        return {"contrastive": contrastive_loss(whole, *how), "patches": contrastive_loss(patches.amax(1), *how)}

    def export(self, folder: Path) -> None:
        """Write `clip/`, see `save_clip`."""
        self.save_clip(folder / "clip")

    def save_clip(self, folder: Path | str) -> Path:
        """Write network and tokenizer as a Hugging Face folder in float16; returns the folder.

        Raises:
            UserError: if the disk refuses.
        """
        with replacing_tree(folder) as beside:
            copy.deepcopy(self.clip).half().save_pretrained(beside)
            self.tokenizer.save_pretrained(beside)
        return Path(folder)
