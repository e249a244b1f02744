"""How close pictures are: squared error, PSNR, SSIM, LPIPS for each image; FID for a set.

Pictures are floats in [0, 1] and are taken as they are: whoever measures reconstructions clamps them first. Others,
such as 8-bit ones, are refused and not converted. Everything is computed in float64, per image; only `FeatureMoments`
adds up over batches.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from slotworks.errors import needs_extra
from slotworks.metrics.checks import check_choice, check_floats, check_pictures

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Two batches of pictures in [0, 1] `b 3 h w` to a distance for each pair, `b`."""

Features = Callable[[Tensor], Tensor]
"""A batch of pictures in [0, 1] `b 3 h w` to features `b f`."""

SsimConvention = Literal["scikit-image", "torchmetrics"]

WINDOW = 11
"""Side of the Gaussian window of SSIM in pixels."""


def sum_squared_error(pred: Float[Tensor, "b c h w"], true: Float[Tensor, "..."]) -> Float64[Tensor, " b"]:
    """Squared error of each image, summed over channels and pixels: the MSE of SLATE, STEVE and SlotDiffusion.

    It grows with the number of pixels, so the size of the images belongs beside it.

    Args:
        pred: in [0, 1].
        true: in the shape of `pred`.

    Raises:
        ValueError: if the shapes differ, or either holds no pictures, values beyond [0, 1], NaN or integers.
    """
    check_pictures(pred, true)
    pred, true = pred.double(), true.double()
    return (pred - true).square().flatten(1).sum(1)


