"""SlotDiffusion on images and videos, with tiny networks. Transfer: `test_transfer_slot_diffusion.py`."""

from dataclasses import replace

import pytest
import torch

from slotworks import api
from slotworks.configs import dvae, savi, slate, slot_attention, slot_diffusion, steve, vqvae
from slotworks.data.scenes import ShapeScenes, VideoScenes
from slotworks.decoders import DenoiserConfig
from slotworks.editing import remove, render_edit, take_apart
from slotworks.evaluation.discovery import evaluate_discovery
from slotworks.evaluation.reconstruction import evaluate_reconstruction
from slotworks.methods import SlotAttentionConfig, SlotDiffusionConfig, VideoSlotDiffusionConfig, VQVAEConfig
from slotworks.nn.vqvae import VQConfig
from slotworks.training import Adam, Run, schedule, train
from slotworks.types import Decodes, Samples, UserError

pytest.importorskip("diffusers")

VQ = VQConfig(dims=(8, 8), layers=1, num_codes=9, norm_groups=4, code_range=1.0)
TINY = {
    "image_size": 16,
    "resnet_width": 32,
    "resnet_strides": (2, 1),
    "num_slots": 3,
    "slot_dim": 8,
    "mlp_dim": 16,
    "denoiser": DenoiserConfig(dims=(8, 16), layers=1, head_dim=8, norm_groups=4, dropout=0.0),
    "autoencoder": VQ,
}
FIRST = VQVAEConfig(image_size=16, autoencoder=VQ, perceptual=False)
SCENES = ShapeScenes(image_size=16, num_train=32, num_val=8, num_test=8, sizes=(0.5,), min_objects=1, max_objects=2)
VIDEOS = VideoScenes(image_size=16, num_train=8, num_val=4, num_test=4, num_frames=5, sizes=(0.5,), clip_length=3)


def build(config=SlotDiffusionConfig, **changed):
    torch.manual_seed(0)
    method = config(**{**TINY, **changed}).build()
    if method.decoder.autoencoder is not None:
        method.prepare(lambda folder: FIRST.build())
    return method


def loss(method, batch, seed=1):
    torch.manual_seed(seed)
    return method.loss(batch, 0)["denoise"]


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
VIDEO = torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def test_the_published_size_of_the_slot_side():
    with torch.device("meta"):
        method = SlotDiffusionConfig().build()
    groups = {name: sum(p.numel() for p in group) for name, group in method.param_groups().items()}
    assert groups == {"slots": 3_347_520, "unet": 134_243_331}


def test_the_loss_is_the_error_of_the_noise_by_the_formulas():
    method = build().eval()
    with torch.no_grad():
        for parameter in method.decoder.unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = loss(method, {"image": IMAGES})
    torch.manual_seed(1)
    noise, t = torch.randn(2, 3, 8, 8), (torch.rand(2) * 1000).long()
    a = method.decoder.alphas[t][:, None, None, None]
    z = method.decoder.autoencoder.net.encode(2 * IMAGES - 1).latents
    slots = method.encode(IMAGES).slots
    said = method.decoder.unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, encoder_hidden_states=slots).sample
    torch.testing.assert_close(found, (said - noise).square().mean())


def test_every_trainable_weight_learns_and_the_autoencoder_does_not():
    for config, batch in ((SlotDiffusionConfig, {"image": IMAGES}), (VideoSlotDiffusionConfig, {"video": VIDEO})):
        method = build(config)
        with torch.no_grad():
            for parameter in method.decoder.unet.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        loss(method, batch).backward()
        trained = {name for name, p in method.named_parameters() if p.requires_grad}
        assert not [name for name in trained if method.get_parameter(name).grad is None]
        assert not [name for name in trained if "autoencoder" in name]
        groups = method.param_groups()
        assert sum(len(group) for group in groups.values()) == len(trained)
        assert set(groups) == {"slots", "unet"}


def test_learned_slots_start_wide_and_give_the_same_answer_twice():
    method = build(num_slots=50, slot_dim=16).eval()
    assert method.front.initializer.slots.std().item() == pytest.approx(1, abs=0.1)
    out = method.encode(IMAGES)
    assert torch.equal(out.slots, method.encode(IMAGES).slots)
    torch.testing.assert_close(out.attn.sum(1), torch.ones(2, 64))
    assert out.attn_maps.shape == (2, 50, 8, 8)
    assert isinstance(method, Samples)
    assert not isinstance(method, Decodes)


