"""The contract: what a batch holds, what encoders, slots and decoders return, what a method can do.

Axis letters used in every annotation of the package:

    b batch   t time   n slots   m true objects   p positions (h * w, row major)   c feature channels
    d slot width   k heads   h w height and width in pixels

Images in a batch are float32 in [0, 1], `b 3 h w`; masks int64 `b h w`, 0 is background; boxes `x0 y0 x1 y1`
in [0, 1]. `attn` and `masks` are soft and sum to one over the slots; a `segmentation` is their integer argmax.

Videos have a time axis after the batch: `video` float32 `b t 3 h w` takes the place of `image`, masks are `b t h w`,
boxes `b t m 4`, slots `b t n d`; an object keeps its id, and a slot its place, through time. See `VideoMethod`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.errors import UserError as UserError
from slotworks.ranges import check_numbers

Batch = dict[str, Tensor]
"""A batch on its device: `image` or cached `features` (`b p c`); `mask`, `void`, `overlap` (`b h w`) and a data set's
properties if known. Masks may be larger than images: predictions are scored at the size of the truth.
A batch of videos holds `video` in place of `image`, and a time axis in all of `FRAME_FIELDS`.

With classes also `class_mask` (the last object owns shared pixels) and `class_mask_highest` (the highest class id)."""

RawBatch = dict[str, np.ndarray]
"""A batch as a data set stores it: `image` uint8 `b h w 3`, `mask` integer, `void` and `overlap` bool, `b h w`."""

FRAME_FIELDS = (
    *("video", "mask", "void", "overlap", "class_mask", "class_mask_highest"),
    *("boxes", "forward_flow", "backward_flow", "depth"),
)
"""What has a time axis, `b t ...`, in a batch of videos, of all that methods and metrics read. Flow is `b t 2 h w` in
pixels of the image, rows first: forward to the next frame, backward to the one before. Depth is `b t h w`."""


Fields = TypeVar("Fields", Batch, RawBatch)


def frames_of(batch: Fields, start: int, stop: int) -> Fields:
    """Frames `start` to `stop` of a batch of videos; properties without a time axis stay as they are."""
    return {  # pyright: ignore[reportReturnType]  (tensors stay tensors, arrays stay arrays)
        name: value[:, start:stop] if name in FRAME_FIELDS else value for name, value in batch.items()
    }


ShortClips = tuple[tuple[int, int], ...]
"""Steps, rising, each with a number of frames: until that step, clips are cut into pieces of so many frames."""


def cut_clips(batch: Batch, stages: ShortClips, step: int) -> Batch:
    """Clips cut into those pieces that `stages` ask for at this step, each a video of its own; whole after the last.

    `b t ... -> (b t/f) f ...`; properties of a whole video are repeated.

    Raises:
        UserError: if the frames of a clip cannot be shared out evenly.

    >>> cut_clips({"video": torch.zeros(2, 6, 3, 8, 8)}, ((100, 1), (200, 3)), step=150)["video"].shape
    torch.Size([4, 3, 3, 8, 8])
    """
    length = batch["video"].shape[1]
    frames = next((frames for until, frames in stages if step < until), length)
    if frames < 1 or length % frames:
        raise UserError(
            f"method.short_clips asks for pieces of {frames} frames, but clips have {length}; choose a divisor, or "
            "another data.clip_length."
        )
    pieces = length // frames
    return {
        name: value.unflatten(1, (pieces, frames)).flatten(0, 1)
        if name in FRAME_FIELDS
        else value.repeat_interleave(pieces, dim=0)
        for name, value in batch.items()
    }


@dataclass(frozen=True)
class SlotOutput:
    """Slots and how they shared the input.

    `attn` sums to one over the slots at every position: the map to show as a mask. `attn_steps` holds the same for
    every iteration, first to last, and `slot_steps` the slots after each, of images alone. `grid` is the height and
    width behind `p`; None means a square. `features` is what the slots looked at, where a decoder needs it again:
    `decode(slots, features)`. `image` is the input of a method whose masks ask it: `decode(slots, image)`. `state`
    belongs to videos: where the slots of the next frame start, `encode(video, state=out.state)` goes on from there.
    """

    slots: Float[Tensor, "*b n d"]
    attn: Float[Tensor, "*b n p"]
    attn_steps: tuple[Tensor, ...] = ()
    grid: tuple[int, int] | None = None
    features: Float[Tensor, "*b p c"] | None = None
    image: Float[Tensor, "*b 3 h w"] | None = None
    state: Float[Tensor, "b n d"] | None = None
    slot_steps: tuple[Tensor, ...] = ()

    @property
    def decoder_inputs(self) -> tuple[Tensor, ...]:
        """What `method.decode` takes: the slots, and the features or the image where it needs them again."""
        more = self.features if self.image is None else self.image
        return (self.slots,) if more is None else (self.slots, more)

    @property
    def attn_maps(self) -> Float[Tensor, "*b n h w"]:
        """`attn` as pictures."""
        side = int(self.attn.shape[-1] ** 0.5)
        return self.attn.unflatten(-1, self.grid or (side, side))


@dataclass(frozen=True)
class DecoderOutput:
    """What the slots render together and alone.

    `recon` is an image in about [0, 1] or a map of features; `masks` sum to one over the slots; `parts` is what each
    slot shows alone, so that `recon = sum over n of masks * parts`; None where slots render only together.
    """

    recon: Float[Tensor, "*b c h w"]
    masks: Float[Tensor, "*b n h w"]
    parts: Float[Tensor, "*b n c h w"] | None = None


@dataclass(frozen=True)
class MethodConfig:
    """The hyperparameters of a method: a flat frozen dataclass with the paper's defaults, saved beside the weights.

    Numbers outside their range (`slotworks.ranges`) are a ValueError; a class that checks more calls `super` first.
    """

    loss_weights: dict[str, float] = field(default_factory=dict)  # by term; a term not named here weighs 1

    def __post_init__(self) -> None:
        check_numbers(self, "method")

    def build(self) -> "Method":
        """Make the method with fresh weights."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to build its method")

    @property
    def finds_slots(self) -> bool:
        """Whether its method takes images apart, and is no network that methods build on, such as an autoencoder."""
        return True

    @property
    def skips_weights(self) -> bool:
        """Whether a step's loss may leave trainable weights out; several processes must be told."""
        return False

    @property
    def same_loss_since(self) -> int:
        """The step from which on the loss measures the same thing."""
        return 0

    @property
    def gathers(self) -> bool:
        """Whether its method trains nothing, but has to see the training images before it is used: see `Method.fit`.

        What it takes from them is kept as a checkpoint of step 0.
        """
        return False

    @property
    def starts_trained(self) -> bool:
        """Whether training starts from the weights of an earlier run, so that its loss may be low at once."""
        return False


