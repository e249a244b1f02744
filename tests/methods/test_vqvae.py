"""SlotDiffusion's first stage."""

from dataclasses import replace

import pytest
import torch

from slotworks.configs import vqvae
from slotworks.data.scenes import ShapeScenes
from slotworks.methods import VQVAEConfig
from slotworks.nn.vqvae import VQConfig
from slotworks.training import Adam, Run, schedule, train

pytest.importorskip("diffusers")

TINY = VQVAEConfig(
    image_size=16, autoencoder=VQConfig(dims=(8, 16), layers=1, num_codes=9, norm_groups=4), perceptual=False
)


def build(**changed):
    torch.manual_seed(0)
    return replace(TINY, **changed).build()


def test_the_loss_without_lpips_is_the_squared_error_in_minus_one_to_one():
    method, image = build(), torch.rand(2, 3, 16, 16)
    terms = method.loss({"image": image}, 0)
    assert set(terms) == {"recon", "commit", "codebook"}
    recon = method.reconstruct(image)
    torch.testing.assert_close(terms["recon"], 4 * (recon - image).square().mean())
    found = method.autoencoder.quantize(method.autoencoder.encode(image))
    torch.testing.assert_close(terms["commit"], found.commit)
    assert terms["commit"].item() == pytest.approx(terms["codebook"].item())
    assert method.config.loss_weights == {"codebook": 0.25}  # as latent diffusion's code, not the VQ-VAE paper


def test_the_loss_with_lpips_is_the_absolute_error_beside_it(monkeypatch):
    method, image = build(perceptual=True), torch.rand(2, 3, 16, 16)
    seen = []
    monkeypatch.setattr(method.perceptual, "forward", lambda pred, true: (seen.append((pred, true)), pred.mean())[1])
    terms = method.loss({"image": image}, 0)
    recon = method.reconstruct(image)
    torch.testing.assert_close(terms["recon"], 2 * (recon - image).abs().mean())
    torch.testing.assert_close(seen[0][0], recon)
    assert torch.equal(seen[0][1], image)
    assert list(method.perceptual.parameters()) == []
    assert not [name for name in method.state_dict() if "perceptual" in name]


def test_frames_of_a_video_are_images():
    method, video = build(), torch.rand(2, 3, 3, 16, 16)
    of_video = method.loss({"video": video}, 0)["recon"]
    torch.testing.assert_close(of_video, method.loss({"image": video.flatten(0, 1)}, 0)["recon"])


def test_it_learns_pictures(tmp_path):
    run = Run(
        method=replace(TINY, autoencoder=replace(TINY.autoencoder, code_range=0.5)),
        data=ShapeScenes(image_size=16, num_train=64, sizes=(0.5,), max_objects=1),
        optimizer=Adam(lr=5e-3),
        steps=60,
        batch_size=8,
        tensorboard=False,
    )
    errors = []
    train(run, tmp_path / "run", on_log=lambda step, values: errors.append(values["loss/recon"]))
    assert errors[-1] < 0.8 * errors[0]


def test_published_recipes_are_the_codes():
    epochs = {"clevrtex": 62_500, "celeba": 254_300, "movi_d": 182_800, "voc": 132_000, "coco": 184_800}
    for name, steps in epochs.items():
        run = getattr(vqvae, name)()
        assert (run.steps, run.batch_size) == (steps, 64)
        assert schedule(run.optimizer, steps // 20, steps) == pytest.approx(1e-3, rel=1e-3)
        assert schedule(run.optimizer, steps, steps) == pytest.approx(1e-5, rel=1e-3)
        with torch.device("meta"):
            method = run.method.build()
        assert sum(p.numel() for p in method.parameters()) == 13_857_886
    with pytest.raises(ValueError, match="image_size is 130; the VQ-VAE needs a multiple of 4"):
        replace(VQVAEConfig(), image_size=130)