def test_exchangeable_slots_may_be_of_another_number():
    method = build(initializer="gaussian").eval()
    out = method.encode(IMAGES, num_slots=5, num_iterations=1)
    assert out.slots.shape == (2, 5, 8)
    assert len(out.attn_steps) == 1


def test_a_video_is_its_pieces_and_its_first_frame_the_image():
    method = build(VideoSlotDiffusionConfig).eval()
    out = method.encode(VIDEO)
    first = method.encode(VIDEO[:, :1])
    rest = method.encode(VIDEO[:, 1:], state=first.state)
    torch.testing.assert_close(rest.slots, out.slots[:, 1:])
    torch.testing.assert_close(first.slots, out.slots[:, :1])
    image = build(num_iterations=2).eval()
    image.front.load_state_dict(method.front.state_dict())
    image.slot_attention.load_state_dict(method.video_slots.corrector.state_dict())
    torch.testing.assert_close(image.encode(VIDEO[:, 0]).slots, out.slots[:, 0])
    assert (out.slots[:, 1] - image.encode(VIDEO[:, 1]).slots).abs().max() > 1e-3  # the predictor has moved them


def test_at_first_every_frame_is_a_video_of_its_own():
    """The frames of a still video have equal slots, until they are carried."""
    method = build(VideoSlotDiffusionConfig, short_clips=((2, 1),)).eval()
    still = VIDEO[:, :1].expand(-1, 4, -1, -1, -1)
    seen = []
    method.decoder.loss = lambda latents, slots: seen.append(slots) or slots.sum()
    for step in (1, 2):
        method.loss({"video": still}, step)
    alone, carried = (slots.unflatten(0, (2, 4)) for slots in seen)
    torch.testing.assert_close(alone, alone[:, :1].expand_as(alone))
    torch.testing.assert_close(carried[:, 0], alone[:, 0])
    assert (carried[:, 1] - carried[:, 0]).abs().max() > 1e-3


def test_frames_are_sampled_from_shared_noise():
    method = build(VideoSlotDiffusionConfig).eval()
    slots = method.encode(VIDEO[:, :1]).slots.expand(-1, 3, -1, -1)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    shared = method.sample(slots, steps=3, generator=generators[0])
    assert shared.shape == (2, 3, 3, 16, 16)
    torch.testing.assert_close(shared[:, 0], shared[:, 2])
    apart = method.sample(slots, steps=3, generator=generators[1], shared_noise=False)
    assert not torch.equal(apart[:, 0], apart[:, 2])
    assert method.sample(slots[:, 0], steps=2).shape == (2, 3, 16, 16)


def test_guidance_is_refused_and_the_method_says_how_it_samples():
    method = build().eval()
    assert method.sampling == {"steps": 20, "cfg_scale": 1.0}
    with pytest.raises(UserError, match=r"cfg_scale is 1.3, but SlotDiffusion is trained with slots only"):
        method.sample(method.encode(IMAGES).slots, cfg_scale=1.3)


def test_another_autoencoder_is_refused():
    method = SlotDiffusionConfig(**TINY, autoencoder_run="runs/first").build()
    with pytest.raises(UserError, match=r"has no trained weights"):
        method.loss({"image": IMAGES}, 0)
    with pytest.raises(UserError, match=r"runs/first is VQConfig\(.*num_codes=5.* make both the same"):
        method.prepare(lambda folder: replace(FIRST, autoencoder=replace(VQ, num_codes=5)).build())
    with pytest.raises(UserError, match=r"a run of SlotAttentionAutoencoder; give a VQ-VAE"):
        method.prepare(lambda folder: SlotAttentionConfig().build())


