"""OVDiff: image -> features -> nearest prototype of a class or of its surroundings, from generated images. No learning.

Karazija, Laina, Vedaldi, Rupprecht 2024, "Diffusion Models for Open-Vocabulary Segmentation", arXiv 2306.09316; code
karazijal/ovdiff. A diffusion model draws some images of each class; what lies inside the object and what lies around it
become prototypes, and a pixel of a real image gets the class of the prototype that is most similar to it:

    images of a class, masks  --features-->  mean of each image, mean of all, clusters; inside, and outside

Of its sources the README alone could be read, and summaries of the paper: settings that neither states are choices of
ours (docs/methods/ov_diff.md has the list). The images are those of `slotworks synthesize`, with the masks that the
attention to the class gives; in the original an unsupervised segmenter (CutLER) proposes masks and attention chooses.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.encoders.clip import CLIP_MEAN, CLIP_STD, CLIPEncoder
from slotworks.encoders.diffusion import DiffusionEncoder, DiffusionFeaturesConfig
from slotworks.encoders.vit import DINO_B8
from slotworks.nn.clustering import kmeans
from slotworks.nn.pamr import refine_masks
from slotworks.nn.resize import resize
from slotworks.types import Batch, MethodConfig, SlotOutput, Untrained, UserError
from slotworks.vocabulary import VOC_CLASSES, as_words

DINO_KEYS = ViTConfig(DINO_B8.model, 448, 8, position_offset=0.1, features="keys")
CLIP_KEYS = ViTConfig("openai/clip-vit-base-patch16", 448, features="keys", layer=-2, mean=CLIP_MEAN, std=CLIP_STD)


@dataclass(frozen=True)
class OVDiffConfig(MethodConfig):
    """Settings of prototypes and of the segmentation."""

    class_names: tuple[str, ...] = VOC_CLASSES  # class i + 1, as in the shards; 0 is the background; "": no class
    image_size: int = 512  # pixels, square
    vits: tuple[ViTConfig, ...] = (DINO_KEYS, CLIP_KEYS)  # frozen networks whose features are compared
    diffusion: DiffusionFeaturesConfig | None = field(default_factory=DiffusionFeaturesConfig)  # one more, or none
    num_support: int = 32  # images of a class that are used, from the first on
    num_parts: int = 32  # clusters of features inside the objects of a class, and as many around them
    points_per_image: int = 64  # places drawn at random on each side of each image, from which clusters are made
    restarts: int = 8  # k-means runs; the best is kept
    clip_filter: str = "openai/clip-vit-base-patch16"  # hub id or folder of the CLIP that chooses classes; "": none
    filter_template: str = "A good picture of a {}"  # what it compares an image with
    max_classes: int = 5  # classes that may be found in an image: those most probable by `clip_filter`
    temperature: float = 100.0  # factor on similarities before the softmax; the largest stays the largest
    map_size: int = 128  # height and width of the masks, to which similarities are interpolated
    refinement: int = 0  # iterations of PAMR on the masks; 0: none

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(self.class_names):
            raise ValueError("method.class_names names no class; give at least one.")
        if not self.vits and self.diffusion is None:
            raise ValueError("method.vits is empty and method.diffusion is None; name a network to take features from.")
        if "{}" not in self.filter_template:
            raise ValueError(
                f"method.filter_template is {self.filter_template!r}; write {{}} where the name of a class goes."
            )

    @property
    def num_slots(self) -> int:
        """One for each class id and one for the background."""
        return len(self.class_names) + 1

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of classes with a name."""
        return tuple(k for k, name in enumerate(self.class_names, 1) if name)

    @property
    def gathers(self) -> bool:
        """Prototypes are taken from the generated images before anything can be segmented."""
        return True

    def build(self) -> "OVDiff":
        """Make the method without prototypes; networks are loaded at the first image."""
        return OVDiff(self)


