"""Picture metrics against golden values of published code, torchmetrics and closed forms."""

import math

import pytest
import torch
import torchmetrics
from golden_cases import cases

from slotworks.errors import UserError
from slotworks.metrics.image import (
    FeatureMoments,
    frechet_distance,
    inception_network,
    lpips_network,
    psnr,
    ssim,
    sum_squared_error,
)

PAIRS = {
    case.id: [torch.from_numpy(case.arrays[f"{kind}_u8"]) / 255 for kind in ("pred", "true")]
    for case in cases("image_quality")
}
VALUES = {case.id: case.values for case in cases("image_quality")}


def number(value) -> float:
    return math.inf if value == "inf" else value


@pytest.mark.parametrize("case", PAIRS)
def test_golden(case):
    pred, true = PAIRS[case]
    for key, found in {
        "MSE_sum/slotdiffusion_mse_metric": sum_squared_error(pred, true),
        "MSE_sum/clevrtex_eval": sum_squared_error(pred, true),
        "MSE_mean/torchmetrics": sum_squared_error(pred, true) / pred[0].numel(),
        "PSNR/torchmetrics_per_image": psnr(pred, true),
        "PSNR/slotdiffusion_psnr_metric": psnr(pred, true),
        "PSNR/torchmetrics_global": psnr(pred, true, pooled=True),
        "SSIM/slotdiffusion_ssim_metric": ssim(pred, true),
        "SSIM/torchmetrics": ssim(pred, true, convention="torchmetrics"),
    }.items():
        expected = number(VALUES[case][key])
        assert found.dtype == torch.float64
        assert found.shape == (len(pred),)
        tolerance = 5e-6 * max(1, abs(expected)) if math.isfinite(expected) else 0
        assert found.mean().item() == pytest.approx(expected, abs=tolerance), key


def test_there_are_golden_pictures():
    assert set(PAIRS) == {"iq_blur", "iq_same", "iq_rect"}


def test_ssim_of_single_images_is_that_of_torchmetrics():
    pred, true = PAIRS["iq_rect"]
    function = torchmetrics.functional.image.structural_similarity_index_measure
    expected = function(pred.double(), true.double(), data_range=1.0, reduction="none")
    assert expected.std() > 1e-3
    torch.testing.assert_close(ssim(pred, true, convention="torchmetrics"), expected.double(), atol=1e-7, rtol=0)