class TrainsOnClips:
    """A part of the settings of methods whose training may see pieces of clips at first, and single frames."""

    short_clips: ShortClips

    @property
    def skips_weights(self) -> bool:
        """The predictor's: no frame follows a single one."""
        return any(frames == 1 for _, frames in self.short_clips)

    @property
    def same_loss_since(self) -> int:
        """The step from which on clips are whole."""
        return max((until for until, _ in self.short_clips), default=0)


def refuse_ignored(config: MethodConfig, because: str, names: Sequence[str]) -> None:
    """Settings that would not be read have to keep their defaults.

    Raises:
        ValueError: with the name of one that does not; `because` is the setting that makes it mean nothing.
    """
    defaults = {one.name: one.default for one in fields(config)}
    for name in names:
        if getattr(config, name) != defaults[name]:
            raise ValueError(
                f"method.{name} is {getattr(config, name)!r}, which means nothing with method.{because}; leave it out."
            )


class Method(nn.Module):
    """One paper: joins an encoder, slots and decoders."""

    config: Any  # its own MethodConfig

    def encode(self, image: Float[Tensor, "*b 3 h w"]) -> SlotOutput:
        """Take images apart into slots."""
        raise NotImplementedError

    def encode_batch(self, batch: Batch) -> SlotOutput:
        """`encode` of a batch's images. A method that is told more, such as boxes, takes it from the batch here."""
        return self.encode(batch["image"])

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Raw loss terms by name, each a mean over the batch. The training loop multiplies by `config.loss_weights`."""
        raise NotImplementedError

    def prepare(self, load: Callable[[str], "Method"]) -> None:
        """Called once before training. A method that builds on an earlier run loads it here: `load(run_folder)`."""

    def fit(self, batches: Iterable[Batch]) -> None:
        """Called once before the first step with batches of the training data, without gradients: here a method takes
        from them what it does not learn, such as a mean, and keeps it in buffers. They are read as they are asked for.

        A method that `gathers` and trains nothing is shown all of them, in their order, when its recipe is first used.
        """

    def export(self, folder: Path) -> None:
        """Called once after training, with the averaged weights: write into the run folder what other programs read."""

    def large_parts(self) -> list[nn.Module]:
        """Modules that are trained and too large for every process to hold whole, in no other of them: `Run.shard`
        brings the weights of each together only while its `forward` computes."""
        return []

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by group name; `Adam.lr_scales` can set a learning rate for each."""
        return {"all": [p for p in self.parameters() if p.requires_grad]}


