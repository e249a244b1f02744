"""Features of a frozen encoder, computed once over a training set and then read from a memory-mapped store.

    images  --ViT, once-->  data/features/<data>-<size>px-<key>/features.npy  --every epoch-->  features b p c

The key is a hash of everything the features depend on: the encoder's settings, its weights (SHA-256 of the files), what
the data set holds, flips and precision. When any of it changes, another folder is made; features of something else
are never read. An interrupted computation goes on after its last safe rows, with the same bytes as one that was not.
"""

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np
import torch
from jaxtyping import Float
from rich.filesize import decimal
from torch import Tensor
from torch.nn.functional import interpolate

from slotworks.data.random import scene_keys, uniform
from slotworks.data.stores.store import Row, Store, write_store
from slotworks.encoders.vit import ViTConfig, ViTEncoder, weights_hash
from slotworks.files import replacing
from slotworks.nn.resize import resize
from slotworks.progress import MEASURED, cpu_advice, duration, say
from slotworks.types import Batch, DataConfig, Dataset, MethodConfig, RawBatch, UserError, to_batch

VERSION = 1  # part of the key: raised when the same settings give other features
PROBES = 32  # images whose pixels enter the key
BLOCK_BYTES = 256 << 20  # of rows that one worker computes at once
TRIED = 2  # images whose time is measured before the work

_FOLDERS = ("root", "cutouts", "backgrounds")  # settings that say where files lie, and not what is in them


