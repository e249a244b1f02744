"""OVSegmentor: image -> transformer from DINO, group tokens that gather patches -> groups, compared with texts of BERT.

Xu, Hou, Zhang, Feng, Wang, Qiao, Xie 2023, "Learning Open-Vocabulary Semantic Segmentation Models From Natural Language
Supervision", arXiv 2301.09121; code Jazzcharles/OVSegmentor. GLASS's table 9 calls it OVSeg. Three losses on images
with captions: `contrastive`, an image and its caption are near each other; `entity`, a caption whose nouns are masked
says them when it may look at the groups; and in a second stage `mask`, two images that share a noun agree on where it
is, one by its own groups, the other through the groups of the first.

Differences from the released code: nouns are those of `entities` (the hundred of the code come with its data); the
image that shares a noun is sought in the batch (the code has a list of pairs); there is no stochastic depth, and images
are cropped at their centre. docs/methods/ov_segmentor.md says where paper and code differ.
"""

import copy
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.encoders.text import BERT, TextConfig, TextEncoder, captions_of
from slotworks.encoders.trained_vit import TrainedViT, TrainedViTConfig
from slotworks.matching import best_pairs
from slotworks.nn.batch_norm import processes
from slotworks.nn.contrastive import contrastive_loss
from slotworks.nn.zero_shot import NamesClasses, a_or_an, classes_of_groups, scores_of_groups, slots_of_names
from slotworks.slots.group_tokens import Completion, Grouped, GroupingBlock
from slotworks.types import Batch, Method, MethodConfig, SlotOutput, UserError, refuse_ignored
from slotworks.vocabulary import COCO_CLASSES, VOC_CLASSES, as_words

ANSWERS = ("a photo of", "a picture with", "an image that shows", "a painting of", "a close-up of", "a view of")
"""How a text begins that names what was masked."""

ENTITIES = tuple(dict.fromkeys(filter(None, (*as_words(VOC_CLASSES), *as_words(COCO_CLASSES)))))


@dataclass(frozen=True)
class OVSegmentorConfig(NamesClasses, MethodConfig):
    """Hyperparameters; the defaults are those of the released code for VOC."""

    vit: TrainedViTConfig = field(default_factory=lambda: TrainedViTConfig(num_heads=8))
    text: TextConfig = BERT
    first_layers: int = 6  # blocks before the grouping; the others see groups
    num_tokens: int = 64  # group tokens
    num_groups: int = 8  # groups
    project_dim: int = 4_096  # hidden width of the projections of images and texts
    embed_dim: int = 256  # width of embeddings
    max_caption: int = 77  # tokens of a caption in training
    entities: tuple[str, ...] = ENTITIES  # nouns that are masked, and by which images are paired
    mask_word: str = "[MASK]"  # what stands in a text in the place of a noun
    stage_1: str | None = None  # run folder of the first stage, from which the second starts
    momentum: float = 0.99  # of the average of the image tower that sees the other image
    mask_threshold: float = 0.6  # share of a map's largest value above which the other image's masks are
    fixed_share: float = 0.5  # share of the groups, those least like the noun, whose masks are not trained
    class_names: tuple[str, ...] = as_words(VOC_CLASSES)  # class i + 1; 0 is the background; "": no class
    template: str = "a photo of a {}."  # with {} for a name; "a" becomes "an" before a vowel
    threshold: float = 0.95  # below this score a place is background
    map_size: int = 224  # height and width of the masks

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.entities:
            raise ValueError("method.entities is empty; give the nouns that are masked in captions.")
        if not 0 < self.first_layers <= self.vit.num_layers:
            raise ValueError(
                f"method.first_layers is {self.first_layers} of {self.vit.num_layers} blocks; give 1 to all of them."
            )
        if self.vit.hidden_dim != self.text.hidden_dim:
            raise ValueError(
                f"method.vit.hidden_dim is {self.vit.hidden_dim} and method.text.hidden_dim {self.text.hidden_dim}; "
                "words look at groups, so both must be the same."
            )
        if self.stage_1 is None:
            refuse_ignored(self, "stage_1=None", ("momentum", "mask_threshold", "fixed_share"))

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        return self.vit.image_size

    @property
    def starts_trained(self) -> bool:
        """Whether `stage_1` names a run."""
        return self.stage_1 is not None

    @property
    def networks(self) -> tuple[str, ...]:
        """Hub ids or folders of the weights that training starts from."""
        return tuple(filter(None, (self.vit.model, self.text.model)))

    def build(self) -> "OVSegmentor":
        """Make the method with fresh weights; those that it starts from are read when training begins."""
        return OVSegmentor(self)


