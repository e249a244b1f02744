"""Whether a model that draws what it is told puts every object where it belongs.

    properties or captions of true images  --model-->  pictures  --compared with the true images

Pixels of a picture belong to the object, or the background, whose tint in the true image (a median) is nearest; two
objects whose tints are nearer than `ALIKE` share theirs. A tint is a colour with little of its brightness, because the
dark side of a ball is of its colour, too, and a shadow of the ground's. An object counts as

- *shown*: pixels enough for half of its visible area have its colour;
- *placed*: half of its true, visible pixels have its colour;
- *centred*: the medians of its pixels lie within a tenth of the side of those of its true pixels;
- *shape*: a small classifier, trained on crops of true images, sees its shape in a crop around its place.

`shown`, `centred` and `iou` leave out objects that share their colour. `attention_P` is the IoU of each object with its
own mask in the model's attention to its token while it denoises the true image, after `P` steps along the attention
among positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from slotworks.evaluation.masks import check_finite, inspecting
from slotworks.evaluation.removal import ALIKE, colours_of, nearest_colour
from slotworks.evaluation.rendering import sampled_with
from slotworks.evaluation.task import Job, Needs, Result, Task, batches, count_images, option, summarize
from slotworks.metrics.metric import Metric
from slotworks.types import Batch, DataConfig, Dataset, Method

POWERS = (0, 1, 2, 4)
"""How often attention maps are spread along the attention among positions; 4 in Dataset Diffusion and GLASS."""

CENTRED = 0.1  # of the side
CROP = 24  # pixels of a crop for the classifier, which shows 1.4 times the object
TEACHING = 2_000  # images whose crops the classifier is trained on
EPOCHS = 4
NEEDS_FIELDS = ("image", "mask", "shape", "color", "size", "x", "y", "background")

MEANINGS = {
    "shown": "Share of objects whose colour covers half of their area, anywhere in the picture that was drawn.",
    "placed": "Share of objects that stand in their places: half of their true pixels have their colour.",
    "centred": "Share of objects whose middle is within a tenth of the side of where it belongs.",
    "iou": "IoU (overlap) of the pixels of an object's colour with its true ones.",
    "shape": "Share of objects whose shape a classifier recognises in the picture that was drawn.",
    "shape_true": "The same of the true pictures: what the classifier can reach.",
    "attention_*": "IoU of an object with the pixels that attend to its token, after so many steps of spreading.",
}


@runtime_checkable
class DrawsObjects(Protocol):
    """A method that draws objects of which it is told."""

    def draw(
        self, batch: Batch, *, captions: bool = False, steps: int = 25, cfg_scale: float = 1.5, seed: int = 0
    ) -> Float[Tensor, "b 3 h w"]:
        """Pictures in [0, 1] of the objects of a batch, or of captions of them."""
        ...

    def object_masks(self, batch: Batch, *, power: int = 0, seed: int = 0) -> Int64[Tensor, "b h w"]:
        """Whose token each pixel attends to, while the images of a batch are denoised; 0 is the background."""
        ...


NEEDS = Needs(
    method=DrawsObjects,
    lacking="draws no objects of which it is told; take a run of painted_diffusion.scenes_words",
    slots=False,
    fields=NEEDS_FIELDS,
    hint="this task needs drawn shapes, such as painted_scenes",
)


@dataclass(frozen=True)
class GenerationOptions:
    """Options of the task, see `evaluate_generation`."""

    told: Literal["objects", "captions"] = option("objects", "what the model is told: properties, or captions of them")
    steps: int = option(25, "denoising steps")
    cfg_scale: float = option(1.5, "guidance scale")


def evaluate_generation(
    method: Method,
    dataset: Dataset,
    teaching: Dataset,
    *,
    num_images: int | None = None,
    told: Literal["objects", "captions"] = "objects",
    steps: int = 25,
    cfg_scale: float = 1.5,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Draw what is in each image, anew, and compare.

    Args:
        method: `DrawsObjects`, on any device.
        dataset: drawn shapes.
        teaching: others, true images that the classifier of shapes is trained on.
        num_images: how many images, from the first on; all by default.
        told: what the model is told.
        steps: of its sampler.
        cfg_scale: of classifier-free guidance.
        seed: of the noise and of the classifier.
        batch_size: images at once; changes the noise.

    Returns:
        Shares of the objects of an image, see above; `shape_true` is what the classifier says of the true images.
    """
    assert isinstance(method, DrawsObjects)
    count = count_images(dataset, num_images)
    found: dict[str, list[Tensor]] = {}
    with inspecting(method, seed=seed) as device:
        classifier = taught_shapes(teaching, device, seed)
        for start, batch in batches(dataset, count, batch_size, device, NEEDS):
            options = {"steps": steps, "cfg_scale": cfg_scale, "seed": seed + start}
            picture = method.draw(batch, captions=told == "captions", **options)
            check_finite(picture, "pictures")
            scores = placement(batch["image"], batch["mask"], picture)
            for name, image in (("shape", picture), ("shape_true", batch["image"])):
                scores[name] = shapes_right(classifier, image, batch)
            for power in POWERS:
                masks = method.object_masks(batch, power=power, seed=seed + start)
                scores[f"attention_{power}"] = _overlap(masks, batch["mask"], batch["shape"].shape[1])
            for name, values in scores.items():
                found.setdefault(name, []).append(values.cpu())
    objects = {name: _flat(values) for name, values in found.items()}
    per_image = {name: torch.cat([one.nanmean(1) for one in values]) for name, values in found.items()}
    rules = (
        f"generation: {told} of true images drawn anew; an object is shown, and placed, if half of its area, and half "
        f"of its true pixels, are nearest to its colour; centred: medians within {CENTRED:g} of the side; shape: by a "
        f"classifier trained on true images; {sampled_with(steps, cfg_scale)}; mean over objects"
    )
    metrics = {name: summarize(values) for name, values in objects.items()}
    return Result(f"generation, {told}", rules, count, seed, metrics, per_image)