@dataclass(frozen=True)
class CachedFeatures(DataConfig):
    """The training images of a data set as features of a frozen vision transformer.

    `open("train")` gives `features` (`b p c`), and `image` if that is kept: a step never runs or imports the encoder.
    The first call computes them, on the GPU if there is one. `open("val")` and `open("test")` give the images
    themselves.

    Random changes of training images cannot be cached: `images` must neither crop nor flip at random. `flips=True`
    stores every image a second time, mirrored left to right, and the data set is twice as long: half of what is seen
    is mirrored, as with random flips, and an epoch shows each image both ways. `crops` stores that many random crops of
    each image beside it (35 to 100% of its area, 3:4 to 4:3), each mirrored as well with `flips`: which ones follows
    from the number of the image. They are cut out of the image at its size, so give larger ones and `resize`.

    Images are read, encoded and written a batch at a time: memory does not grow with their number. How much room the
    features take and about how long they take here is said before.

    float16 keeps 11 bits of a number up to 65504, bfloat16 8 bits of any; both take 2 bytes per number: 0.3 MB per
    image for ViT-B/16 at 224 pixels, 36 GB for the training set of COCO.
    """

    images: DataConfig  # of what size the encoder is set to
    encoder: ViTConfig  # as in the method
    root: str = "data/features"  # folder with one store per key
    flips: bool = False  # also store every image mirrored
    dtype: Literal["float16", "bfloat16"] = "float16"  # of the stored numbers; a batch has float32
    batch_size: int = 32  # images at once while computing
    resize: bool = False  # images to the encoder's size first; otherwise another size is an error
    keep_images: bool = False  # also store the images, in 8 bits, for methods that render them
    crops: int = 0  # random crops stored beside each image

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in ("float16", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}; choose float16 or bfloat16.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be 1 or more.")
        if self.encoder.trained_blocks:
            raise ValueError(
                f"encoder.trained_blocks is {self.encoder.trained_blocks}: features that change during training cannot "
                "be cached; train on the images themselves."
            )
        if getattr(self.images, "crop", None) == "random" or getattr(self.images, "flip", False):
            raise ValueError(self._random)

    @property
    def name(self) -> str:
        """That of the images."""
        return self.images.name

    @property
    def size(self) -> tuple[int, int]:
        """That of the images."""
        return self.images.size

    @property
    def max_objects(self) -> int | None:
        """That of the images."""
        return self.images.max_objects

    def check_method(self, method: MethodConfig) -> None:
        """The method's encoder must be the one that the features are of, wherever its weights lie.

        Raises:
            UserError: names the settings that differ.
        """
        wanted = getattr(method, "encoder", None)
        if not isinstance(wanted, ViTConfig) or wanted == self.encoder:
            return
        ours, cached = asdict(wanted), asdict(self.encoder)
        differing = [name for name in ours if ours[name] != cached[name]]
        if differing == ["model"] and weights_hash(wanted) == weights_hash(self.encoder):
            return
        said = " and ".join(
            f"method.encoder.{name} is {ours[name]!r} but data.encoder.{name} {cached[name]!r}" for name in differing
        )
        raise UserError(f"{said}: the features would be of another encoder than the method's; set both alike.")

    def open(self, split: str = "train") -> Dataset:
        """`train`: features, computed first if they are not there. Other splits: the images.

        Several processes may call this at once: one computes, the others wait.

        Raises:
            UserError: the encoder or the images cannot be had, images have another size than the encoder is set to or
                change at random, numbers do not fit `dtype`, or the disk is too small.
        """
        dataset = self.images.open(split)
        if split != "train":
            return dataset
        key = self.key(dataset)
        path = self.store_path(key)
        if not path.exists():
            rows = _Rows(self, dataset, path)
            on_cpu = not torch.accelerator.is_available()
            advice = (lambda: cpu_advice(torch.get_num_threads())) if on_cpu else None
            settings = {"batch_size": self.batch_size}
            write_store(path, rows, source=key, settings=settings, total=rows.total, advice=advice)
            shutil.rmtree(rows.blocks, ignore_errors=True)
        return Store(path)

    def missing_blocks(self) -> list[range]:
        """Rows of the store of `open("train")` that nobody has computed, in blocks for `compute_block`."""
        dataset = self.images.open("train")
        path = self.store_path(self.key(dataset))
        rows = _Rows(self, dataset, path)
        starts = range(0, 0 if path.exists() else rows.total, rows.block)
        blocks = [range(start, min(start + rows.block, rows.total)) for start in starts]
        return [block for block in blocks if not rows.block_file(block.start).exists()]

    def preview(self) -> Dataset:
        """The stored features, or else an `OnDemand`, which computes those that are asked for and stores nothing."""
        images = self.images.preview()
        path = self.store_path(self.key(images))
        return Store(path) if path.exists() else OnDemand(self, images)

    def augment(self, batch: Batch) -> Batch:
        """Stored features of a training batch, on their device, to float32. Nothing is random."""
        features = batch["features"]
        if features.dtype == torch.int16:  # NumPy has no bfloat16
            features = features.view(torch.bfloat16)
        return {**batch, "features": features.float()}

    @property
    def source_images(self) -> DataConfig:
        """The images behind the features, of all splits."""
        return self.images

    def shown(self, split: str) -> DataConfig:
        """The images behind the features."""
        return self.source_images.shown(split)

    @property
    def kept(self) -> tuple[str, ...]:
        """Maps of the images that are stored with the features."""
        return ()

    @property
    def row_bytes(self) -> int:
        """Bytes on the disk for each image."""
        rows, columns = self.encoder.grid
        height, width = self.images.size
        return rows * columns * self.encoder.feature_dim * 2 + 3 * height * width * self.keep_images

    def computation(self) -> Callable[[Batch], dict[str, np.ndarray]]:
        """What makes the stored arrays of a batch of images; holds the networks."""
        encoder, size = ViTEncoder(self.encoder), self.encoder.image_size

        def compute(batch: Batch) -> dict[str, np.ndarray]:
            image = resize(batch["image"], size) if self.resize else batch["image"]
            if tuple(image.shape[-2:]) != (size, size):
                raise UserError(
                    f"The images of {self.name} have {image.shape[-2]}x{image.shape[-1]} pixels, but the encoder is "
                    f"set to {size}; give both the same size, or resize."
                )
            return {"features": self._stored(encoder(image))}

        return compute

    def _stored(self, features: Float[Tensor, "b p c"]) -> np.ndarray:
        stored = features.half() if self.dtype == "float16" else features.bfloat16()
        if not bool(stored.isfinite().all()):
            largest = features.abs().max().item()
            raise UserError(
                f"The features of {self.encoder.model} reach {largest:g}, which {self.dtype} cannot hold;"
                " choose bfloat16, or another layer or kind of feature."
            )
        if self.dtype == "bfloat16":
            stored = stored.view(torch.int16)
        return stored.cpu().numpy()

    @property
    def _random(self) -> str:
        return (
            f"The training images of {self.name} are cropped or mirrored at random, so features cannot be cached; "
            "set crop to center and flip to False there, and flips to True here for mirrored copies."
        )

    def key(self, dataset: Dataset) -> dict[str, Any]:
        """Everything the features of these images depend on, as plain values; saved in the store's index."""
        unimportant = ("model", "trained_blocks")  # the weights say which model, wherever it lies
        settings = {name: value for name, value in asdict(self.encoder).items() if name not in unimportant}
        return {
            "name": f"features of {self.images.name}",
            "version": VERSION,
            "weights": weights_hash(self.encoder),
            "encoder": settings,
            "data": fingerprint(self.images, dataset),
            "flips": self.flips,
            "dtype": self.dtype,
        } | {name: getattr(self, name) for name in ("resize", "keep_images", "crops") if getattr(self, name)}

    def store_path(self, key: dict[str, Any]) -> Path:
        """Folder of the store that belongs to a key."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        name = re.sub(r"[^\w.-]+", "_", self.images.name)
        return Path(self.root) / f"{name}-{self.encoder.image_size}px-{digest[:16]}"


def fingerprint(images: DataConfig, dataset: Dataset, kept: Sequence[str] = ()) -> dict[str, Any]:
    """What tells two training sets apart: settings, length, and content of the images and of the maps that are kept.

    Of a prepared store its checksums, which cover every pixel, and the selected rows; folders do not count, so that
    the data may move. Of collages names and lengths of the files. Of any data set the pixels of 32 images spread over
    it: a drawn scene that is drawn differently by another version of this package is another image.
    """
    settings = {name: value for name, value in asdict(images).items() if name not in _FOLDERS}
    probes = np.unique(np.linspace(0, len(dataset) - 1, min(PROBES, len(dataset))).astype(np.int64))
    found: dict[str, Any] = {
        "kind": type(images).__name__,
        "settings": json.loads(json.dumps(settings, default=str)),
        "images": len(dataset),
        "crc32c_of_probes": _crc(dataset.__getitems__(probes.tolist())["image"]) if len(probes) else 0,
    }
    if isinstance(dataset, Store):
        found |= {"source": dataset.index["source"], "prepared": dataset.index.get("settings")}
        found |= {"crc32c": dataset.index["fields"]["image"]["crc32c"], "crc32c_of_rows": _crc(dataset.rows)}
    elif source := getattr(dataset, "source", None):  # of what is made on the fly from files
        found["source"] = source
    for name in kept:
        found[name] = {"crc32c_of_probes": _crc(dataset.__getitems__(probes.tolist())[name]) if len(probes) else 0}
        if isinstance(dataset, Store) and name in dataset.index["fields"]:
            found[name]["crc32c"] = dataset.index["fields"][name]["crc32c"]
    return found


class _Rows:
    """Computes features from any row on. Batches begin at the same rows wherever the reading starts.

    The last bits of a feature depend on the batch it is computed in, so only equal batches give equal bytes.
    """

    def __init__(self, config: CachedFeatures, dataset: Dataset, path: Path):
        self.config, self.dataset, self.path = config, dataset, path
        self.ways = 2 if config.flips else 1
        self.total = len(dataset) * (1 + config.crops) * self.ways
        self.blocks = path.with_name(f".{path.name}.blocks")  # of rows that others computed, a file for each
        self.block = config.batch_size * max(1, BLOCK_BYTES // (config.batch_size * config.row_bytes))

    def block_file(self, start: int) -> Path:
        """Where the rows of a block are, until they are in the store."""
        return self.blocks / f"{start}.npz"

    def __call__(self, start: int) -> Iterator[Row]:
        self._check_disk((self.total - start) * self.config.row_bytes)
        compute, size = self.config.computation(), self.config.batch_size
        if self.total - start >= MEASURED and not self.blocks.exists():
            self._say_before(start, compute)
        held: tuple[int, RawBatch] = -1, {}
        for first in range(start // size * size, self.total, size):
            indices, block = np.arange(first, min(first + size, self.total)), first // self.block * self.block
            if held[0] != block and self.block_file(block).exists():
                with np.load(self.block_file(block), allow_pickle=False) as found:
                    held = block, dict(found)
            if held[0] == block:
                arrays = {name: values[first - block :][: len(indices)] for name, values in held[1].items()}
            else:
                arrays = self.arrays(indices, compute)
            for k, index in enumerate(indices):
                if index >= start:
                    yield {name: values[k] for name, values in arrays.items()}

    def arrays(self, indices: np.ndarray, compute: Callable[[Batch], dict[str, np.ndarray]]) -> RawBatch:
        """What is stored of these rows."""
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        batch = self._images(indices, device or torch.device("cpu"))
        arrays = compute(batch)
        if self.config.keep_images:
            pixels = (255 * batch["image"]).round().to(torch.uint8)
            arrays["image"] = pixels.permute(0, 2, 3, 1).cpu().numpy()
        return arrays

    def _images(self, indices: np.ndarray, device: torch.device) -> Batch:
        """The images of rows, and maps that are to be kept; mirrored where the row is a mirrored copy."""
        count = len(self.dataset)
        images, copies = indices % count, indices // count
        batch = to_batch(self.dataset.__getitems__(images.tolist()), device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            batch, again = (self.config.images.augment(batch) for _ in range(2))
        if not torch.equal(batch["image"], again["image"]):
            raise UserError(self.config._random)
        mirrored = torch.from_numpy(copies % self.ways == 1).to(device)
        names = ("image", *(name for name in self.config.kept if name in batch))
        for row, (image, crop) in enumerate(zip(images.tolist(), (copies // self.ways).tolist(), strict=True)):
            if crop:
                window = crop_window(image, crop)
                batch |= {name: _cropped(batch[name], row, window) for name in names}
        return {
            name: torch.where(mirrored.view(-1, *[1] * (batch[name].ndim - 1)), batch[name].flip(-1), batch[name])
            for name in names
        }

    def _say_before(self, start: int, compute: Callable[[Batch], dict[str, np.ndarray]]) -> None:
        """How much room and time what is left will take, from the second of two small batches."""
        indices = np.arange(start, start + TRIED)
        self.arrays(indices, compute)  # reads the network, too
        began = time.perf_counter()
        self.arrays(indices, compute)
        left, rate = self.total - start, TRIED / (time.perf_counter() - began)
        room = left * self.config.row_bytes
        size = f"{room / 1e9:,.1f} GB" if room >= 1e9 else f"{math.ceil(room / 1e6):,} MB"
        say(
            f"Features of {left:,} images of {self.config.name} are computed once: {size} in {self.path.parent}, about "
            f"{duration(left / rate)} at {rate:,.2g} images a second."
        )

    def _check_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise UserError(
                f"The features of {self.config.name} need {decimal(needed)} more in {self.path.parent}, where "
                f"{decimal(free)} are free; free some space or choose another root."
            )


def compute_block(config: CachedFeatures, start: int, stop: int) -> None:
    """Compute rows `start` to `stop` of a store into a file beside it, from which `CachedFeatures.open` takes them.

    The same bytes as without: batches begin at the same rows. Nothing is done where the file or the store is there.
    """
    dataset, compute = _opened(config)
    path = config.store_path(config.key(dataset))
    rows, size = _Rows(config, dataset, path), config.batch_size
    file = rows.block_file(start)
    if path.exists() or file.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rows._check_disk((stop - start) * config.row_bytes)
    made = [rows.arrays(np.arange(k, min(k + size, stop)), compute) for k in range(start, stop, size)]
    with replacing(file) as beside, beside.open("wb") as stream:
        np.savez(stream, **{name: np.concatenate([one[name] for one in made]) for name in made[0]})  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _opened(config: CachedFeatures) -> tuple[Dataset, Callable[[Batch], dict[str, np.ndarray]]]:
    """Images and network, for one block after another."""
    return config.images.open("train"), config.computation()


class OnDemand:
    """Rows of `CachedFeatures` as a data set: each batch is computed when it is read, and kept nowhere."""

    computes_features = True  # reading takes as long as the encoder

    def __init__(self, config: CachedFeatures, dataset: Dataset):
        self._rows, self._compute = _Rows(config, dataset, Path(config.root)), config.computation()

    def __len__(self) -> int:
        return self._rows.total

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        return self._rows.arrays(np.asarray(indices), self._compute)


def crop_window(image: int, crop: int) -> tuple[float, float, float, float]:
    """Left, top, width and height of a random crop of an image, as shares of its size."""
    key = scene_keys(seed=crop, split=0, indices=np.array([image]))
    area, aspect, across, down = uniform(key, "crop", 4)[0].tolist()
    area, aspect = 0.35 + 0.65 * area, math.exp(math.log(4 / 3) * (2 * aspect - 1))
    width, height = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
    return across * (1 - width), down * (1 - height), width, height


def _cropped(values: Tensor, row: int, window: tuple[float, float, float, float]) -> Tensor:
    """A batch one row of which shows a window of itself, at its own size; ids of maps are picked, not mixed."""
    left, top, width, height = window
    rows, columns = values.shape[-2:]
    x0, y0 = int(left * columns), int(top * rows)
    x1, y1 = max(x0 + 1, round((left + width) * columns)), max(y0 + 1, round((top + height) * rows))
    part = values[row : row + 1, ..., y0:y1, x0:x1]
    if values.is_floating_point():
        part = interpolate(part, (rows, columns), mode="bilinear", antialias=True)
    else:
        down, across = (
            torch.arange(n, device=values.device) * m // n for n, m in ((rows, y1 - y0), (columns, x1 - x0))
        )
        part = part[..., down[:, None], across]
    return torch.cat([values[:row], part, values[row + 1 :]])


def _crc(values: np.ndarray) -> int:
    return google_crc32c.value(np.ascontiguousarray(values).tobytes())