class GroupTower(nn.Module):
    """Images to groups: some blocks with group tokens beside the patches, the grouping, the other blocks."""

    def __init__(self, config: OVSegmentorConfig):
        super().__init__()
        self.first, vit = config.first_layers, config.vit
        self.vit = TrainedViT(vit, eps=1e-5)
        self.vit.network.embeddings.cls_token.requires_grad_(False)  # it takes no part
        self.tokens = nn.Parameter(torch.empty(config.num_tokens, vit.hidden_dim))
        nn.init.trunc_normal_(self.tokens, std=0.02)
        self.grouping = GroupingBlock(vit.hidden_dim, config.num_tokens, config.num_groups, vit.num_heads)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Grouped:
        """Groups of images in [0, 1] behind the last LayerNorm, and how patches were shared."""
        patches = self.vit.embedded(image)[:, 1:]
        tokens = self.tokens.expand(len(patches), -1, -1)
        x = self.vit.blocks(torch.cat([patches, tokens], 1), 0, self.first)
        found = self.grouping(x[:, : patches.shape[1]], x[:, patches.shape[1] :])
        return found._replace(groups=self.vit.network.layernorm(self.vit.blocks(found.groups, self.first)))


class Projection(nn.Module):
    """Two layers with BatchNorm between them, over all tokens of a batch."""

    def __init__(self, dim: int, hidden: int, out: int):
        super().__init__()
        # of two dimensions of one pixel: those are shared by all processes of a training
        self.first, self.norm, self.last = nn.Linear(dim, hidden), nn.BatchNorm2d(hidden), nn.Linear(hidden, out)

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b d"]:
        """Each token for itself, but for its normalisation."""
        hidden = self.norm(self.first(x).flatten(0, -2)[..., None, None])[..., 0, 0]
        return self.last(hidden.relu()).unflatten(0, x.shape[:-1])