def placement(
    image: Float[Tensor, "b 3 h w"], mask: Int64[Tensor, "b h w"], picture: Float[Tensor, "b 3 h w"]
) -> dict[str, Float[Tensor, "b m"]]:
    """`shown`, `placed`, `centred` and `iou` of each object by the colours of its pixels; NaN: does not count."""
    image, picture = tint(image), tint(picture)
    colours, unlike = colours_of(image, mask)
    nearest = nearest_colour(picture, colours, mask.shape[-2:])  # b h w
    apart = (colours[:, :, None] - colours[:, None]).norm(dim=-1)
    alike = (apart < ALIKE)[:, 1:]  # b m m1: whose pixels are the object's, too
    own = alike.gather(2, nearest.flatten(1)[:, None].expand(-1, alike.shape[1], -1))  # b m p
    true = (mask[:, None] == torch.arange(1, colours.shape[1], device=mask.device)[:, None, None]).flatten(2)
    there = true.any(2)
    size = true.sum(2)
    side = mask.shape[-1]
    drift = (middles(own, side) - middles(true, side)).norm(dim=-1)
    joint = (own & true).sum(2)
    scores = {
        "shown": (2 * own.sum(2) >= size, unlike),
        "placed": (2 * joint >= size, there),
        "centred": (drift <= CENTRED * side, unlike),  # one without pixels has NaN, which is not near
        "iou": (joint / (own | true).sum(2).clamp(min=1), unlike),
    }
    return {name: value.double().masked_fill(~(counts & there), torch.nan) for name, (value, counts) in scores.items()}


