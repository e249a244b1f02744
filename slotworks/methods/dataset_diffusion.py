"""Dataset Diffusion's segmenter: image -> backbone -> DeepLabV3 -> class of each pixel, trained on generated images.

Nguyen, Vu, Tran & Nguyen 2023, "Dataset Diffusion: Diffusion-based Synthetic Dataset Generation for Pixel-Level
Semantic Segmentation", arXiv 2309.14303; code VinAIResearch/Dataset-Diffusion. Images and pseudo-masks are those of
`slotworks synthesize`; pixels of which a mask claims nothing (255) add nothing to the loss. A second training, its
self-training, starts anew and takes as labels what the segmenter of the first (`teacher`) sees in the generated images.
Slot `k` is class `k`, slot 0 is the background: `slotworks evaluate RUN --task semantic`.

Differences from the released configs: the first convolution of the ResNet is one of 7 x 7 (torchvision's and
`transformers`' ResNet), not three of 3 x 3; the teacher labels an image when it is used, which gives the same labels as
a pass over all images before; test images are square. With `backbone="vit"` a frozen vision transformer takes the
ResNet's place, as in the supplement of GLASS (Singh et al. 2025, F), which says "a DINOv2 backbone network" and no
more. docs/methods/dataset_diffusion.md has the evidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slotworks.decoders import DeepLabHead, DeepLabPlusHead, FCNHead
from slotworks.decoders.deeplab import to_size
from slotworks.encoders import DilatedResNet, ViTConfig, ViTEncoder
from slotworks.encoders.vit import DINOV2_B14_NORMED_448, IMAGENET_MEAN
from slotworks.nn.augment import distort_colors, random_crops, splice
from slotworks.nn.batch_norm import processes
from slotworks.types import Batch, Method, MethodConfig, SlotOutput, UserError, refuse_ignored
from slotworks.vocabulary import VOC_CLASSES

IGNORE = 255
"""The label of pixels that add nothing to the loss."""

BACKBONES = ("resnet50", "resnet101", "vit")


@dataclass(frozen=True)
class DatasetDiffusionConfig(MethodConfig):
    """Hyperparameters of both trainings; the defaults are the released configs' for VOC."""

    loss_weights: dict[str, float] = field(default_factory=lambda: {"auxiliary": 0.4})
    """by term; a term not named here weighs 1"""
    class_names: tuple[str, ...] = VOC_CLASSES  # class i + 1, as in the shards; 0 is the background; "": no class
    image_size: int = 512  # pixels, square
    backbone: str = "resnet101"  # resnet50, resnet101, or vit, which is frozen
    resnet: str = ""  # hub id or folder of the weights that a ResNet starts from; "": microsoft's of that depth
    frozen_stages: int = 0  # of a ResNet's stem and four stages, from the stem on, that are not trained
    vit: ViTConfig = DINOV2_B14_NORMED_448  # with the backbone vit
    low_level_dim: int = 0  # channels of a ResNet's first stage in DeepLabV3+'s decoder, 48 there; 0: DeepLabV3
    hidden_dim: int = 512  # channels of each branch of the head
    rates: tuple[int, ...] = (12, 24, 36)  # dilations of the head's branches
    crop_scales: tuple[float, float] = (0.5, 2.0)  # a training image is resized by a factor between these
    splices: tuple[int, ...] = ()  # images a side of those put together of several, each equally likely; (): none
    max_share: float = 0.75  # of a class in a training crop, if ten draws find one; 1: any crop
    distort: bool = True  # change the colours of training images
    test_scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # sizes of a test image, averaged
    test_flip: bool = True  # each also mirrored
    map_size: int = 320  # height and width of the probabilities that are averaged and given out
    images_per_pass: int = 8  # test images in one pass of the network: memory, not results
    teacher: str | None = None  # run folder whose segmenter labels the images; read when training starts

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(self.class_names) or len(self.class_names) >= IGNORE:
            raise ValueError(
                f"method.class_names has {len(self.class_names)} names; give 1 to {IGNORE - 1}, of which one is not "
                "empty."
            )
        if self.backbone not in BACKBONES:
            raise ValueError(f"method.backbone is {self.backbone!r}; choose {', '.join(BACKBONES)}.")
        if not 0 < self.crop_scales[0] <= self.crop_scales[1]:
            raise ValueError(
                f"method.crop_scales is {self.crop_scales}; give the smallest and the largest factor, above 0."
            )
        if self.frozen_stages > 5:
            raise ValueError(f"method.frozen_stages is {self.frozen_stages}; a ResNet has a stem and four stages, 5.")
        if not self.test_scales or min(self.test_scales) <= 0:
            raise ValueError(f"method.test_scales is {self.test_scales}; give at least one factor above 0.")
        if self.backbone == "vit":
            if self.image_size % self.vit.patch_size:
                raise ValueError(
                    f"method.image_size is {self.image_size}, which patches of {self.vit.patch_size} pixels do not "
                    "fill; choose a multiple."
                )
            if self.vit.trained_blocks:
                raise ValueError(
                    f"method.vit.trained_blocks is {self.vit.trained_blocks}; the backbone vit is frozen. Leave it "
                    "at 0."
                )
            refuse_ignored(self, "backbone=vit", ("frozen_stages", "low_level_dim"))
            if self.loss_weights.get("auxiliary"):
                raise ValueError(
                    "method.loss_weights names auxiliary, a loss on the third stage of a ResNet; leave it out with the "
                    "backbone vit."
                )

    @property
    def num_slots(self) -> int:
        """One for each class id and one for the background."""
        return len(self.class_names) + 1

    @property
    def ids(self) -> tuple[int, ...]:
        """The class id of each output of the network: the background and those with a name."""
        return (0, *(k for k, name in enumerate(self.class_names, 1) if name))

    @property
    def networks(self) -> tuple[str, ...]:
        """Hub id or folder of the weights that the backbone starts from."""
        published = f"microsoft/{self.backbone.replace('resnet', 'resnet-')}"
        return (self.vit.model if self.backbone == "vit" else self.resnet or published,)

    def build(self) -> "DatasetDiffusion":
        """Make the method with fresh weights; those that it starts from are read when training begins."""
        return DatasetDiffusion(self)


