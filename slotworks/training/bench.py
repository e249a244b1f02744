"""Time and memory of a training step, images a second to slots, and time to render them, of one recipe here."""

import math
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median

import torch

from slotworks.training.devices import open_fabric
from slotworks.training.loop import set_up
from slotworks.training.numerics import settle_run
from slotworks.training.run import Run
from slotworks.types import Decodes, Method, RawBatch, Samples, UserError, VideoMethod

RENDERED = 100  # images or videos, as in table 4 of SlotDiffusion
CAPTION_BYTES = 64  # of each image, where a method reads them
VIDEO_FRAMES = 24  # of a video that is rendered: MOVi's


def measure(
    run: Run,
    *,
    steps: int = 5,
    load: Callable[[str], Method] | None = None,
    raw: RawBatch | None = None,
    training_only: bool = False,
    device: str | None = None,
) -> dict:
    """Train on noise of the recipe's image and batch size, then encode, decode and render it; no data set is opened.

    A method on a frozen encoder trains on features, as it does with the cache.

    Memory is the peak of the whole process on a CPU, of the tensors on a GPU. Call it in a fresh process.

    Args:
        run: the recipe.
        steps: timed steps, after two that are not; times are medians.
        load: gives a method that builds on an earlier run that run's method; fresh weights take as long as trained
            ones. None: such a method is measured as far as it goes.
        raw: a batch of the data, of one micro-batch, in the place of noise.
        training_only: leave out inference and rendering, whose numbers are then NaN.
        device: such as cpu or cuda:1; by default the first GPU if there is one.

    Returns:
        `step_ms`, `train_images_per_second`, `infer_images_per_second` (NaN without the encoder's weights),
        `render_s`, seconds for 100 images, or for 100 videos of 24 frames, from their slots with the method's own
        number of sampling steps (NaN for a method that renders no pictures), `train_mib` and `peak_mib`, the peak
        memory until the end of training, and of all, `parameters`, `trained`, how many of them training changes,
        `precision` and `channels_last` as they were settled, `device`, `threads`.
    """
    fabric = open_fabric(run, device=device)
    run = settle_run(run, fabric)
    method, model, optimizer = set_up(run, fabric, load)
    size = run.batch_size // run.accumulate
    raw = noise(run, size, video=isinstance(method, VideoMethod)) if raw is None else raw
    frames = raw["video"].shape[1] if "video" in raw else 1

    def step() -> None:
        for _ in range(run.accumulate):
            fabric.backward(torch.stack(list(model(raw, 0).values())).sum())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def infer() -> None:
        shape = (size, frames) if "video" in raw else (size,)
        out = method.encode(torch.zeros(*shape, 3, *run.data.size, device=fabric.device))
        if isinstance(method, Decodes):
            method.decode(*out.decoder_inputs)

    step_seconds = _seconds(step, steps, fabric.device)
    train_mib = _peak_mib(fabric.device)
    method.eval()
    infer_seconds = render_seconds = math.nan
    if type(method).encode is not Method.encode and not training_only:  # an autoencoder or the like finds no slots
        with suppress(UserError):  # the weights of the frozen encoder are not here
            infer_seconds = _seconds(infer, steps, fabric.device)
        render_seconds = _render_seconds(method, run, frames if "video" in raw else None, size, fabric.device)
    per_image = render_seconds / size
    per_sample = per_image * (VIDEO_FRAMES / frames if "video" in raw else 1)
    return {
        "step_ms": 1000 * step_seconds,
        "train_images_per_second": run.batch_size / step_seconds,
        "infer_images_per_second": size / infer_seconds,
        "render_s": RENDERED * per_sample,
        "train_mib": train_mib,
        "peak_mib": _peak_mib(fabric.device),
        "parameters": sum(p.numel() for p in method.parameters()),
        "trained": sum(p.numel() for p in method.parameters() if p.requires_grad),
        "precision": run.precision,
        "channels_last": run.channels_last,
        "device": torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]