def tint(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 4 h w"]:
    """How far each colour is from grey, as a share of the brightness, and two fifths of the brightness itself.

    With these numbers all objects of 96 true painted scenes are shown, placed and centred; by their colours in red,
    green and blue 95% would be centred.
    """
    bright = image.mean(1, keepdim=True)
    return torch.cat([0.7 * (image - bright) / (bright + 0.2), 0.4 * bright], 1)


def middles(own: Bool[Tensor, "b m p"], side: int) -> Float[Tensor, "b m 2"]:
    """Medians of the rows and columns of some pixels; NaN without any."""
    pixel = torch.arange(own.shape[2], device=own.device)
    both = torch.stack([pixel // side, pixel % side], -1).float()
    return both.expand(*own.shape, 2).masked_fill(~own[..., None], torch.nan).nanmedian(2).values


def _overlap(found: Int64[Tensor, "b h w"], mask: Int64[Tensor, "b h w"], count: int) -> Float[Tensor, "b m"]:
    ids = torch.arange(1, count + 1, device=mask.device)[:, None, None]
    own, true = found[:, None] == ids, mask[:, None] == ids
    iou = (own & true).sum((2, 3)) / (own | true).sum((2, 3)).clamp(min=1)
    return iou.double().masked_fill(~true.flatten(2).any(2), torch.nan)


def _flat(values: list[Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in values])


def _crops(image: Float[Tensor, "b 3 h w"], batch: Batch) -> tuple[Float[Tensor, "o 3 y x"], Int64[Tensor, "o 2"]]:
    """Crops around the objects, and the image and the row of each."""
    which = (batch["shape"] > 0).nonzero()
    row, column = which.T
    size, x, y = (batch[name].float()[row, column] for name in ("size", "x", "y"))
    zero = torch.zeros_like(size)
    scale = 1.4 * size
    matrix = torch.stack([scale, zero, 2 * x - 1, zero, scale, 2 * y - 1], 1).view(-1, 2, 3)
    where = F.affine_grid(matrix, [len(which), 3, CROP, CROP], align_corners=False)
    return F.grid_sample(image[row], where, align_corners=False, padding_mode="border"), which


def taught_shapes(teaching: Dataset, device: torch.device, seed: int) -> nn.Module:
    """A small network that learns to tell the shape in a crop of a true image."""
    generator = torch.Generator().manual_seed(seed)
    crops, labels = [], []
    for _, batch in batches(teaching, min(TEACHING, len(teaching)), 200, device, NEEDS):
        found, which = _crops(batch["image"], batch)
        crops.append(found)
        labels.append(batch["shape"].long()[which[:, 0], which[:, 1]])
    images, shapes = torch.cat(crops), torch.cat(labels)
    with torch.enable_grad():
        network = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
            nn.Linear(48 * (CROP // 4) ** 2, 1 + int(shapes.max())),
        ).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(images), generator=generator).to(device).split(64):
                optimizer.zero_grad()
                F.cross_entropy(network(images[rows]), shapes[rows]).backward()
                optimizer.step()
    return network.eval()


def shapes_right(classifier: nn.Module, image: Float[Tensor, "b 3 h w"], batch: Batch) -> Float[Tensor, "b m"]:
    """Whether the classifier sees the shape of each object of a batch at its place in pictures; NaN: no object."""
    crops, which = _crops(image, batch)
    shapes = batch["shape"].long()
    right = torch.full(shapes.shape, torch.nan, dtype=torch.float64, device=image.device)
    rows = which[:, 0], which[:, 1]
    right[rows] = (classifier(crops).argmax(1) == shapes[rows]).double()
    return right


def _score(job: Job, source: DataConfig, dataset: Dataset) -> Sequence[Result]:
    return [evaluate_generation(job.method, dataset, source.open("train"), **job.how)]


TASK = Task(
    name="generation",
    about="objects drawn anew from what is known of them, or from captions",
    score=_score,
    metrics=tuple(Metric(name=name, label=name.replace("_", " "), about=about) for name, about in MEANINGS.items()),
    needs=NEEDS,
    options=GenerationOptions,
)