class DatasetDiffusion(Method):
    """A segmenter whose slots are the classes; their vectors are the rows of its classifier."""

    semantic_rule = "labels"  # how `evaluate_semantic` reads the slots
    config: DatasetDiffusionConfig
    outputs: Tensor

    def __init__(self, config: DatasetDiffusionConfig):
        super().__init__()
        self.config = config
        self.auxiliary: FCNHead | None = None
        if config.backbone == "vit":
            self.backbone: ViTEncoder | DilatedResNet = ViTEncoder(config.vit)
            first, width = 0, config.vit.feature_dim
        else:
            depth = int(config.backbone.removeprefix("resnet"))
            self.backbone = DilatedResNet(depth, frozen_stages=config.frozen_stages)
            first, third, width = self.backbone.feature_dims
            if config.loss_weights.get("auxiliary", 1.0):
                self.auxiliary = FCNHead(third, len(config.ids))
        how: dict[str, Any] = {"hidden_dim": config.hidden_dim, "rates": config.rates}
        if config.low_level_dim:
            how |= {"low_level_dim": config.low_level_dim}
            self.head: DeepLabHead | DeepLabPlusHead = DeepLabPlusHead(width, first, len(config.ids), **how)
        else:
            self.head = DeepLabHead(width, len(config.ids), **how)
        outputs = torch.full((256,), -1)
        outputs[list(config.ids)] = torch.arange(len(config.ids))
        self.register_buffer("outputs", outputs, persistent=False)  # of each class id; -1: it has no name
        self.teacher: tuple[DatasetDiffusion, ...] = ()  # in a tuple: neither in the state dict nor in the optimiser

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Read the weights that the ResNet starts from, and the teacher from its run folder, if there is one.

        Raises:
            UserError: if they cannot be had, or the teacher is no segmenter of the same classes.
        """
        config = self.config
        if config.teacher is not None:
            teacher = load(config.teacher)
            if not isinstance(teacher, DatasetDiffusion):
                raise UserError(
                    f"method.teacher is {config.teacher}, a run of {type(teacher).__name__}; give a run of "
                    "DatasetDiffusion."
                )
            if teacher.config.class_names != config.class_names:
                raise UserError(
                    f"The run in {config.teacher} knows {len(teacher.config.ids) - 1} classes and this one "
                    f"{len(config.ids) - 1}, or others; method.class_names must be the same in both."
                )
            self.teacher = (teacher.eval().requires_grad_(False),)
        if isinstance(self.backbone, DilatedResNet):
            self.backbone.load(config.networks[0])

    def scores(
        self, image: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b m y x"], Float[Tensor, "b m y x"] | None]:
        """Images in [0, 1] to scores of the classes with a name, on a map; the second of the backbone's third stage.

        A vision transformer needs images of whole patches.
        """
        if isinstance(self.backbone, ViTEncoder):
            grid = self.backbone.grid(*image.shape[-2:])
            return self.head(self.backbone(image).mT.unflatten(2, grid)), None
        first, third, fourth = self.backbone(image)
        maps = (fourth, first) if isinstance(self.head, DeepLabPlusHead) else (fourth,)
        return self.head(*maps), None if self.auxiliary is None else self.auxiliary(third)

    def probabilities(
        self, image: Float[Tensor, "b 3 h w"], size: tuple[int, int], *, scales: Sequence[float], flip: bool
    ) -> Float[Tensor, "b m y x"]:
        """The mean over sizes of the image, and over it and its mirror image, of the softmax of the scores at `size`.

        As mmsegmentation's `SegTTAModel` has it. Images are resized bilinearly, for a vision transformer to the nearest
        number of whole patches.
        """
        step = self.config.vit.patch_size if self.config.backbone == "vit" else 1
        total = image.new_zeros(len(image), len(self.config.ids), *size)
        for scale in scales:
            height, width = (step * max(1, round(scale * side / step)) for side in image.shape[-2:])
            resized = to_size(image, (height, width))
            total += to_size(self.scores(resized)[0].float(), size).softmax(1)
            if flip:
                total += to_size(self.scores(resized.flip(3))[0].float(), size).softmax(1).flip(3)
        return total / (len(scales) * (1 + flip))

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to the probability of each class at `map_size` x `map_size` places.

        It is the mean over all of `test_scales`; an id without a name has 0 everywhere.
        """
        config, side = self.config, self.config.map_size
        ids, how = list(config.ids), {"scales": config.test_scales, "flip": config.test_flip}
        attn = image.new_zeros(len(image), config.num_slots, side**2)
        for start in range(0, len(image), config.images_per_pass):
            part = slice(start, start + config.images_per_pass)
            attn[part, ids] = self.probabilities(image[part], (side, side), **how).flatten(2).to(attn)
        rows = self.head.classifier.weight.flatten(1).to(attn)
        slots = attn.new_zeros(config.num_slots, rows.shape[1])
        slots[ids] = rows
        return SlotOutput(slots.expand(len(image), -1, -1), attn, grid=(side, side))

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The cross-entropy with the masks, or with what the teacher sees, of changed images; see `pixel_loss`.

        `class_mask` `b h w` holds class ids, 0 the background; of `void` pixels nothing is claimed.

        Raises:
            UserError: if images or masks are missing, a class has no name, or a batch is one image alone.
        """
        if "image" not in batch:
            raise UserError("The segmenter resizes and crops its images; cached features are not enough.")
        image = batch["image"]
        if len(image) * processes() < 2:
            raise UserError("BatchNorm needs two images or more in each step; set a larger batch_size.")
        image, labels = self.changed(image, self.labels(batch))
        scores, auxiliary = self.scores(image)
        terms = {"cross_entropy": pixel_loss(scores, labels)}
        if auxiliary is not None:
            terms["auxiliary"] = pixel_loss(auxiliary, labels)
        return terms

    def labels(self, batch: Batch) -> Int64[Tensor, "b y x"]:
        """The output of the network that each pixel should have; `IGNORE` where nothing is claimed.

        Those of a teacher are of all pixels, at the size of the image, which it sees once and unchanged.
        """
        if self.config.teacher is not None:
            if not self.teacher:
                raise ValueError("The teacher is not loaded; call method.prepare(load_method) before training.")
            with torch.no_grad():
                teacher, image = self.teacher[0].to(batch["image"].device), batch["image"]
                size = (image.shape[-2], image.shape[-1])
                return teacher.probabilities(image, size, scales=(1.0,), flip=False).argmax(1)
        if "class_mask" not in batch:
            raise UserError(
                "The segmenter learns from masks of classes (class_mask), and these data have none; make some with "
                "`slotworks synthesize`."
            )
        labels = self.outputs[batch["class_mask"].long()]
        void = batch["void"].bool() if "void" in batch else torch.zeros_like(labels, dtype=torch.bool)
        wrong = (labels < 0) & ~void
        if wrong.any():
            unknown = int(batch["class_mask"][wrong].max())
            raise UserError(
                f"A mask holds the class {unknown}, which has no name in the {len(self.config.class_names)} of "
                "method.class_names; give the names of the data."
            )
        return labels.masked_fill(void, IGNORE)

    def changed(
        self, image: Float[Tensor, "b 3 h w"], labels: Int64[Tensor, "b y x"]
    ) -> tuple[Float[Tensor, "b 3 h w"], Int64[Tensor, "b h w"]]:
        """Training images and labels put together, resized, cropped, mirrored and in other colours, as configs say."""
        config = self.config
        if config.splices:
            image, labels = splice(image, labels, config.splices)
        if config.distort:
            image = distort_colors(image)
        fill = image.new_tensor(IMAGENET_MEAN)  # 0 for the backbone
        how = {"scales": config.crop_scales, "max_share": config.max_share, "ignore": IGNORE, "fill": fill}
        return random_crops(image, labels, **how)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """`backbone`, empty where it is frozen, and `heads`."""
        heads = [self.head, *([] if self.auxiliary is None else [self.auxiliary])]
        return {
            "backbone": [p for p in self.backbone.parameters() if p.requires_grad],
            "heads": [p for head in heads for p in head.parameters()],
        }


def pixel_loss(scores: Float[Tensor, "b m y x"], labels: Int64[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Cross-entropy of scores, bilinear to the size of the labels; the sum over labelled pixels by the number of all.

    mmsegmentation's `cross_entropy` divides by all pixels, those that are ignored included (`avg_non_ignore` is False),
    so that an image of which little is claimed counts little.
    """
    size = (labels.shape[-2], labels.shape[-1])
    return F.cross_entropy(to_size(scores.float(), size), labels, ignore_index=IGNORE, reduction="sum") / labels.numel()
