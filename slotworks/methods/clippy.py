"""CLIPpy: image -> DINO's transformer, the largest value over patches; caption -> Sentence-T5; near each other or not.

Ranasinghe, McKinzie, Ravi, Yang, Toshev, Shlens 2023, "Perceptual Grouping in Contrastive Vision-Language Models",
arXiv 2210.09996; code kahnchana/clippy, by the first author, which repeats the paper's training at a smaller scale.
CLIP with three changes: both towers start from networks that were trained without labels, and the embedding of an image
is the maximum over its patches in each channel, so that a patch alone can answer for the image. After training every
patch is compared with the names of classes.

Differences from the released code: the background's names are ours; images are square. docs/methods/clippy.md says
where paper and code differ.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.encoders.clip import CLIP_MEAN, CLIP_STD
from slotworks.encoders.text import SENTENCE_T5, TextConfig, TextEncoder, captions_of
from slotworks.encoders.trained_vit import TrainedViT, TrainedViTConfig
from slotworks.nn.contrastive import contrastive_loss
from slotworks.nn.zero_shot import NamesClasses, a_or_an, slots_of_names, with_background
from slotworks.types import Batch, Method, MethodConfig, SlotOutput
from slotworks.vocabulary import SURROUNDINGS, VOC_CLASSES, as_words


@dataclass(frozen=True)
class CLIPpyConfig(NamesClasses, MethodConfig):
    """Hyperparameters; the defaults are those of the released code."""

    vit: TrainedViTConfig = field(default_factory=lambda: TrainedViTConfig(mean=CLIP_MEAN, std=CLIP_STD))
    text: TextConfig = SENTENCE_T5
    pool: Literal["max", "mean", "cls"] = "max"  # from patches to the image: CLIPpy, and what it is compared with
    pool_cls: bool = True  # the CLS token takes part in it, as in the released training
    patch_dropout: float = 0.0  # share of the patches that an image of training does not show
    max_caption: int = 77  # tokens of a caption in training
    class_names: tuple[str, ...] = as_words(VOC_CLASSES)  # class i + 1; 0 is the background; "": no class
    background_names: tuple[str, ...] = ("background", *SURROUNDINGS)  # more names; what they win is background
    template: str = "a photo of a {}"  # with {} for a name; "a" becomes "an" before a vowel
    map_size: int = 224  # height and width of the masks, to which similarities are interpolated
    temperature: float = 100.0  # factor on cosines before the softmax; the largest stays the largest

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.patch_dropout < 1:
            raise ValueError(f"method.patch_dropout is {self.patch_dropout}; it is a share from 0 to below 1.")
        if self.vit.hidden_dim != self.text.embed_dim:
            raise ValueError(
                f"method.vit.hidden_dim is {self.vit.hidden_dim} and method.text.embed_dim {self.text.embed_dim}; "
                "patches are compared with texts as they are, so both must be the same."
            )

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        return self.vit.image_size

    @property
    def networks(self) -> tuple[str, ...]:
        """Hub ids or folders of the weights that training starts from."""
        return tuple(filter(None, (self.vit.model, self.text.model)))

    def build(self) -> "CLIPpy":
        """Make the method with fresh weights; those that it starts from are read when training begins."""
        return CLIPpy(self)


class CLIPpy(Method):
    """Slot `k` is class `k`; slot 0 is the background. Batches of training have `image` and `caption`."""

    semantic_rule = "labels"  # how `evaluate_semantic` reads the slots
    config: CLIPpyConfig

    def __init__(self, config: CLIPpyConfig):
        super().__init__()
        self.config = config
        self.vit = TrainedViT(config.vit, eps=1e-6)
        self.text = TextEncoder(config.text)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Read the weights that both towers start from.

        Raises:
            UserError: if they cannot be had, or are of other networks.
        """
        self.vit.load()
        self.text.load()

    def pooled(self, tokens: Float[Tensor, "b s d"]) -> Float[Tensor, "b d"]:
        """The embedding of an image from its tokens, the CLS token first."""
        if self.config.pool == "cls":
            return tokens[:, 0]
        tokens = tokens if self.config.pool_cls else tokens[:, 1:]
        return tokens.amax(1) if self.config.pool == "max" else tokens.mean(1)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`contrastive`: both cross-entropies of images with their captions.

        Raises:
            UserError: there are no captions.
        """
        ids, mask = self.text.tokens_of(captions_of(batch), batch["image"].device, self.config.max_caption)
        tokens = self.vit(batch["image"], dropped=self.config.patch_dropout)
        return {"contrastive": contrastive_loss(self.pooled(tokens), self.text(ids, mask)[1], self.log_scale)}

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to classes at `map_size` x `map_size` places; slots are the embeddings of the names.

        The cosine of each patch with each name is interpolated; the softmax is over all names.
        """
        config, names = self.config, tuple(filter(None, self.config.class_names))
        prompts = [a_or_an(config.template, name) for name in (*names, *config.background_names)]
        classes = F.normalize(self.text.embed(prompts, image.device), dim=1)
        patches = F.normalize(self.vit(image)[:, 1:], dim=2)
        grid = tuple(side // config.vit.patch_size for side in image.shape[-2:])
        size = (config.map_size, config.map_size)
        cosines = F.interpolate((patches @ classes.T).mT.unflatten(2, grid), size, mode="bilinear")
        probs = (config.temperature * cosines.flatten(2)).softmax(1).mT
        shares = with_background(probs, len(names)).to(image).mT
        return SlotOutput(*slots_of_names(classes, shares, config.class_names), grid=size)