def batch_shapes(run: Run, size: int, *, video: bool) -> Shapes:
    """What a batch of a recipe's data holds, as its method sees it in training; no data set is opened.

    Fields that only metrics read are left out.

    Args:
        run: the recipe.
        size: images or videos in the batch.
        video: whether the method takes videos.
    """
    data, config, height, width = run.data, run.method, *run.data.size
    if video:
        frames = getattr(data, "clip_length", None) or getattr(data, "num_frames", VIDEO_FRAMES)
        channels = {"depth": ()}
        return {
            "video": ((size, frames, 3, height, width), torch.float32),
            "boxes": ((size, frames, 1, 4), torch.float32),
            **{
                name: ((size, frames, *channels.get(name, (2,)), height, width), torch.float32)
                for name in getattr(data, "extras", ())
            },
        }
    shapes: Shapes = {"image": ((size, 3, height, width), torch.float32)}
    if categories := getattr(config, "categories", ()):  # set prediction
        shapes["objects"] = ((size, data.max_objects or 1, 3 + sum(categories) + 1), torch.float32)
    encoder = getattr(config, "encoder", None)
    if encoder is not None and hasattr(encoder, "feature_dim"):
        rows, columns = encoder.grid
        shapes["features"] = ((size, rows * columns, encoder.feature_dim), torch.float32)
        if not (hasattr(config, "autoencoder") or encoder.trained_blocks):
            del shapes["image"]
    if latents := getattr(data, "latent_shape", None):  # images went through the VAE before
        shapes["latents"] = ((size, *latents), torch.float32)
    if hasattr(config, "diffusion"):  # masks guide the slots, or say where they start
        shapes.setdefault("image", ((size, 3, height, width), torch.float32))
        images = getattr(data, "images", data)
        side = getattr(images, "mask_size", None) or height
        shapes["mask"] = ((size, side, side), torch.int64)
    if getattr(config, "class_names", ()):  # a segmenter
        side = getattr(data, "mask_size", None) or height
        shapes["class_mask"] = ((size, side, side), torch.uint8)
    if getattr(config, "reads_captions", False):
        shapes["caption"] = ((size, CAPTION_BYTES), torch.uint8)
    if patch := getattr(data, "superpixels", 0):
        shapes["superpixels"] = ((size, height // patch, width // patch), torch.int32)
    return shapes


def noise(run: Run, size: int, *, video: bool) -> RawBatch:
    """A batch of noise as a data set would store it."""
    raw: RawBatch = {}
    for name, (shape, dtype) in batch_shapes(run, size, video=video).items():
        if name in ("image", "video"):
            pixels = torch.randint(256, (*shape[:-3], *shape[-2:], 3), dtype=torch.uint8)
            raw[name] = pixels.numpy()
        elif name == "boxes":
            raw[name] = torch.tensor([0.2, 0.2, 0.6, 0.6]).expand(shape).numpy()
        elif name == "features":
            raw[name] = torch.randn(shape).numpy()
        elif name == "objects":
            raw[name] = torch.rand(shape).numpy()
        else:
            raw[name] = torch.zeros(shape, dtype=dtype).numpy()
    return raw


@torch.no_grad()
def _render_seconds(method: Method, run: Run, frames: int | None, size: int, device: torch.device) -> float:
    """Seconds to render one batch; NaN if the method renders no pictures, or not without what is missing here."""
    shape = (size,) if frames is None else (size, frames)
    try:
        out = method.encode(torch.zeros(*shape, 3, *run.data.size, device=device))
        if isinstance(method, Samples):
            renderer = method
            return _seconds(lambda: renderer.sample(out.slots, **_sampling(method)), 1, device, warm=1)
        if isinstance(method, Decodes):
            decodes = method
            if decodes.decode(*out.decoder_inputs).recon.shape[-3] == 3:
                return _seconds(lambda: decodes.decode(*out.decoder_inputs), 3, device)
    except UserError:
        pass
    return math.nan


def _sampling(method: Method) -> dict:
    return {**getattr(method, "sampling", {}), "generator": None}


def _seconds(job: Callable[[], object], repeats: int, device: torch.device, *, warm: int = 2) -> float:
    times = []
    for _ in range(warm + repeats):
        start = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return median(times[warm:])


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, Linux KiB