class OVDiff(Untrained):
    """Slot `k` is class `k`; slot 0 is the background, which the surroundings of all classes stand for."""

    semantic_rule = "labels"  # how `evaluate_semantic` reads the slots
    config: OVDiffConfig

    def __init__(self, config: OVDiffConfig):
        super().__init__(config)
        self.encoders: list[ViTEncoder | DiffusionEncoder] = [ViTEncoder(vit) for vit in config.vits]  # without weights
        if config.diffusion is not None:
            self.encoders.append(DiffusionEncoder(config.diffusion))
        rows = 1 + config.num_support + config.num_parts
        # Class, inside or around it, then the mean of all images, of each, and the parts; what is not there stays 0.
        for k, encoder in enumerate(self.encoders):
            self.register_buffer(f"prototypes_{k}", torch.zeros(len(config.ids), 2, rows, encoder.config.feature_dim))
        self.clip = CLIPEncoder(config.clip_filter) if config.clip_filter else None
        self._names: tuple[Tensor] | None = None

    @property
    def prototypes(self) -> tuple[Tensor, ...]:
        """For each network `c 2 r d`: classes with a name, inside and around, rows of length 1 or, unused, 0."""
        return tuple(self.get_buffer(f"prototypes_{k}") for k in range(len(self.encoders)))

    def fit(self, batches: Iterable[Batch]) -> None:
        """Take prototypes from generated images with `class_mask`; of `void` places nothing is taken.

        An image counts for each class in it; its background is the surroundings of all of them.

        Raises:
            UserError: there are no masks of classes, or no image shows one of the classes.
        """
        config = self.config
        means: dict[tuple[int, int, int], list[tuple[Tensor, int]]] = {}  # network, class, side: of each image
        points: dict[tuple[int, int, int], list[Tensor]] = {}
        for batch in batches:
            if "class_mask" not in batch:
                raise UserError(
                    "Prototypes are taken from images with masks of classes (class_mask), and these data have none; "
                    "make some with `slotworks synthesize`."
                )
            features = [encoder.features_of(batch) for encoder in self.encoders]
            for b, c, sides in self._objects(batch, means):
                for k, found in enumerate(features):
                    for side, mask in enumerate(sides):
                        chosen = found[b][members(mask, found.shape[1])]
                        if not len(chosen):
                            continue
                        means.setdefault((k, c, side), []).append((chosen.mean(0), len(chosen)))
                        drawn = torch.randperm(len(chosen), device=chosen.device)[: config.points_per_image]
                        points.setdefault((k, c, side), []).append(chosen[drawn].half().cpu())
        for c, id_ in enumerate(config.ids):
            if (0, c, 0) not in means:
                raise UserError(
                    f"No support image shows {config.class_names[id_ - 1]!r}; generate some with `slotworks "
                    "synthesize`, or take the name out of method.class_names."
                )
        for (k, c, side), found in means.items():
            rows = self.prototypes[k][c, side]
            each, sizes = torch.stack([mean for mean, _ in found]), rows.new_tensor([size for _, size in found])
            place = torch.cat(points[k, c, side]).to(rows)
            labels = kmeans(place[None], min(config.num_parts, len(place)), restarts=config.restarts)[0]
            parts = torch.stack([place[labels == n].mean(0) for n in labels.unique()])
            whole = (sizes[:, None] * each).sum(0, keepdim=True) / sizes.sum()
            kept = F.normalize(torch.cat([whole, each, parts]), dim=1)
            rows.zero_()
            rows[: len(kept)] = kept

    def _objects(self, batch: Batch, means: dict) -> Iterator[tuple[int, int, tuple[Tensor, Tensor]]]:
        """Image, class and the masks inside and around, of classes that still take images."""
        config = self.config
        labels = batch["class_mask"].long()
        void = batch["void"].bool() if "void" in batch else torch.zeros_like(labels, dtype=torch.bool)
        for b, (mask, open_) in enumerate(zip(labels, void, strict=True)):
            there = set(mask[~open_].unique().tolist())
            for c, id_ in enumerate(config.ids):
                if id_ in there and len(means.get((0, c, 0), ())) < config.num_support:
                    yield b, c, ((mask == id_) & ~open_, (mask == 0) & ~open_)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to the class of the most similar prototype, as probabilities at `map_size` x `map_size`.

        The similarity of a class is its best cosine in each network, the mean over networks. Slots are the mean
        prototypes of the classes in the first network, that of the background the mean of their surroundings.
        """
        config = self.config
        if not self.prototypes[0].any():
            raise ValueError("There are no prototypes yet; call method.fit(batches), or load a run that has them.")
        size = (config.map_size, config.map_size)
        total = image.new_zeros(len(image), 2 * len(config.ids), *size)
        for encoder, prototypes in zip(self.encoders, self.prototypes, strict=True):
            features = F.normalize(encoder.features_of({"image": image}), dim=2)
            best = torch.stack([similarities(one, prototypes) for one in features])  # b c 2 p
            side = round(best.shape[3] ** 0.5)
            total += F.interpolate(best.flatten(1, 2).unflatten(2, (side, side)), size, mode="bilinear")
        scores = (total / len(self.encoders)).unflatten(1, (-1, 2))
        scores = scores.masked_fill(~self.likely(image)[:, :, None, None, None], -torch.inf)
        both = torch.cat([scores[:, :, 1].amax(1, keepdim=True), scores[:, :, 0]], 1)
        attn = image.new_zeros(len(image), config.num_slots, *size)
        ids = [0, *config.ids]
        attn[:, ids] = (config.temperature * both).softmax(1)
        if config.refinement:
            attn = refine_masks(attn, resize(image, config.map_size), iterations=config.refinement)
        means = self.prototypes[0][:, :, 0]
        slots = means.new_zeros(config.num_slots, means.shape[2])
        slots[ids] = torch.cat([means[:, 1].mean(0, keepdim=True), means[:, 0]])
        return SlotOutput(slots.expand(len(image), -1, -1), attn.flatten(2), grid=size)

    def likely(self, image: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b c"]:
        """Which classes an image may show: the `max_classes` whose names are nearest to it in CLIP; all without one."""
        config = self.config
        classes = len(config.ids)
        if self.clip is None or classes <= config.max_classes:
            return torch.ones(len(image), classes, dtype=torch.bool, device=image.device)
        if self._names is None or self._names[0].device != image.device:
            names = as_words(tuple(filter(None, config.class_names)))
            self._names = (self.clip.text([config.filter_template.format(name) for name in names], image),)
        best = (self.clip.whole(image) @ self._names[0].T).topk(config.max_classes, dim=1).indices
        return torch.zeros(len(image), classes, dtype=torch.bool, device=image.device).scatter(1, best, True)


def members(mask: Bool[Tensor, "h w"], count: int) -> Bool[Tensor, " p"]:
    """Which of `count` places, a square map, a mask covers by half; of a mask too small for that the fullest place."""
    side = round(count**0.5)
    cover = F.adaptive_avg_pool2d(mask[None].float(), (side, side)).flatten()
    return (cover >= 0.5) | ((cover == cover.max()) & (cover > 0))


def similarities(features: Float[Tensor, "p d"], prototypes: Float[Tensor, "c 2 r d"]) -> Float[Tensor, "c 2 p"]:
    """The largest cosine with a prototype of each class and side; -1 where there is none."""
    cosines = torch.einsum("csrd,pd->csrp", prototypes, features)
    return cosines.masked_fill(~prototypes.any(3, keepdim=True), -1.0).amax(2)