def test_a_frozen_encoder_takes_cached_features(tiny_vit):
    encoder = replace(tiny_vit, features="tokens")
    method = build(encoder=encoder)
    rows, columns = encoder.grid
    image = torch.rand(2, 3, encoder.image_size, encoder.image_size)
    features = method.front.features(image)
    assert features.shape == (2, rows * columns, encoder.feature_dim)
    found = loss(method, {"image": image})
    torch.testing.assert_close(loss(method, {"image": image, "features": features}), found)
    latents = method.decoder.latents(image)
    torch.testing.assert_close(loss(method, {"features": features, "latents": latents}), found)
    assert not [name for name, _ in method.named_parameters() if name.startswith("front.encoder")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both stages on images and videos, a few steps each."""
    folder = tmp_path_factory.mktemp("runs")
    common = {"optimizer": Adam(lr=1e-3), "batch_size": 4, "eval_images": 4, "tensorboard": False}
    first = Run(method=FIRST, data=SCENES, steps=2, **common)
    api.train(first, folder / "vqvae")
    made = {}
    for name, config, data in (("images", SlotDiffusionConfig, SCENES), ("videos", VideoSlotDiffusionConfig, VIDEOS)):
        method = config(**TINY, autoencoder_run=str(folder / "vqvae"))
        made[name] = Run(method=method, data=data, steps=4, protocol="slot-diffusion", **common)
    return folder, made


@pytest.mark.parametrize("name", ["images", "videos"])
def test_both_stages_train_resume_and_are_scored(name, runs):
    folder, made = runs
    run = made[name]
    answer = api.train(run, folder / name)
    assert set(answer["metrics"]) >= {"fg_ari", "mbo_i", "miou_i"}
    train(run, folder / f"{name}_killed", stop_after=2)
    train(run, folder / f"{name}_killed")
    _, whole = api.load(folder / name)
    _, resumed = api.load(folder / f"{name}_killed")
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0)
    assert bool(whole.decoder.ready)
    record = api.evaluate(folder / name, task="reconstruction", num_images=2, steps=2)[0]
    assert "sampled with 2 steps, guidance 1" in record["rules"]
    assert ("flicker" in record["metrics"]) == (name == "videos")


def test_reconstruction_of_videos_counts_frames_and_changes():
    method, dataset = build(VideoSlotDiffusionConfig), VIDEOS.open("val")
    result = evaluate_reconstruction(method, dataset, num_images=2, steps=2)
    assert {name: len(values) for name, values in result.per_image.items()} == {
        "mse_sum": 10,
        "psnr": 10,
        "ssim": 10,
        "flicker": 8,
    }
    video = torch.from_numpy(dataset.__getitems__([0, 1])["video"]).movedim(-1, 2).double() / 255
    out = method.eval().encode(video.float())
    pred = method.sample(out.slots, steps=2, generator=torch.Generator().manual_seed(0)).double()
    expected = (pred.diff(dim=1) - video.diff(dim=1)).square().sum((2, 3, 4)).flatten()
    torch.testing.assert_close(result.per_image["flicker"], expected, rtol=1e-4, atol=1e-4)


def test_slots_are_edited_as_those_of_other_methods():
    method = build().eval()
    scene = take_apart(method, IMAGES[0])
    edit = render_edit(method, scene, remove(scene.slots[None], 1)[0], seeds=(0, 1))
    assert edit.recon.shape == edit.edited.shape == (2, 3, 16, 16)
    assert edit.slots.shape == (2, 8)


def test_masks_are_scored_from_attention():
    result = evaluate_discovery(build(), SCENES.open("val"), protocol="slot-diffusion", num_images=4)
    assert result.protocol.masks == "attention"
    assert 0 <= result.metrics["miou_i"].mean <= 1


def test_published_recipes_are_the_papers():
    table = {  # slots, iterations, width, clip, batch, steps
        "clevrtex": (11, 3, 192, 1.0, 64, 100 * 625),
        "celeba": (4, 3, 192, 1.0, 64, 50 * 2_543),
        "movi_d": (15, 2, 192, 0.05, 32, 30 * 6_703),
        "movi_e": (15, 2, 192, 0.05, 32, 30 * 6_703),
        "voc": (6, 3, 192, 0.05, 64, 500 * 165),
        "coco": (7, 3, 256, 0.05, 64, 100 * 1_848),
    }
    for name, (slots, iterations, width, clip, batch, steps) in table.items():
        run = getattr(slot_diffusion, name)()
        method = run.method
        assert (method.num_slots, method.num_iterations, method.slot_dim) == (slots, iterations, width)
        assert (run.optimizer.max_grad_norm, run.batch_size, run.steps) == (clip, batch, steps)
        assert method.mlp_dim == 2 * width
        assert schedule(run.optimizer, steps // 20, steps) == pytest.approx(2e-4, rel=1e-3)
        assert run.optimizer.lr_scales == {"slots": 0.5}
        first = getattr(vqvae, method.autoencoder_run.removeprefix("runs/vqvae."))()
        assert first.method.autoencoder == method.autoencoder
        assert first.method.image_size == method.image_size
        rates = [schedule(first.optimizer, step, first.steps) for step in (0, first.steps // 20, first.steps)]
        assert rates == pytest.approx([1e-5, 1e-3, 1e-5], rel=1e-12)  # between a hundredth of the rate and all of it
    assert slot_diffusion.clevrtex_velocity().method.denoiser.prediction == "v_prediction"
    assert slot_diffusion.clevrtex_sample().method.denoiser.prediction == "sample"
    assert slot_diffusion.movi_d_t100().method.denoiser.num_timesteps == 100
    assert slot_diffusion.clevrtex_pixels().method.autoencoder is None


@pytest.mark.parametrize("world", ["scenes", "painted"])
def test_mini_recipes_fit_their_first_stage(world):
    run, video = (getattr(slot_diffusion, f"{kind}{world}_mini")() for kind in ("", "video_"))
    first = getattr(vqvae, f"{world}_mini")()
    assert run.method.autoencoder == first.method.autoencoder
    assert run.method.autoencoder_run == f"runs/vqvae.{world}_mini"
    assert run.data.size == first.data.size == video.data.size
    assert video.method.start_from == f"runs/slot_diffusion.{world}_mini"
    video.method.build().prepare(lambda folder: run.method.build())


def test_the_three_that_draw_painted_scenes_see_the_same():
    """Data, encoder, slots, where they start and what trains them; words and codes are of the first stages."""
    runs = [recipes.painted_mini() for recipes in (slot_attention, slate, slot_diffusion)]
    for name in ("encoder", "num_slots", "slot_dim", "mlp_dim", "num_iterations", "initializer", "gradient"):
        assert len({getattr(run.method, name) for run in runs}) == 1, name
    assert len({(run.data, run.batch_size) for run in runs}) == 1
    words = dvae.painted_mini().method.build()
    for run in (slate.painted_mini(), steve.painted_mini()):
        assert run.method.dvae_run == "runs/dvae.painted_mini"
        run.method.build().prepare(lambda folder: words)
    assert savi.painted_mini().data.clip_length == 8
    assert replace(savi.painted_mini().data, clip_length=3) == steve.painted_mini().data
    first, then = (build().method.build() for build in (savi.painted_frames_mini, savi.painted_mini))
    then.prepare(lambda folder: first)


def test_a_run_on_videos_starts_from_one_on_images():
    """All weights but the predictor's are those of the images, and so are the slots of a first frame."""
    images = build().eval()
    images.decoder.latents(IMAGES)  # its VQ-VAE is there
    config = VideoSlotDiffusionConfig(**TINY, num_iterations=3, start_from="runs/images", predictor_dim=16)
    torch.manual_seed(5)
    method = config.build().eval()
    before = {name: w.clone() for name, w in method.state_dict().items()}
    method.prepare({"runs/images": images}.__getitem__)
    changed = {name for name, w in method.state_dict().items() if not torch.equal(w, before[name])}
    assert changed
    assert not any(name.startswith("video_slots.predictor") for name in changed)
    torch.testing.assert_close(method.encode(IMAGES[:, None]).slots[:, 0], images.encode(IMAGES).slots)
    assert torch.equal(method.decoder.latents(IMAGES), images.decoder.latents(IMAGES))
    with pytest.raises(UserError, match="runs/images, a run of VQVAE; give one of SlotDiffusion on images"):
        config.build().prepare(lambda folder: FIRST.build())
    with pytest.raises(UserError, match="slot_dim is 8, and 16 in the run in runs/images; make both the same"):
        config.build().prepare(lambda folder: build(slot_dim=16))
