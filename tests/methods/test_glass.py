"""GLASS, both phases, on tiny random networks. That its parts are the original's: `test_transfer_glass.py`."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_models import save_diffusion
from torch.nn.functional import interpolate

from slotworks.configs import glass, recipes
from slotworks.data.stores.latents import CachedLatents
from slotworks.decoders import StableDiffusionConfig
from slotworks.guidance import match_segments, segment_overlap, semantic_loss
from slotworks.methods import Glass, GlassConfig, StableLSDConfig
from slotworks.nn.noise import shared_noise
from slotworks.training import Adam, Run, load_method, train
from slotworks.training.optimizer import build_optimizer, set_learning_rates
from slotworks.types import DataConfig, Decodes, Samples, UserError

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def config(tiny_vit, tmp_path_factory):
    """Images of 64 pixels for the VAE, 32 for the ViT; four slots."""
    folder = save_diffusion(tmp_path_factory.mktemp("diffusion"), prediction="v_prediction")
    return GlassConfig(
        encoder=replace(tiny_vit, features="normed"),
        diffusion=StableDiffusionConfig(str(folder), image_size=64, context_dim=32),
        num_slots=4,
        slot_dim=16,
        mlp_dim=24,
        decoder_dims=(24, 24),
    )


def build(config, **changed):
    torch.manual_seed(0)
    return replace(config, **changed).build()


def batch(count=2, size=64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, size, size, dtype=torch.long)
    mask[:, : size // 2, : size // 2], mask[:, size // 2 :, size // 3 :] = 3, 17
    void = torch.rand(count, size, size, generator=generator) < 0.1
    return {"image": torch.rand(count, 3, size, size, generator=generator), "mask": mask, "void": void}


def loss(method, batch, seed=4):
    torch.manual_seed(seed)
    return method.loss(batch, 0)


def test_parameters_in_both_phases():
    """Slot module: 4 + 1 numbers per channel for positions, MLP, Slot Attention, Gaussian, projection; MLP decoder."""
    d = 768
    slots = (
        (4 * d + d) + (2 * d + 2 * (d * d + d)) + (3 * 2 * d + 3 * d * d + 6 * (d * d + d) + 2 * (d * d + d)) + 2 * d
    )
    projection = 2 * d + d * 1024 + 1024
    hidden = (1024 * 1536 + 1536) + 2 * (1536 * 1536 + 1536)
    decoder = 1024 * 1024 + hidden + (1536 * 769 + 769)  # positions, hidden layers, features and mask
    method = GlassConfig().build()  # loads nothing
    assert sum(p.numel() for p in method.parameters()) == slots + projection + decoder
    counts = {name: sum(p.numel() for p in group) for name, group in method.param_groups().items()}
    assert counts == {"slots": slots + projection, "feature_decoder": decoder, "unet": 0}


def test_images_alone_give_slots_and_masks(config):
    method, image = build(config).eval(), batch()["image"]
    torch.manual_seed(0)
    out = method.encode(image)
    assert out.slots.shape == (2, 4, 32)
    assert out.attn_maps.shape == (2, 4, 4, 4)
    assert len(out.attn_steps) == 5
    torch.testing.assert_close(out.attn.sum(dim=1), torch.ones(2, 16))
    torch.manual_seed(0)
    raw = method.group(method.features({"image": image}))
    assert raw.slots.shape == (2, 4, 16)
    torch.testing.assert_close(method.slots.to_context(raw.slots), out.slots)
    assert not isinstance(method, Decodes)  # its masks are the attention
    assert isinstance(method, Samples)
    assert method.encode(image, num_slots=6, num_iterations=2).attn.shape == (2, 6, 16)
    picture = method.sample(out.slots, steps=2, cfg_scale=1.3, generator=torch.Generator().manual_seed(0))
    assert picture.shape == (2, 3, 64, 64)


def test_loss_terms_in_closed_form(config):
    method, given = build(config, initializer="learned"), batch()
    terms = loss(method, given)
    assert list(terms) == ["recon", "semantic", "instance"]
    features = method.features(given)
    torch.testing.assert_close(
        features, method.encoder(interpolate(given["image"], (32, 32), mode="bilinear", antialias=True))
    )
    out = method.group(features)
    context = method.slots.to_context(out.slots)
    torch.manual_seed(4)
    recon = method.decoder.loss(method.decoder.latents_of(given), context)
    torch.testing.assert_close(terms["recon"], recon)
    predicted = method.feature_decoder(context).recon.flatten(2).transpose(1, 2)
    torch.testing.assert_close(terms["instance"], (predicted - features).square().sum() / (2 * 16 * 12))
    attn, labels = interpolate(out.attn_maps, (64, 64), mode="bilinear").flatten(2), given["mask"].flatten(1)
    valid = ~given["void"].flatten(1)
    matched = match_segments(segment_overlap(attn, labels, valid))
    assert sorted(set(matched[0].tolist())) == [-1, 0, 3, 17]
    torch.testing.assert_close(terms["semantic"], semantic_loss(attn, labels, matched, valid))


def test_matching_options(config):
    """Each changes the loss; labels at the grid of the attention are those of the pixels in its middles."""
    given = batch()
    value = {
        name: loss(build(config, **changed), given)["semantic"].item()
        for name, changed in {
            "default": {},
            "foreground": {"match_background": False},
            "attention": {"match_at": "attention"},
            "pixels": {"semantic_mean": "pixels"},
        }.items()
    }
    assert len(set(value.values())) == 4
    method = build(config, match_at="attention", initializer="learned")
    attn = method.group(method.features(given)).attn
    labels, valid = (given[name][:, 8::16, 8::16].flatten(1) for name in ("mask", "void"))
    matched = match_segments(segment_overlap(attn, labels, ~valid))
    torch.testing.assert_close(loss(method, given)["semantic"], semantic_loss(attn, labels, matched, ~valid))
    soft = build(config, match_masks="soft", initializer="learned")
    assert loss(soft, given)["semantic"].isfinite()


def test_uncertain_pixels_change_no_loss(config):
    method, given = build(config), batch()
    other = {**given, "mask": torch.where(given["void"], 99, given["mask"])}
    for name, value in loss(method, given).items():
        assert torch.equal(value, loss(method, other)[name])


def test_cached_features_and_latents_give_the_losses_of_their_images(config):
    method, given = build(config), batch()
    cached = {name: given[name] for name in ("mask", "void")}
    cached |= {"features": method.features(given), "latents": method.decoder.moments(given["image"])}
    for name, value in loss(method, given).items():
        assert torch.equal(value, loss(method, cached)[name])


def test_phase_1_trains_the_slot_module_and_the_mlp_decoder(config):
    method = build(config)
    torch.stack(list(loss(method, batch()).values())).sum().backward()
    assert {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None} == {
        "slots",
        "feature_decoder",
    }
    assert all((p.grad != 0).any() for _, p in method.named_parameters())
    assert all(p.grad is None for p in method.decoder.parts(torch.empty(0)).unet.parameters())
    assert not any(name.startswith(("encoder", "decoder")) for name in method.state_dict())


def trained(config, **changed):
    return replace(config, diffusion=replace(config.diffusion, trained=True), **changed)


def test_phase_2_trains_the_unet_as_well_with_its_own_learning_rates(config):
    method = build(trained(config))
    torch.stack(list(loss(method, batch()).values())).sum().backward()
    assert all(p.grad is not None for p in method.parameters())
    run = glass.coco_phase2()
    optimizer = build_optimizer(method, run)
    set_learning_rates(optimizer, run, 0)
    rates = {name: g["lr"] for name, g in zip(method.param_groups(), optimizer.param_groups, strict=True)}
    assert rates == pytest.approx({"slots": 1e-8, "feature_decoder": 1e-8, "unet": 4e-5})
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimizer.step()
    moved = {name: (value - before[name]).abs().max().item() for name, value in method.state_dict().items()}
    assert max(v for name, v in moved.items() if name.startswith("decoder.")) > 3e-5
    assert 0 < max(v for name, v in moved.items() if not name.startswith("decoder.")) < 2e-8  # float32 keeps the step


def test_frozen_slots_leave_the_unet_alone_to_be_trained(config):
    method = build(trained(config, freeze_slots=True))
    groups = method.param_groups()
    assert (groups["slots"], groups["feature_decoder"]) == ([], [])
    assert len(groups["unet"]) == len(list(method.decoder.unet.parameters()))
    build_optimizer(method, glass.scenes_phase2_mini())
    torch.stack(list(loss(method, batch()).values())).sum().backward()
    assert all(p.grad is None for p in (*method.slots.parameters(), *method.feature_decoder.parameters()))
    with pytest.raises(ValueError, match="leaves nothing to train"):
        replace(config, freeze_slots=True)


def test_phase_2_starts_from_the_weights_of_phase_1(config):
    first, asked = build(config), []

    def load(folder):
        asked.append(folder)
        return first

    torch.manual_seed(9)
    second = trained(config, phase_1="runs/one").build()
    unet = {name: value.clone() for name, value in second.decoder.state_dict().items()}
    second.prepare(load)
    assert asked == ["runs/one"]
    assert all(torch.equal(second.state_dict()[name], value) for name, value in first.state_dict().items())
    assert all(torch.equal(second.decoder.state_dict()[name], value) for name, value in unet.items())
    other = build(config, slot_dim=8)
    with pytest.raises(UserError, match="differ in slots"):
        second.prepare(lambda folder: other)
    lsd = StableLSDConfig(encoder=config.encoder, diffusion=config.diffusion, slot_dim=16).build()
    with pytest.raises(UserError, match="a run of StableLSD; give a run of GLASS"):
        second.prepare(lambda folder: lsd)


def test_a_term_of_weight_0_is_neither_computed_nor_built(config):
    given = batch()
    recon_only = build(config, loss_weights={"semantic": 0.0, "instance": 0.0})
    terms = loss(recon_only, {"image": given["image"]})  # no masks needed
    assert (terms["semantic"].item(), terms["instance"].item()) == (0, 0)
    assert recon_only.feature_decoder is None
    no_recon = build(config, loss_weights={"recon": 0.0})
    assert loss(no_recon, {**given, "latents": torch.full((2, 8, 8, 8), torch.nan)})["recon"].item() == 0
    with pytest.raises(UserError, match="guided by masks, and these data have none"):
        loss(build(config), {"image": given["image"]})


def test_mixed_precision_gives_nearly_the_same_losses(config):
    method, given = build(config), batch()
    exact = loss(method, given)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(method, given)
    assert all(value.dtype == torch.float32 for value in rough.values())
    for name, value in exact.items():
        assert rough[name].item() == pytest.approx(value.item(), rel=0.05)
    torch.stack(list(rough.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_losses_do_not_depend_on_the_split_of_a_batch(config):
    method, given = build(config), batch(4)
    with shared_noise(3, part=0, parts=1):
        whole = method.loss(given, 0)
    parts = []
    for part in (0, 1):
        with shared_noise(3, part=part, parts=2):
            parts.append(method.loss({name: value[2 * part :][:2] for name, value in given.items()}, 0))
    for name, value in whole.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, value)


def test_training_lowers_the_losses(config):
    method, given = build(config), batch()
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    values = []
    for _ in range(30):
        terms = loss(method, given)
        values.append({name: value.item() for name, value in terms.items()})
        optimizer.zero_grad()
        (terms["recon"] + 0.7 * terms["semantic"] + 0.9 * terms["instance"]).backward()
        optimizer.step()
    assert values[-1]["semantic"] < 0.7 * values[0]["semantic"]
    assert values[-1]["instance"] < 0.9 * values[0]["instance"]
    assert values[-1]["recon"] < values[0]["recon"]


# ---- with the training loop and the cache ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn(DataConfig):
    """Random pictures with two rectangles."""

    count: int = 6
    pixels: int = 64

    def open(self, split: str = "train"):
        return DrawnSet(self.count, self.pixels)

    @property
    def name(self) -> str:
        return "drawn"

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels, self.pixels


class DrawnSet:
    def __init__(self, count, pixels):
        self.count, self.pixels = count, pixels

    def __len__(self):
        return self.count

    def __getitems__(self, indices):
        given = [batch(1, self.pixels, seed=int(index)) for index in indices]
        image = np.concatenate([(255 * one["image"]).byte().movedim(1, -1).numpy() for one in given])
        mask, void = (np.concatenate([one[name].numpy() for one in given]) for name in ("mask", "void"))
        return {"image": image, "mask": mask.astype(np.uint8), "void": void}


def run_of(config, data, **changed):
    settings = {"steps": 4, "batch_size": 2, "save_every": 2, "eval_every": 10, "tensorboard": False}
    return Run(method=config, data=data, optimizer=Adam(lr=1e-3), **(settings | changed))


def test_both_phases_train_from_a_cache_and_go_on_after_a_stop(config, tmp_path):
    data = CachedLatents(
        images=Drawn(), encoder=config.encoder, diffusion=config.diffusion.model, latent_size=64, root=str(tmp_path)
    )
    first = run_of(config, data)
    train(first, tmp_path / "whole")
    train(first, tmp_path / "cut", stop_after=2)
    train(first, tmp_path / "cut")
    whole, cut = (load_method(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    second = replace(
        run_of(trained(config, phase_1=str(tmp_path / "whole")), data, steps=2),
        optimizer=Adam(lr=4e-5, lr_scales={"slots": 2.5e-4, "feature_decoder": 2.5e-4}),
    )
    train(second, tmp_path / "second")
    method = load_method(tmp_path / "second")
    assert isinstance(method, Glass)
    after = method.state_dict()
    assert all((after[name] - whole[name]).abs().max() < 3e-8 for name in whole)
    source = build(trained(config)).state_dict()
    assert (after["decoder.unet.conv_in.weight"] - source["decoder.unet.conv_in.weight"]).abs().max() > 3e-5


def test_recipes_are_the_papers():
    run = glass.coco()
    assert (run.steps, run.batch_size, run.optimizer.lr) == (400_000, 32, 2e-5)
    assert run.method.loss_weights == {"semantic": 0.7, "instance": 0.9}
    assert (glass.voc().steps, glass.voc().method.num_slots) == (150_000, 7)
    assert glass.coco_sem().method.loss_weights["instance"] == 0.1
    assert glass.coco_mae().method.encoder.grid == (28, 28)
    for name, second in {n: f() for n, f in recipes().items() if n.startswith("glass.") and "phase2" in n}.items():
        assert second.method.diffusion.trained, name
        first = recipes()[second.method.phase_1.removeprefix("runs/")]()
        frozen = name.endswith("_phase2_mini")  # spares it the gradients of what would not move
        assert second.method.freeze_slots == frozen
        assert second.method == replace(
            first.method, phase_1=second.method.phase_1, diffusion=second.method.diffusion, freeze_slots=frozen
        )
        assert frozen or second.optimizer.lr * second.optimizer.lr_scales["slots"] == pytest.approx(1e-8)
