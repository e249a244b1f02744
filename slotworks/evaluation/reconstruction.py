"""How well slots keep a picture: each image is taken apart, rendered from its slots, and compared with itself.

images  --method-->  slots  --render-->  pictures  --squared error, PSNR, SSIM, LPIPS, FID-->  record
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from slotworks.errors import check_extra
from slotworks.evaluation.masks import inspecting
from slotworks.evaluation.rendering import (
    Renderer,
    RenderingOptions,
    check_rendering,
    render,
    renderer_of,
    sampled_with,
    sampling_of,
)
from slotworks.evaluation.task import Job, Needs, Result, Summary, Task, batches, count_images, option, summarize
from slotworks.metrics.image import (
    FeatureMoments,
    Features,
    Perceptual,
    SsimConvention,
    frechet_distance,
    inception_network,
    lpips_network,
    psnr,
    ssim,
    sum_squared_error,
)
from slotworks.metrics.metric import Metric
from slotworks.types import DataConfig, Dataset, Method, VideoMethod

NEEDS = Needs(fields=("image",), videos=True)


@dataclass(frozen=True)
class ReconstructionOptions(RenderingOptions):
    """Options of the task, see `evaluate_reconstruction`."""

    ssim_convention: SsimConvention = option("scikit-image", "how SSIM treats the border")
    perceptual: bool = option(False, "also LPIPS and FID (extra `perceptual`)")

    def __post_init__(self) -> None:
        if self.perceptual:
            check_extra("perceptual", "torchmetrics.image.fid", "torch_fidelity")


def evaluate_reconstruction(
    method: Method,
    dataset: Dataset,
    *,
    num_images: int | None = None,
    steps: int | None = None,
    cfg_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    renderer: Renderer | None = None,
    ssim_convention: SsimConvention = "scikit-image",
    perceptual: Perceptual | None = None,
    perceptual_name: str = "given network",
    inception: Features | None = None,
    inception_name: str = "given network",
) -> Result:
    """Reconstruct the first images of a data set from their slots and measure what was lost.

    Pictures are clamped to [0, 1]. A method that renders at another size than it looks at is compared with the images
    resized to what it renders. The starting noise of a generator is drawn anew from `seed` for every batch, as GLASS's
    script does, which takes the first 512 images with 250 steps, scale 1.3, seed 42 and batches of 64.

    Args:
        method: on any device; left in the modes it had.
        dataset: with `image`, or `video`, whose frames are measured one by one; a method of videos sees them whole.
        num_images: how many images (or videos), from the first on; all by default.
        steps: of a sampler; a direct decoder takes none. By default the method's own (`sampling`), else 250.
        cfg_scale: of classifier-free guidance; 1 is without. By default the method's own, else 1.3.
        seed: of the initial slots and of the starting noise.
        batch_size: images per forward pass; changes speed, memory, the random slots and the noise.
        renderer: "sample" or "decode" for a method that can do both; by default it samples.
        ssim_convention: see `slotworks.metrics.image.ssim`.
        perceptual: adds `lpips`, for example `slotworks.metrics.image.lpips_network()`.
        perceptual_name: what the record says about it, such as "VGG".
        inception: adds `fid`, for example `slotworks.metrics.image.inception_network()`; true and rendered images are
            rounded to 8 bits for it.
        inception_name: what the record says about it.

    Returns:
        `mse_sum` (squared error summed over an image), `psnr` in dB, `ssim` and, where asked for, `lpips` and `fid`
        (without standard error, and one for all images). Equal images have an infinite PSNR, and so has then its mean;
        a record, which is JSON, holds null for it. For videos also `flicker`: the same sum
        of the error of what changes from one frame to the next, which is 0 for a reconstruction that is wrong in the
        same way in all frames.

    Raises:
        UserError: if the data set is empty or holds no images, or the method renders no pictures, or has no steps or
            guidance and is given some.
    """
    how = renderer_of(method, renderer)
    if how == "sample":
        steps, cfg_scale = sampling_of(method, steps, cfg_scale, (250, 1.3))
    count = count_images(dataset, num_images)
    found: dict[str, list[Tensor]] = {}
    real, fake = FeatureMoments(), FeatureMoments()
    size, own = (0, 0), (0, 0)
    with inspecting(method, seed=seed) as device:
        for _, batch in batches(dataset, count, batch_size, device, NEEDS):
            key = "video" if "video" in batch else "image"
            output = method.encode_batch(batch) if isinstance(method, VideoMethod) else None
            true = batch[key].flatten(0, -4)  # frames of a video one by one
            output = method.encode(true) if output is None else output
            options = {"renderer": how, "steps": steps, "cfg_scale": cfg_scale, "seed": seed}
            pred = render(method, output.slots, features=output.features, **options).image.flatten(0, -4)
            own, size = (true.shape[-2], true.shape[-1]), (pred.shape[-2], pred.shape[-1])
            if own != size:
                true = interpolate(true, size, mode="bilinear", antialias=True, align_corners=False)
            scores = {"mse_sum": sum_squared_error(pred, true), "psnr": psnr(pred, true)}
            scores["ssim"] = ssim(pred, true, convention=ssim_convention)
            if perceptual is not None:
                scores["lpips"] = perceptual(pred, true).double()
            if inception is not None:
                real.update(inception(_eight_bits(true)))
                fake.update(inception(_eight_bits(pred)))
            if key == "video" and batch[key].shape[1] > 1:
                changes = [x.unflatten(0, batch[key].shape[:2]).double().diff(dim=1) for x in (pred, true)]
                scores["flicker"] = (changes[0] - changes[1]).square().flatten(0, 1).flatten(1).sum(1)
            for name, values in scores.items():
                found.setdefault(name, []).append(values.cpu())
    per_image = {name: torch.cat(values) for name, values in found.items()}
    metrics = {name: summarize(values, torch.ones_like(values)) for name, values in per_image.items()}
    pictures = len(per_image["psnr"])
    rules = [
        f"reconstruction: {size[0]} x {size[1]} pixels, values in [0, 1], clamped",
        "MSE summed over channels and pixels",
        "PSNR and SSIM of each image",
        f"SSIM as {ssim_convention}, Gaussian window 11 x 11, sigma 1.5, border "
        + ("left out" if ssim_convention == "scikit-image" else "reflected"),
    ]
    if own != size:
        rules[0] += f" (images of {own[0]} x {own[1]} resized, bilinear with antialiasing)"
    if "flicker" in metrics:
        rules.append("flicker: squared error of the change from frame to frame, summed as MSE")
    if perceptual is not None:
        rules.append(f"LPIPS: {perceptual_name}")
    if inception is not None:
        distance = frechet_distance(real, fake) if pictures > 1 else math.nan
        metrics["fid"] = Summary(distance, math.nan, pictures)
        rules.append(f"FID: {inception_name}, {pictures} images in 8 bits, unbiased covariances")
    if how == "sample":
        rules.append(f"{sampled_with(steps, cfg_scale)}, noise from seed {seed} in every batch of {batch_size}")
    else:
        rules.append("rendered by the direct decoder")
    return Result("reconstruction", "; ".join([*rules, "mean over images"]), count, seed, metrics, per_image)


def _eight_bits(image: Tensor) -> Tensor:
    return (image * 255).round() / 255


def _score(job: Job, source: DataConfig, dataset: Dataset) -> Sequence[Result]:
    how: dict[str, Any] = job.how
    if how.pop("perceptual"):
        device = next(job.method.parameters()).device
        how |= {"perceptual": lpips_network("vgg", device), "perceptual_name": "VGG, torchmetrics"}
        how |= {"inception": inception_network(device), "inception_name": "Inception v3, torch-fidelity"}
    return [evaluate_reconstruction(job.method, dataset, **how)]


TASK = Task(
    name="reconstruction",
    about="reconstruction of the images from their slots",
    score=_score,
    metrics=(
        Metric(
            name="mse_sum",
            label="summed squared error",
            unit="square",
            better="lower",
            about="Squared difference of both pictures, summed over their pixels.",
        ),
        Metric(
            name="psnr", label="PSNR", unit="dB", about="How near the rendered picture is to the true one, in decibels."
        ),
        Metric(
            name="ssim",
            label="SSIM",
            unit="index",
            about="How alike both pictures are in their structure; 1 is the same.",
        ),
        Metric(
            name="flicker",
            unit="square",
            better="lower",
            about="Squared error of the change from frame to frame.",
        ),
        Metric(
            name="lpips",
            label="LPIPS",
            unit="distance",
            better="lower",
            about="How differently a network sees both pictures; 0 is the same.",
        ),
        Metric(
            name="fid",
            label="FID",
            unit="distance",
            better="lower",
            about="How far the rendered pictures are from the true ones as a set; 0 is the same.",
        ),
    ),
    needs=NEEDS,
    options=ReconstructionOptions,
    check=check_rendering,
)
