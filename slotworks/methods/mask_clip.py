"""MaskCLIP: image -> value path of CLIP's last block -> cosine with class names. Learns nothing.

Zhou, Loy, Dai 2022, "Extract Free Dense Labels from CLIP", arXiv 2112.01071; code chongzhou96/MaskCLIP. This is
MaskCLIP itself, not MaskCLIP+ (a DeepLab trained on its output).

Differences from the released code: prompts are our own wording of about as many templates, so numbers depend on it;
images are square, seen at once; probabilities instead of cosines are interpolated to the size of the truth; key
smoothing leaves out negative affinities, which would give negative probabilities (for a ViT the released code
multiplies key maps along one image axis only, so it does not smooth by affinity there). The released VOC evaluation
leaves the background out; GLASS's table 9 counts it without saying how. Three ways are offered.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slotworks.encoders.clip import CLIPEncoder
from slotworks.nn.zero_shot import slots_of_names, with_background
from slotworks.types import MethodConfig, SlotOutput, Untrained
from slotworks.vocabulary import SURROUNDINGS, VOC_CLASSES, as_words

TEMPLATES = tuple(
    f"{kind} {which} {{}}{place}."
    for kind in ("a picture of", "a close view of", "a distant view of", "a blurred photograph showing", "a drawing of")
    for which in ("one", "the", "several", "part of some")
    for place in ("", " indoors", " outside in daylight", " among other things")
)
"""Eighty sentences; a class is the mean of their embeddings."""


@dataclass(frozen=True)
class MaskCLIPConfig(MethodConfig):
    """Settings of the labelling."""

    model: str = "openai/clip-vit-base-patch16"  # hub id or folder
    image_size: int = 512  # pixels, square; a multiple of the patch
    class_names: tuple[str, ...] = as_words(VOC_CLASSES)  # class i + 1; 0 is the background; "": no class
    background: Literal["none", "threshold", "prompts"] = "prompts"  # who is background, see `MaskCLIP`
    threshold: float = 0.5  # with "threshold": below this largest probability a position is background
    background_names: tuple[str, ...] = SURROUNDINGS  # with "prompts": more classes, which count as background
    templates: tuple[str, ...] = TEMPLATES  # sentences with {} for the name
    temperature: float = 100.0  # factor on cosines before the softmax
    key_smoothing: float | None = None  # positions less certain than this take the mean of similar ones; None: off
    prompt_denoising: float | None = None  # classes nowhere as certain as this are dropped; None: off

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(self.class_names) or any("{}" not in template for template in self.templates) or not self.templates:
            raise ValueError("class_names needs a name and templates a sentence with {} where the name goes.")
        if self.background == "prompts" and not self.background_names:
            raise ValueError("background is 'prompts' but background_names is empty; name some, or choose another way.")

    @property
    def num_slots(self) -> int:
        """One per class and one for the background."""
        return len(self.class_names) + 1

    def build(self) -> "MaskCLIP":
        """Make the method; CLIP is loaded at the first image."""
        return MaskCLIP(self)


class MaskCLIP(Untrained):
    """Slot `k` is class `k`; slot 0 is the background.

    `background="none"` leaves slot 0 empty, as in the released VOC evaluation; `"threshold"` gives it the positions
    whose largest class probability is below `threshold`; `"prompts"` adds names of surroundings to the classes and
    gives it the positions that one of them wins.
    """

    semantic_rule = "labels"  # how `evaluate_semantic` reads the slots
    config: MaskCLIPConfig

    def __init__(self, config: MaskCLIPConfig):
        super().__init__(config)
        self.clip = CLIPEncoder(config.model)
        self._classes: tuple[Tensor] | None = None

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to class probabilities at every patch; slots are the embeddings of the classes."""
        patches, keys = self.clip(image)
        classes = self.class_embeddings(patches)  # m d, names of surroundings last
        probs = (self.config.temperature * patches @ classes.T).softmax(2)  # b p m
        probs = self._smooth(self._denoise(probs), keys)
        shares = self._with_background(probs, sum(map(bool, self.config.class_names)))
        slots, attn = slots_of_names(classes, shares.mT, self.config.class_names)
        rows = round((attn.shape[2] * image.shape[-2] / image.shape[-1]) ** 0.5)
        return SlotOutput(slots, attn, grid=(rows, attn.shape[2] // rows))

    def class_embeddings(self, like: Tensor) -> Float[Tensor, "m d"]:
        """One embedding per class with a name, then per name of the background: means over templates, length 1."""
        if self._classes is None or self._classes[0].device != like.device:
            config = self.config
            names = tuple(filter(None, config.class_names))
            names += config.background_names if config.background == "prompts" else ()
            prompts = [template.format(name) for name in names for template in config.templates]
            text = self.clip.text(prompts, like).unflatten(0, (len(names), len(config.templates)))
            self._classes = (F.normalize(text.mean(1), dim=1),)
        return self._classes[0]

    def _denoise(self, probs: Float[Tensor, "b p m"]) -> Float[Tensor, "b p m"]:
        if self.config.prompt_denoising is None:
            return probs
        certainty = probs.amax(1, keepdim=True)
        kept = (certainty >= self.config.prompt_denoising) | (certainty == certainty.amax(2, keepdim=True))
        return probs * kept / (probs * kept).sum(2, keepdim=True)

    def _smooth(self, probs: Float[Tensor, "b p m"], keys: Float[Tensor, "b p c"]) -> Float[Tensor, "b p m"]:
        if self.config.key_smoothing is None:
            return probs
        k = F.normalize(keys, dim=2)
        mean = (k @ k.mT).clamp(min=0) @ probs
        uncertain = probs.amax(2, keepdim=True) < self.config.key_smoothing
        return torch.where(uncertain, mean / mean.sum(2, keepdim=True), probs)

    def _with_background(self, probs: Float[Tensor, "b p m"], named: int) -> Float[Tensor, "b p n"]:
        """Probabilities of the background and of the classes; sums to one, the largest is who wins."""
        if self.config.background != "threshold":
            return with_background(probs, named)
        both = torch.cat([torch.full_like(probs[..., :1], self.config.threshold), probs], 2)
        return both / both.sum(2, keepdim=True)