class Untrained(Method):
    """A method that learns nothing and has no weights of its own; `training/run.py` allows its recipes `steps = 0`."""

    device_marker: Tensor
    refusal = ""  # how `loss` begins, where the class's name does not make a sentence

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.register_buffer("device_marker", torch.empty(0), persistent=False)  # says where the method is

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """There is none.

        Raises:
            UserError: always.
        """
        said = self.refusal or f"{type(self).__name__} trains nothing; measure it"
        raise UserError(f"{said} with `slotworks evaluate` instead.")


class VideoMethod(Method):
    """A method for videos: everything it returns has a time axis after the batch, `slots` `b t n d`, `attn` `b t n p`.

    It is causal: what it says of a frame depends on no later frame. So a long video can be encoded in pieces, each
    from the `state` that the one before returned, and the slots are those of the whole video.
    """

    def encode(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, video: Float[Tensor, "b t 3 h w"], *, state: Float[Tensor, "b n d"] | None = None
    ) -> SlotOutput:
        """Take videos apart into slots; `state` is what an earlier call returned about the frames before these."""
        raise NotImplementedError

    def encode_batch(self, batch: Batch, *, state: Float[Tensor, "b n d"] | None = None) -> SlotOutput:
        """`encode` of a batch's videos. A method that is told more, such as the boxes of the first frame, takes it
        from the batch here where `state` is None."""
        return self.encode(batch["video"], state=state)


@runtime_checkable
class Decodes(Protocol):
    """A method with a direct decoder.

    One whose decoder is teacher-forced also takes the features that `encode` returned: `decode(slots, features)`.
    """

    def decode(self, slots: Float[Tensor, "*b n d"]) -> DecoderOutput:
        """What slots render."""
        ...


@runtime_checkable
class Samples(Protocol):
    """A method that generates images from slots."""

    def sample(
        self, slots: Float[Tensor, "b n d"], *, steps: int, cfg_scale: float, generator: torch.Generator | None
    ) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] generated from slots."""
        ...


@runtime_checkable
class PredictsSets(Protocol):
    """A method that reads a set of objects off its slots; its config says how many `categories` each property has."""

    def predict_set(self, slots: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        """Objects as vectors: place in [0, 1], one score for each class of each property, and a confidence."""
        ...


@runtime_checkable
class Dataset(Protocol):
    """Random access to samples. `DataLoader` asks for whole batches through `__getitems__`, already stacked.

    One with `renewed = True` draws its samples anew in each epoch, and is asked for `index + epoch * len(self)`.
    """

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> RawBatch: ...


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from. Opens nothing until `open`, so every recipe can be built without its data.

    Numbers outside their range (`slotworks.ranges`) are a ValueError; a class that checks more calls `super` first.
    """

    def __post_init__(self) -> None:
        check_numbers(self, "data")

    def open(self, split: str = "train") -> Dataset:
        """Open one split: `train`, `val` or `test`."""
        raise NotImplementedError

    def preview(self) -> Dataset:
        """The training split for a trial that writes nothing, so it has to be prepared, or to need no preparing."""
        return self.open("train")

    def shown(self, split: str) -> "DataConfig":
        """Whose images a split shows, where these are not the data's own: those behind features, real ones."""
        return self

    @property
    def name(self) -> str:
        """The name printed beside every number."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels; by default both are the setting `image_size`."""
        side = getattr(self, "image_size", None)
        if not isinstance(side, int):  # not every source knows before it is opened
            raise NotImplementedError(f"{type(self).__name__} does not say how large its images are")
        return side, side

    @property
    def max_objects(self) -> int | None:
        """Most objects in one image, without the background; None if unknown."""
        return None

    def augment(self, batch: Batch) -> Batch:
        """A training batch on its device, randomly changed; random numbers come from `slotworks.nn.noise`."""
        return batch

    def check_method(self, method: MethodConfig) -> None:
        """Called before training; raises UserError if the samples were made for a method that is set otherwise."""


def all_finite(values: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; integers never do. One pass and no copy where all is well."""
    if not (values.is_floating_point() or values.is_complex()):
        return True
    # One NaN or infinity makes any sum NaN or infinite. Only where finite values overflow must each be looked at.
    total = values.sum(dtype=torch.float32 if values.dtype in (torch.float16, torch.bfloat16) else None)
    return bool(total.isfinite()) or bool(values.isfinite().all())


def to_batch(raw: RawBatch, device: torch.device | str = "cpu") -> Batch:
    """Stored integers to a batch: images to float32 in [0, 1] `b 3 h w`, masks to int64; conversion on the device."""
    batch: Batch = {}
    for key, value in raw.items():
        tensor = torch.from_numpy(np.ascontiguousarray(value)).to(device, non_blocking=True)
        if key in ("image", "video"):
            tensor = tensor.movedim(-1, -3).float() / 255
        elif key == "mask":
            tensor = tensor.long()
        batch[key] = tensor
    return batch