class OVSegmentor(Method):
    """Slot `k` is class `k`; slot 0 is the background. Batches of training have `image` and `caption`."""

    semantic_rule = "labels"  # how `evaluate_semantic` reads the slots
    config: OVSegmentorConfig

    def __init__(self, config: OVSegmentorConfig):
        super().__init__()
        self.config, dim = config, config.vit.hidden_dim
        self.image = GroupTower(config)
        self.text = TextEncoder(config.text)
        self.project_image = Projection(dim, config.project_dim, config.embed_dim)
        self.project_text = Projection(dim, config.project_dim, config.embed_dim)
        self.project_answer = Projection(dim, config.project_dim, config.embed_dim)
        self.completion = Completion(dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.average: GroupTower | None = None
        if config.stage_1 is not None:
            self.average = copy.deepcopy(self.image).requires_grad_(False)
            self.text.requires_grad_(False)
        named = "|".join(re.escape(name) for name in sorted(config.entities, key=len, reverse=True))
        self._nouns = re.compile(rf"\b({named})(e?s)?\b", re.IGNORECASE)

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Read what training starts from: DINO and BERT, or in the second stage the run of the first.

        Raises:
            UserError: if it cannot be had, or is another network.
        """
        if self.config.stage_1 is None:
            self.image.vit.load()
            self.text.load()
            return
        first = load(self.config.stage_1)
        if not isinstance(first, OVSegmentor):
            raise UserError(
                f"method.stage_1 is {self.config.stage_1}, a run of {type(first).__name__}; give a run of OVSegmentor."
            )
        known = first.state_dict()
        given = known | {f"average.{n.removeprefix('image.')}": v for n, v in known.items() if n.startswith("image.")}
        own = self.state_dict()
        wrong = [name for name, value in own.items() if name not in given or given[name].shape != value.shape]
        if wrong:
            raise UserError(
                f"The run in {self.config.stage_1} differs from this one in {wrong[0]}; the sizes of both stages must "
                "be the same."
            )
        self.load_state_dict({name: given[name] for name in own})

    def nouns(self, text: str) -> list[str]:
        """Those of `entities` that a text names, in their order there, each once."""
        return list(dict.fromkeys(found[1].lower() for found in self._nouns.finditer(text)))

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`contrastive` and `entity`, cross-entropies; in the second stage `mask`, one minus the overlap of masks.

        Raises:
            UserError: there are no captions, or a batch is one image alone.
        """
        image, texts = batch["image"], captions_of(batch)
        if len(texts) * processes() < 2:
            raise UserError("BatchNorm needs two images or more in each step; set a larger batch_size.")
        found = self.image(image)
        whole, groups = self.project_image(found.groups.mean(1)), self.project_image(found.groups)
        caption, scale = self.project_text(self._read(texts)[1]), self.log_scale
        nouns = [self.nouns(text) for text in texts]
        words = self._read([self._nouns.sub(self.config.mask_word, text) for text in texts])[0]
        answers = [f"{ANSWERS[k % len(ANSWERS)]} {' and '.join(names)}" for k, names in enumerate(nouns, step)]
        said = self.project_text(self._read(answers)[1])
        completed = self.project_answer(self.completion(found.groups, words))
        terms = {
            "contrastive": contrastive_loss(whole, caption, scale),
            "entity": contrastive_loss(completed, said, scale),
        }
        if self.average is not None:
            terms["mask"] = self._agreement(image, found, groups, nouns)
        return terms

    def _read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self.text(*self.text.tokens_of(texts, self.log_scale.device, self.config.max_caption))

    def _agreement(self, image: Tensor, found: Grouped, groups: Tensor, nouns: Sequence[Sequence[str]]) -> Tensor:
        """Masks of another image by the groups of this one, against those by its own groups of an average tower."""
        average: Any = self.average
        if self.training:
            with torch.no_grad():
                for old, new in zip(average.parameters(), self.image.parameters(), strict=True):
                    old.lerp_(new.to(old), 1 - self.config.momentum)
        partner, shared = partners(nouns)
        kept = [i for i, j in enumerate(partner) if j >= 0]
        if not kept:
            return groups.sum() * 0
        others = [partner[i] for i in kept]
        with torch.no_grad():
            theirs = average(image[others])
            noun = self.project_text(self._read([f"A photo of {shared[i]}" for i in kept])[1])
            likeness = (groups[kept] @ noun[:, :, None])[:, :, 0]
            fixed = likeness.topk(int(likeness.shape[1] * self.config.fixed_share), largest=False).indices
        scale, size = theirs.keys.shape[2] ** -0.5, image.shape[-2:]
        grid = tuple(side // self.config.vit.patch_size for side in size)
        own = _maps(found.queries[kept] @ theirs.keys.mT * scale, grid, size)
        target = _maps(theirs.queries @ theirs.keys.mT * scale, grid, size)
        still = torch.zeros_like(likeness, dtype=torch.bool).scatter(1, fixed, True)[..., None]
        return mask_agreement(torch.where(still, own.detach(), own), target, self.config.mask_threshold)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to classes at `map_size` x `map_size` places; slots are the embeddings of the names.

        Of a place the class is that of the group it belongs to (`slotworks.nn.zero_shot`); slot 0 has the embedding 0.
        """
        config, names = self.config, tuple(filter(None, self.config.class_names))
        classes = self.project_text(self._read([a_or_an(config.template, name) for name in names])[1])
        found = self.image(image)
        whole, groups = self.project_image(found.groups.mean(1)), self.project_image(found.groups)
        scores = scores_of_groups(groups, whole, classes, self.log_scale.exp())
        grid = (image.shape[-2] // config.vit.patch_size, image.shape[-1] // config.vit.patch_size)
        shares = classes_of_groups(found.soft, grid, scores, config.map_size, config.threshold).to(image)
        slots, attn = slots_of_names(F.normalize(classes, dim=1), shares, config.class_names)
        return SlotOutput(slots, attn, grid=(config.map_size, config.map_size))


def partners(nouns: Sequence[Sequence[str]]) -> tuple[list[int], list[str]]:
    """For each text the next one, round the batch, that shares a noun with it, and the first such noun; -1, "": none.

    >>> partners([["cat"], ["dog", "cat"], ["bus"]])
    ([1, 0, -1], ['cat', 'cat', ''])
    """
    found, shared = [], []
    for i, names in enumerate(nouns):
        later = [(i + k) % len(nouns) for k in range(1, len(nouns))]
        j = next((j for j in later if set(names) & set(nouns[j])), -1)
        found.append(j)
        shared.append("" if j < 0 else next(name for name in names if name in nouns[j]))
    return found, shared


def mask_agreement(maps: Float[Tensor, "b g q"], target: Float[Tensor, "b g q"], threshold: float) -> Float[Tensor, ""]:
    """One minus the Dice overlap of maps, each stretched to [0, 1], with masks, all groups of an image together.

    Groups are matched so that their maps, of length 1, are nearest in all. A mask is where the sigmoid of the target is
    at least `threshold` of its largest value there. The sum over images is divided by the number of groups, as in the
    released code.
    """
    with torch.no_grad():
        distance = torch.cdist(F.normalize(maps.float(), dim=2), F.normalize(target.float(), dim=2))
        pairs = [best_pairs(-one)[1] for one in distance.cpu().numpy()]
        order = torch.from_numpy(np.stack(pairs)).to(target.device)
        target = target.gather(1, order[..., None].expand_as(target)).sigmoid()
        masks = (target >= threshold * target.amax(2, keepdim=True)).to(maps)
    low, high = maps.amin(2, keepdim=True), maps.amax(2, keepdim=True)
    maps, masks = ((maps - low) / (high - low)).flatten(1), masks.flatten(1)
    dice = (2 * (maps * masks).sum(1) + 1) / (maps.sum(1) + masks.sum(1) + 1)
    return (1 - dice).sum() / order.shape[1]


def _maps(scores: Tensor, grid: tuple[int, ...], size: Any) -> Tensor:
    return F.interpolate(scores.unflatten(2, grid), tuple(size), mode="bilinear", align_corners=True).flatten(2)
