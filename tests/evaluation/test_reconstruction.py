"""Reconstruction with methods whose pictures are known."""

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from slotworks.evaluation.reconstruction import evaluate_reconstruction
from slotworks.evaluation.records import KEYS, write_eval
from slotworks.evaluation.rendering import render
from slotworks.methods import SAViConfig
from slotworks.metrics.image import FeatureMoments, frechet_distance, psnr, ssim
from slotworks.types import DecoderOutput, Method, SlotOutput, UserError, VideoMethod


class Pictures:
    """Smooth random pictures of 16 x 20 pixels."""

    def __init__(self, count: int = 5, *, key: str = "image", video: bool = False):
        noise = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        smooth = interpolate(noise, (16, 20), mode="bilinear").movedim(1, -1)
        self.image = (255 * smooth).byte().numpy()
        self.key, self.video = key, video

    def __len__(self) -> int:
        return len(self.image) // (2 if self.video else 1)

    def __getitems__(self, indices):
        image = self.image.reshape(-1, 2, 16, 20, 3) if self.video else self.image
        return {self.key: image[np.array(list(indices))]}

    @property
    def float(self) -> torch.Tensor:
        return torch.from_numpy(self.image).movedim(-1, 1).float() / 255


class Darker(Method):
    """Renders the picture darker by a tenth; values below zero are for the evaluation to clamp."""

    def __init__(self, shift: float = 0.1, *, channels: int = 3):
        super().__init__()
        self.shift, self.channels = shift, channels

    def encode(self, image):
        assert not torch.is_grad_enabled()
        return SlotOutput(image.flatten(1)[:, None], torch.ones(len(image), 1, 4))

    def decode(self, slots):
        image = slots[:, 0].unflatten(-1, (3, 16, 20)) - self.shift
        recon = image.repeat(1, self.channels // 3, 1, 1)
        return DecoderOutput(recon, torch.ones(len(slots), 1, 16, 20))


class Small(Darker):
    """Generates half as large, with noise."""

    def sample(self, slots, *, steps, cfg_scale, generator):
        image = avg_pool2d(slots[:, 0].unflatten(-1, (3, 16, 20)), 1)
        image = interpolate(image, (12, 14), mode="bilinear", antialias=True, align_corners=False)
        return image + self.shift * torch.randn(image.shape, generator=generator) * steps * cfg_scale


def test_scores_and_their_standard_errors():
    data = Pictures()
    result = evaluate_reconstruction(Darker(), data, batch_size=2)
    pred, true = (data.float - 0.1).clamp(0, 1), data.float
    expected = {"mse_sum": (pred - true).double().square().sum((1, 2, 3)), "psnr": psnr(pred, true)}
    expected["ssim"] = ssim(pred, true)
    assert list(result.metrics) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(result.per_image[name], values, atol=1e-6, rtol=1e-6)
        summary = result.metrics[name]
        assert summary.mean == pytest.approx(values.mean().item(), rel=1e-6)
        assert summary.sem == pytest.approx(values.std().item() / math.sqrt(5), rel=1e-4)
        assert summary.n == 5
    assert result.metrics["mse_sum"].mean < 3 * 16 * 20 * 0.01  # clamped somewhere
    other = evaluate_reconstruction(Darker(), data, batch_size=5, ssim_convention="torchmetrics")
    assert torch.equal(other.per_image["psnr"], result.per_image["psnr"])
    torch.testing.assert_close(other.per_image["ssim"], ssim(pred, true, convention="torchmetrics"))
    assert "SSIM as torchmetrics" in other.rules


def test_equal_pictures(tmp_path):
    result = evaluate_reconstruction(Darker(0.0), Pictures())
    assert (result.metrics["mse_sum"].mean, result.metrics["psnr"].mean) == (0, math.inf)
    assert result.metrics["ssim"].mean == pytest.approx(1, abs=1e-12)
    record = result.record(data="drawn", split="test", checkpoint="none")
    assert set(record) == set(KEYS)
    assert '"mean": null' in write_eval(tmp_path, "reconstruction", record).read_text()


def test_injected_networks_and_fid_over_batches():
    data = Pictures()

    def features(image):
        assert torch.equal(image, (image * 255).round() / 255)
        return image.double().mean((2, 3))

    def distance(pred, true):
        return (pred - true).abs().amax((1, 2, 3))

    options = {"perceptual": distance, "perceptual_name": "largest error", "inception": features}
    result = evaluate_reconstruction(Darker(), data, batch_size=2, **options)
    assert result.metrics["lpips"].mean == pytest.approx(0.1, abs=1e-6)
    real, fake = FeatureMoments(), FeatureMoments()
    real.update(features(data.float))
    fake.update(features(((data.float - 0.1).clamp(0, 1) * 255).round() / 255))
    fid = result.metrics["fid"]
    assert fid.mean == pytest.approx(frechet_distance(real, fake), abs=1e-9)
    assert fid.mean > 0.01
    assert math.isnan(fid.sem)
    assert fid.n == 5
    assert "fid" not in result.per_image
    assert "LPIPS: largest error" in result.rules
    assert "FID: given network, 5 images in 8 bits, unbiased covariances" in result.rules
    assert math.isnan(evaluate_reconstruction(Darker(), data, num_images=1, **options).metrics["fid"].mean)


def test_a_generator_is_measured_at_its_own_size():
    data, clean = Pictures(), {"steps": 0, "cfg_scale": 1.0}
    result = evaluate_reconstruction(Small(), data, **clean)
    assert result.metrics["psnr"].mean > 100  # the truth was resized in the same way
    assert result.rules.startswith(
        "reconstruction: 12 x 14 pixels, values in [0, 1], clamped (images of 16 x 20 resized, bilinear with "
        "antialiasing); MSE summed"
    )
    assert "sampled with 0 steps, guidance 1, noise from seed 0 in every batch of 64" in result.rules
    noisy = [evaluate_reconstruction(Small(), data, steps=1, cfg_scale=1.0, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(noisy[0].per_image["psnr"], noisy[1].per_image["psnr"])
    assert not torch.equal(noisy[0].per_image["psnr"], noisy[2].per_image["psnr"])
    decoded = evaluate_reconstruction(Small(), data, renderer="decode")
    assert decoded.rules.startswith("reconstruction: 16 x 20 pixels")
    assert "direct decoder" in decoded.rules


def test_frames_of_videos_are_pictures():
    video, images = Pictures(6, video=True), Pictures(6)
    found = evaluate_reconstruction(Darker(), video, batch_size=2)
    assert found.num_images == 3
    expected = evaluate_reconstruction(Darker(), images)
    assert torch.equal(found.per_image["mse_sum"], expected.per_image["mse_sum"])
    assert found.metrics["psnr"].n == 6


class Flickering(VideoMethod):
    """Renders a video with noise: the same in all frames, or one of its own for each."""

    def __init__(self, shared: bool):
        super().__init__()
        self.shared = shared

    def encode(self, video, *, state=None):
        return SlotOutput(video.flatten(2)[:, :, None], torch.ones(*video.shape[:2], 1, 4))

    def sample(self, slots, *, steps, cfg_scale, generator):
        frames = slots[:, :, 0].unflatten(-1, (3, 16, 20))
        shape = (1, 1, *frames.shape[2:]) if self.shared else frames.shape
        return frames + cfg_scale * torch.randn(shape, generator=generator)


def test_flicker_counts_what_changes_from_frame_to_frame():
    """Noise of deviation s adds s^2 to each value's error; shared by all frames nothing, else 2 s^2 to a change."""
    video = Pictures(40, key="video", video=True)
    video.image = (video.image // 4 + 96).astype(np.uint8)  # far from 0 and 1, where values are clamped
    shared, apart = (
        evaluate_reconstruction(Flickering(kind), video, steps=1, cfg_scale=0.05, batch_size=20).metrics
        for kind in (True, False)
    )
    values = 3 * 16 * 20
    assert shared["flicker"].mean == pytest.approx(0, abs=1e-9)
    assert shared["mse_sum"].mean == pytest.approx(values * 0.05**2, rel=0.1)
    assert apart["mse_sum"].mean == pytest.approx(values * 0.05**2, rel=0.05)
    assert apart["flicker"].mean == pytest.approx(2 * values * 0.05**2, rel=0.05)
    assert apart["flicker"].n == 20  # one change in each of the videos of two frames


def test_flicker_of_shifted_colours_is_nothing():
    """Nor of a reconstruction that is wrong in the same way in all frames; a video's own motion does not count."""
    video = Pictures(6, key="video", video=True)
    video.image = video.image // 2 + 60
    found = evaluate_reconstruction(Darker(0.1), video).metrics
    assert found["flicker"].mean == pytest.approx(0, abs=1e-9)
    assert found["mse_sum"].mean == pytest.approx(3 * 16 * 20 * 0.01, rel=1e-5)
    still = Pictures(6, key="video", video=True)
    still.image = still.image[::2].repeat(2, axis=0)
    apart = evaluate_reconstruction(Half(), still).metrics  # renders the first frame, then half of the second
    expected = (still.float[::2] / 2).double().square().sum((1, 2, 3)).mean().item()
    assert apart["flicker"].mean == pytest.approx(expected, rel=1e-5)


class Half(VideoMethod):
    """The second of two frames at half its brightness."""

    def encode(self, video, *, state=None):
        return SlotOutput(video.flatten(2)[:, :, None], torch.ones(*video.shape[:2], 1, 4))

    def decode(self, slots):
        frames = slots[:, :, 0].unflatten(-1, (3, 16, 20)) * torch.tensor([1.0, 0.5])[:, None, None, None]
        return DecoderOutput(frames, torch.ones(*slots.shape[:2], 1, 16, 20))


class Writes(Darker):
    """Generates without steps and guidance, as autoregressive decoders do."""

    sampling: ClassVar[dict] = {}

    def sample(self, slots, *, generator):
        return slots[:, 0].unflatten(-1, (3, 16, 20))


def test_settings_that_a_generator_does_not_have():
    result = evaluate_reconstruction(Writes(), Pictures(), batch_size=2)
    assert result.metrics["mse_sum"].mean == 0
    assert "; sampled, noise from seed 0 in every batch of 2; mean over images" in result.rules
    with pytest.raises(UserError, match="steps is 20, but Writes generates pictures without such a setting"):
        evaluate_reconstruction(Writes(), Pictures(), steps=20)
    with pytest.raises(UserError, match=r"cfg_scale is 1.5, but Writes generates pictures without"):
        render(Writes(), torch.zeros(1, 1, 960), cfg_scale=1.5)
    decoded = evaluate_reconstruction(Writes(), Pictures(), steps=20, renderer="decode")  # takes none
    assert decoded.metrics["mse_sum"].mean > 0


def test_colours_among_other_targets():
    """SAVi may render flow or depth beside colours, or no colours at all."""
    video = torch.rand(1, 2, 3, 16, 16)
    tiny = SAViConfig(
        image_size=(16, 16), num_slots=3, slot_dim=8, qkv_dim=8, decoder_strides=(2,), initializer="learned"
    )
    method = replace(tiny, targets=("depth", "rgb")).build().eval()
    slots = method.encode(video).slots
    torch.testing.assert_close(render(method, slots).image, method.decode(slots).recon[:, :, 1:].clamp(0, 1))
    flow = replace(tiny, targets=("flow",)).build().eval()
    with pytest.raises(UserError, match="SAVi renders targets of 3 channels, no pictures"):
        render(flow, flow.encode(video).slots)


def test_what_cannot_be_measured():
    with pytest.raises(UserError, match="There is no image to evaluate"):
        evaluate_reconstruction(Darker(), Pictures(), num_images=0)
    with pytest.raises(UserError, match="cached features, no images"):
        evaluate_reconstruction(Darker(), Pictures(key="features"))
    with pytest.raises(UserError, match="Darker renders features of 6 channels, no pictures"):
        evaluate_reconstruction(Darker(channels=6), Pictures())
    with pytest.raises(UserError, match="Darker cannot generate pictures"):
        evaluate_reconstruction(Darker(), Pictures(), renderer="sample")