def psnr(pred: Float[Tensor, "b c h w"], true: Float[Tensor, "..."], *, pooled: bool = False) -> Float64[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB, `-10 log10(mean squared error)`; infinite for equal images.

    Args:
        pred: in [0, 1].
        true: in the shape of `pred`.
        pooled: one squared error over the whole batch, as torchmetrics does by default, at every image. The mean of
            the values of single images is never lower.

    Raises:
        ValueError: as `sum_squared_error`.
    """
    error = sum_squared_error(pred, true) / math.prod(pred.shape[1:])
    return -10 * (error.mean().expand(len(pred)) if pooled else error).log10()


def ssim(
    pred: Float[Tensor, "b c h w"], true: Float[Tensor, "..."], *, convention: SsimConvention = "scikit-image"
) -> Float64[Tensor, " b"]:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 x 11, sigma 1.5, K1 0.01, K2 0.03, mean over
    channels.

    Args:
        pred: in [0, 1].
        true: in the shape of `pred`.
        convention: "scikit-image" averages over the pixels whose whole window lies in the image, which leaves a border
            of 5 pixels out (`structural_similarity(gaussian_weights=True, use_sample_covariance=False)`, used by
            SlotDiffusion and GLASS); "torchmetrics" reflects the image at its border and averages over all pixels. They
            differ in the second or third digit.

    Raises:
        ValueError: as `sum_squared_error`, and if the images are smaller than the window.
    """
    check_pictures(pred, true)
    check_choice(convention, "convention", SsimConvention)
    pred, true = pred.double(), true.double()
    channels, height, width = pred.shape[1:]
    if min(height, width) < WINDOW:
        raise ValueError(f"The images have {height} x {width} pixels; the window of SSIM needs {WINDOW} x {WINDOW}.")
    if convention == "torchmetrics":
        pred, true = (F.pad(x, (WINDOW // 2,) * 4, mode="reflect") for x in (pred, true))
    kernel = torch.exp(-0.5 * ((torch.arange(WINDOW, device=pred.device).double() - WINDOW // 2) / 1.5) ** 2)
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1)

    def blurred(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)

    mean_p, mean_t = blurred(pred), blurred(true)
    var_p = blurred(pred**2) - mean_p**2
    var_t = blurred(true**2) - mean_t**2
    cov = blurred(pred * true) - mean_p * mean_t
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_p * mean_t + c1) * (2 * cov + c2)
    similarity = similarity / ((mean_p**2 + mean_t**2 + c1) * (var_p + var_t + c2))
    return similarity.flatten(1).mean(1)


class FeatureMoments:
    """Mean and covariance of features, added up batch by batch in float64; how they are split does not matter.

    >>> moments = FeatureMoments()
    >>> for batch in torch.tensor([[0.0], [2.0], [4.0]]).split(2):
    ...     moments.update(batch)
    >>> moments.count, moments.mean.item(), moments.covariance.item()
    (3, 2.0, 4.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None  # sum of outer products around the mean

    def update(self, features: Float[Tensor, "b f"]) -> None:
        """Add a batch; merges the moments of two sets as Chan et al. 1979 do. An empty batch changes nothing.

        Raises:
            ValueError: if they are no finite features, or were of another width before.
        """
        check_floats(features, "features", "images channels")
        if not len(features):
            return
        features = features.detach().double().cpu()
        mean = features.mean(0)
        scatter = (features - mean).T @ (features - mean)
        if self._mean is None or self._scatter is None:
            self.count, self._mean, self._scatter = len(features), mean, scatter
            return
        if len(mean) != len(self._mean):
            raise ValueError(
                f"Features have {len(mean)} channels, those before had {len(self._mean)}; use one network."
            )
        total, shift = self.count + len(features), mean - self._mean
        self._mean = self._mean + shift * len(features) / total
        self._scatter = self._scatter + scatter + shift.outer(shift) * self.count * len(features) / total
        self.count = total

    @property
    def mean(self) -> Float64[Tensor, " f"]:
        """Mean of all features so far.

        Raises:
            ValueError: before the first `update`.
        """
        if self._mean is None:
            raise ValueError("There are no features yet; call update first.")
        return self._mean

    @property
    def covariance(self) -> Float64[Tensor, "f f"]:
        """Unbiased covariance: divided by the count minus one.

        Raises:
            ValueError: for fewer than two features.
        """
        if self._scatter is None or self.count < 2:
            raise ValueError(f"A covariance needs two feature vectors or more, there are {self.count}.")
        return self._scatter / (self.count - 1)


def frechet_distance(real: FeatureMoments, fake: FeatureMoments) -> float:
    """Fréchet distance of two Gaussians, `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`; FID with Inception's features.

    The last trace is the sum of the singular values of `S1^(1/2) S2^(1/2)`, which stays exact where there are fewer
    images than channels and the covariances are singular. FID is then biased upwards: compare only equal numbers of
    images.

    Raises:
        ValueError: if a set has fewer than two features, or the widths differ.
    """
    if len(real.mean) != len(fake.mean):
        raise ValueError(f"Features have {len(real.mean)} and {len(fake.mean)} channels; use one network for both.")
    s1, s2 = real.covariance, fake.covariance
    shared = torch.linalg.svdvals(_root(s1) @ _root(s2)).sum()
    distance = (real.mean - fake.mean).square().sum() + s1.trace() + s2.trace() - 2 * shared
    return max(float(distance), 0.0)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def lpips_network(net: Literal["vgg", "alex", "squeeze"] = "vgg", device: torch.device | str = "cpu") -> Perceptual:
    """LPIPS (Zhang et al. 2018) of torchmetrics, weights fetched when first used; needs the extra `perceptual`.

    Args:
        net: SlotDiffusion measures with `vgg`; `alex` is the default of the authors' package.
        device: where to compute.

    Raises:
        UserError: if the extra is missing.
    """
    with needs_extra("perceptual"):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        network = LearnedPerceptualImagePatchSimilarity(net_type=net).net.to(device)

    def distance(pred: Tensor, true: Tensor) -> Tensor:
        with torch.no_grad():
            return network(pred.float(), true.float(), normalize=True).flatten(1).mean(1)

    return distance


def inception_network(device: torch.device | str = "cpu") -> Features:
    """The 2048 pooled features of torch-fidelity's Inception v3, weights fetched when first used; extra `perceptual`.

    Pictures are rounded to 8 bits, as if they had been saved, and resized by the network itself to 299 x 299 pixels.

    Raises:
        UserError: if the extra is missing.
    """
    with needs_extra("perceptual"):
        from torchmetrics.image.fid import FrechetInceptionDistance

        network: nn.Module = FrechetInceptionDistance(feature=2048).inception.to(device)

    def features(image: Tensor) -> Tensor:
        with torch.no_grad():
            return network((image.clamp(0, 1) * 255).round().byte())

    return features