def test_a_constant_shift():
    true = torch.rand(3, 3, 16, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 2
    shifted = true + 0.25
    torch.testing.assert_close(sum_squared_error(shifted, true), torch.full((3,), 3 * 16 * 20 / 16).double())
    torch.testing.assert_close(psnr(shifted, true), torch.full((3,), -20 * math.log10(0.25)).double())


@pytest.mark.parametrize("convention", ["scikit-image", "torchmetrics"])
def test_ssim_in_closed_form(convention):
    """Flat images have no structure: only the term of the means is left. Equal images give one."""
    a, b = (torch.full((1, 3, 11, 13), value, dtype=torch.float64) for value in (0.3, 0.7))
    expected = (2 * 0.3 * 0.7 + 1e-4) / (0.3**2 + 0.7**2 + 1e-4)
    assert ssim(a, b, convention=convention).item() == pytest.approx(expected, abs=1e-12)
    image = torch.rand(2, 3, 20, 11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(image, image, convention=convention), torch.ones(2).double())


def test_the_border_is_left_out_in_one_convention():
    """The middle pixel of 11 x 11 sees every pixel; a change in the corner is weighted by the corner of the window."""
    true = torch.rand(1, 1, 11, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pred = true.clone()
    pred[..., 0, 0] += 0.5
    assert 1 - 1e-4 < ssim(pred, true).item() < 1
    assert ssim(pred, true, convention="torchmetrics").item() < 1 - 1e-3


def test_images_that_cannot_be_compared():
    image = torch.zeros(1, 3, 16, 16)
    for metric in (sum_squared_error, psnr, ssim):
        with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\) and true float32 of shape \(1, 3, 16, 12\)"):
            metric(image, image[..., :12])
    with pytest.raises(ValueError, match="The images have 10 x 16 pixels; the window of SSIM needs 11 x 11"):
        ssim(image[:, :, :10], image[:, :, :10])


def moments(features: torch.Tensor, batch_size: int = 1000) -> FeatureMoments:
    found = FeatureMoments()
    for batch in features.split(batch_size):
        found.update(batch)
    return found


@pytest.mark.parametrize("case", cases("fid"), ids=lambda case: case.id)
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_frechet_distance_is_golden(case, batch_size):
    real, fake = (moments(torch.from_numpy(case.arrays[name]), batch_size) for name in ("real", "fake"))
    assert frechet_distance(real, fake) == pytest.approx(case.expected["FID"], abs=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(case.expected["FID"], abs=1e-9)


def test_frechet_distance_in_closed_form():
    """Shifting adds the squared shift; scaling by s around the mean adds (s - 1)^2 tr(S). Also where S is singular."""
    features = torch.randn(6, 20, generator=torch.Generator().manual_seed(0)).double()
    real = moments(features)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(real, moments(features + 0.5)) == pytest.approx(20 * 0.25, abs=1e-10)
    scaled = moments(real.mean + 3 * (features - real.mean))
    assert frechet_distance(real, scaled) == pytest.approx(4 * real.covariance.trace().item(), abs=1e-9)


def test_moments_are_those_of_all_features_and_survive_a_large_mean():
    features = 1e6 + torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    found = moments(features, 8)
    assert found.count == 50
    torch.testing.assert_close(found.mean, features.mean(0), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.covariance, features.T.cov(), atol=1e-8, rtol=0)


def test_features_that_do_not_fit():
    one, two = moments(torch.zeros(1, 4)), moments(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="needs two feature vectors or more, there are 1"):
        frechet_distance(one, one)
    with pytest.raises(ValueError, match="Features have 4 and 5 channels"):
        frechet_distance(one, two)
    with pytest.raises(ValueError, match="Features have 4 channels, those before had 5"):
        two.update(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="no features yet"):
        _ = FeatureMoments().mean


@pytest.mark.parametrize(
    ("make", "module", "switch"),
    [
        (lpips_network, "torchmetrics.image.lpip", "_TORCHVISION_AVAILABLE"),
        (inception_network, "torchmetrics.image.fid", "_TORCH_FIDELITY_AVAILABLE"),
    ],
)
def test_networks_that_are_not_installed(make, module, switch, monkeypatch):
    monkeypatch.setattr(f"{module}.{switch}", False)
    with pytest.raises(UserError, match=r"pip install 'slotworks\[perceptual\]'"):
        make()


def test_the_networks_of_torchmetrics_are_given_what_they_take(monkeypatch):
    """Stand-ins for the networks, whose weights have to be downloaded: LPIPS gets [0, 1], Inception 8 bits."""
    seen = {}

    class Lpips:
        def __init__(self, net_type):
            self.net, seen["net"] = self, net_type

        def to(self, device):
            return self

        def __call__(self, pred, true, normalize):
            seen["normalize"] = normalize
            return (pred - true).abs().mean((1, 2, 3), keepdim=True)

    class Fid(Lpips):
        def __init__(self, feature):
            self.inception, seen["feature"] = self, feature

        def __call__(self, image):
            seen["dtype"] = image.dtype
            return image.flatten(1)

    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", Lpips)
    monkeypatch.setattr("torchmetrics.image.fid.FrechetInceptionDistance", Fid)
    image = torch.tensor([0.0, 0.5, 1.2]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    torch.testing.assert_close(lpips_network()(image, image.flip(0)), torch.tensor([1.2, 0.0, 1.2]))
    assert inception_network()(image)[:, 0].tolist() == [0, 128, 255]
    assert seen == {"net": "vgg", "normalize": True, "feature": 2048, "dtype": torch.uint8}
