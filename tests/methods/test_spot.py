"""SPOT, both stages. That it is the original's: `tests/decoders/test_transfer_dinosaur.py`."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from slotworks.configs import spot
from slotworks.encoders import ViTConfig
from slotworks.evaluation.masks import decode, inspecting
from slotworks.methods import DinosaurConfig, SpotConfig, SpotStudentConfig
from slotworks.nn.noise import shared_choice, shared_noise
from slotworks.training import Adam, Run, load_method, schedule, train
from slotworks.types import DataConfig, UserError

SIZES = {"num_slots": 3, "slot_dim": 8, "mlp_dim": 16, "decoder_blocks": 2, "decoder_heads": 3}
SMALL = SpotConfig(encoder=ViTConfig(image_size=32, patch_size=8, feature_dim=12), **SIZES)


def build(**changed):
    torch.manual_seed(0)
    return replace(SMALL, **changed).build()


def student(encoder, *, teacher=None, **changed):
    """The second stage on a tiny encoder, with a teacher of its own if none is given."""
    torch.manual_seed(1)
    config = SpotStudentConfig(encoder=replace(encoder, trained_blocks=1), **(SIZES | changed))
    method = config.build()
    method.prepare(lambda folder: teacher or build(encoder=encoder))
    return method


def features(batch=2):
    torch.manual_seed(2)
    return torch.randn(batch, 16, 12)


def test_parameters_on_coco():
    """By hand: the MLP on features, Slot Attention on 768 channels, initial slots; the decoder is counted elsewhere."""
    method = SpotConfig().build()
    feature_mlp = 2 * 768 + 2 * (768 * 768 + 768)
    attention = (
        2 * 768 + 2 * 2 * 256 + 256**2 + 2 * 768 * 256 + 2 * (3 * 256**2 + 3 * 256) + 2 * 256 * 1024 + 1024 + 256
    )
    rest = sum(p.numel() for p in method.decoder.parameters())
    assert sum(p.numel() for p in method.parameters()) - rest == feature_mlp + attention + 2 * 256


def test_images_to_slots_and_masks(tiny_vit):
    method, image = build(encoder=tiny_vit), torch.rand(2, 3, 32, 32)
    out = method.encode(image)
    assert torch.equal(out.features, method.encoder(image))
    assert out.attn_maps.shape == (2, 3, 4, 4)
    decoded = decode(method, out)
    assert decoded.recon.shape == (2, 12, 4, 4)
    torch.testing.assert_close(decoded.masks.sum(dim=1), torch.ones(2, 4, 4))
    with pytest.raises(ValueError, match=r"call decode\(slots, out.features\)"):
        method.decode(out.slots)


def test_orders_of_evaluation_and_training():
    """standard is order 0, all is the mean of nine, random one of the nine; training has its own choice."""
    method, x = build(), features()
    slots = torch.randn(2, 3, 8)
    each = torch.stack([method.decoder(slots, x, order=i).masks for i in range(9)])
    assert torch.equal(method.decode(slots, x).masks, each[0])
    torch.testing.assert_close(method.decode(slots, x, orders="all").masks, each.mean(dim=0))
    torch.testing.assert_close(build(eval_orders="all").decode(slots, x).masks, each.mean(dim=0))
    torch.manual_seed(0)
    drawn = [method.decode(slots, x, orders="random").masks for _ in range(200)]
    counts = [sum(torch.equal(masks, one) for masks in drawn) for one in each]
    assert sum(counts) == 200
    assert min(counts) >= 8  # uniform: 22 expected
    seen = []
    method.decoder.register_forward_pre_hook(lambda *args: seen.append(args[2]["order"]), with_kwargs=True)
    for step in range(40):
        method.loss({"features": x}, step)
    assert len(seen) == 40  # one order per batch
    assert len(set(seen)) >= 8


def test_all_parts_of_a_batch_read_in_the_same_order():
    orders = []
    for part in range(3):
        with shared_noise(5, part=part, parts=3):
            orders.append([shared_choice(9) for _ in range(20)])
    assert orders[0] == orders[1] == orders[2]
    assert len(set(orders[0])) > 3


def test_loss_is_the_error_of_the_mean_prediction_of_all_orders():
    method, x = build(train_orders="all", initializer="learned"), features()
    recon = method.decoder.ensemble(method.group(x, x).slots, x).recon.flatten(2).transpose(1, 2)
    loss = method.loss({"features": x}, 0)
    assert list(loss) == ["recon"]
    torch.testing.assert_close(loss["recon"], (recon - x).square().sum() / (2 * 16 * 12))


def test_standard_order_alone_has_one_begin_token():
    """The DINOSAUR baseline of SPOT's paper."""
    method = build(train_orders="standard")
    assert method.decoder.begin.shape == (1, 12)
    x, slots = features(), torch.randn(2, 3, 8)
    torch.testing.assert_close(method.decode(slots, x, orders="all").masks, method.decode(slots, x).masks)


def test_cached_features_give_the_loss_of_their_images(tiny_vit):
    method, image = build(encoder=tiny_vit), torch.rand(2, 3, 32, 32)
    losses = []
    for batch in ({"image": image}, {"features": method.encoder(image)}):
        torch.manual_seed(2)
        losses.append(method.loss(batch, 0)["recon"].item())
    assert losses[0] == losses[1]


def test_the_first_stage_trains_everything_but_the_encoder(tiny_vit):
    method = build(encoder=tiny_vit)
    method.loss({"image": torch.rand(2, 3, 32, 32)}, 0)["recon"].backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert not any("encoder" in name for name in method.state_dict())


def test_bilevel_changes_the_gradient_and_not_the_value():
    x, methods = features(), [build(initializer="learned", gradient=g) for g in ("unrolled", "bilevel", "implicit")]
    losses = []
    for method in methods:
        torch.manual_seed(3)  # the order of patches
        losses.append(method.loss({"features": x}, 0)["recon"])
    assert losses[0].item() == losses[1].item() == losses[2].item()
    for loss in losses:
        loss.backward()
    unrolled, bilevel, implicit = (method.initializer.slots.grad for method in methods)
    assert implicit is None
    assert (bilevel.abs().amax(dim=1) > 0).all()
    assert (unrolled - bilevel).abs().max() > 1e-6


# ---- stage 2 ----


def test_the_teacher_is_outside_of_weights_and_optimiser(tiny_vit):
    method = student(tiny_vit)
    teacher = method.teacher[0]
    assert not teacher.training
    method.train()
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    inside = {id(p) for p in method.parameters()}
    assert not any(id(p) in inside for p in teacher.parameters())
    names = set(method.state_dict())
    assert not any("teacher" in name or "target_encoder" in name for name in names)
    assert any(name.startswith("encoder.") for name in names)


def test_the_student_trains_its_last_block_and_the_target_stays(tiny_vit):
    method, image = student(tiny_vit), torch.rand(2, 3, 32, 32)
    target, weights = method.target_encoder(image).clone(), method.teacher[0].state_dict()
    weights = {name: value.clone() for name, value in weights.items()}
    torch.testing.assert_close(method.encoder(image), target)  # equal before training
    optimizer = torch.optim.Adam(method.param_groups()["all"], lr=1e-2)
    for step in range(2):
        loss = method.loss({"image": image}, step)
        sum(loss.values()).backward()
        unused = [name for name, p in method.named_parameters() if p.grad is None]
        assert unused == []
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(method.target_encoder(image), target)
    assert (method.encoder(image) - target).abs().max() > 1e-3
    assert all(torch.equal(value, weights[name]) for name, value in method.teacher[0].state_dict().items())
    out = method.encode(image)
    assert torch.equal(out.features, target)  # the decoder is still forced with frozen features


def test_distillation_follows_the_teachers_masks(tiny_vit):
    """A student whose attention is the teacher's masks, slots permuted, has almost no cross-entropy; one that shares
    every patch equally has log K."""
    method, x = student(tiny_vit, teacher_orders="standard"), features()
    masks = torch.zeros(2, 3, 16)
    masks.scatter_(1, torch.arange(16).remainder(3).expand(2, 1, 16), 1.0)
    method._teacher_masks = lambda features: masks
    group = method.group
    for attn, expected in ((masks[:, [1, 2, 0]], 0.0), (torch.full((2, 3, 16), 1 / 3), np.log(3))):
        method.group = lambda *args, attn=attn: replace(group(*args), attn=attn)
        terms = method.loss({"image": torch.rand(2, 3, 32, 32), "features": x}, 0)
        assert set(terms) == {"recon", "distill"}
        assert terms["distill"].item() == pytest.approx(expected, abs=1e-6)


def test_cached_features_serve_target_and_teacher(tiny_vit):
    method, image = student(tiny_vit), torch.rand(2, 3, 32, 32)
    losses = []
    for batch in ({"image": image}, {"image": image, "features": method.target_encoder(image)}):
        torch.manual_seed(2)
        losses.append({name: value.item() for name, value in method.loss(batch, 0).items()})
    assert losses[0] == losses[1]
    with pytest.raises(UserError, match="trains its encoder and needs images; cached features are not enough"):
        method.loss({"features": features()}, 0)


def test_default_weight_of_the_distillation():
    assert SpotStudentConfig().loss_weights == {"distill": 0.005}
    assert SpotStudentConfig().encoder.trained_blocks == 4
    assert (SpotStudentConfig().initializer, SpotStudentConfig().gradient) == ("learned", "bilevel")


def test_refuses(tiny_vit):
    with pytest.raises(ValueError, match=r"trained_blocks is 2; the first stage of SPOT predicts its own input"):
        replace(SMALL, encoder=ViTConfig(trained_blocks=2))
    with pytest.raises(ValueError, match=r"call method.prepare\(load_method\) before training"):
        SpotStudentConfig(encoder=replace(tiny_vit, trained_blocks=1), **SIZES).build().loss({}, 0)
    with pytest.raises(UserError, match=r"method.teacher is runs/spot.coco, a run of Dinosaur; give a first stage"):
        student(tiny_vit, teacher=DinosaurConfig(encoder=tiny_vit).build())
    with pytest.raises(UserError, match=r"The teacher in runs/spot.coco looks at ViTConfig.*train both on the same"):
        student(tiny_vit, teacher=build())
    with pytest.raises(UserError, match=r"The teacher in runs/spot.coco has 4 slots, method.num_slots is 3"):
        student(tiny_vit, teacher=build(encoder=tiny_vit, num_slots=4))


@dataclass(frozen=True)
class Noise(DataConfig):
    """Eight images of noise."""

    @property
    def name(self):
        return "noise"

    @property
    def size(self):
        return 32, 32

    def open(self, split="train"):
        return self

    def __len__(self):
        return 8

    def __getitems__(self, indices):
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)[list(indices)]
        return {"image": image, "mask": (image[..., 0] // 100).astype(np.uint8)}


def test_both_stages_by_the_loop_with_a_stop_between(tiny_vit, tmp_path):
    """Stage 2 reads the folder of stage 1, resumes after a stop to the same weights, and is evaluated without it."""
    first = Run(
        method=replace(SMALL, encoder=tiny_vit),
        data=Noise(),
        steps=3,
        batch_size=4,
        optimizer=Adam(lr=1e-3, max_grad_norm=0.3, grad_norm_type="inf"),
        tensorboard=False,
    )
    train(first, tmp_path / "first")
    method = SpotStudentConfig(
        encoder=replace(tiny_vit, trained_blocks=1), teacher=str(tmp_path / "first"), eval_orders="all", **SIZES
    )
    second = replace(first, method=method, steps=4)
    train(second, tmp_path / "whole")
    train(second, tmp_path / "stopped", stop_after=2)
    train(second, tmp_path / "stopped")
    (tmp_path / "first").rename(tmp_path / "gone")
    whole, stopped = load_method(tmp_path / "whole"), load_method(tmp_path / "stopped")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, stopped.state_dict()[name]), name
    with inspecting(whole, seed=0):
        out = whole.encode(torch.rand(2, 3, 32, 32))
        assert decode(whole, out).masks.shape == (2, 3, 4, 4)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["weighted/distill"] == pytest.approx(0.005 * lines[-1]["loss/distill"])
    with pytest.raises(UserError, match="first"):
        train(second, tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "epochs", "images", "warmup_epochs", "slots", "lr", "last"),
    [
        ("coco", (50, 50), 118_287, 5, 7, 4e-4, (4e-7, 4e-7)),
        ("coco_mae", (50, 50), 118_287, 5, 7, 2e-4, (4e-5, 4e-5)),
        ("voc", (560, 560), 10_582, 60, 6, 4e-4, (4e-7, 4e-7)),
        ("movi_c", (65, 30), 87_633, 7, 11, 2e-4, (4e-5, 1.5e-4)),
        ("movi_e", (65, 30), 87_741, 7, 24, 2e-4, (4e-5, 1.5e-4)),
    ],
)
def test_recipes_are_the_released_settings(name, epochs, images, warmup_epochs, slots, lr, last):
    """Epochs of whole batches; the warmup of 10,000 steps is rounded down to whole epochs of all images."""
    assert warmup_epochs == int(10_000 / (images / 64))
    runs = getattr(spot, name)(), getattr(spot, f"{name}_stage2")()
    for run, length, end in zip(runs, epochs, last, strict=True):
        assert run.steps == length * (images // 64)
        assert run.optimizer.warmup_steps == warmup_epochs * (images // 64)
        assert schedule(run.optimizer, run.optimizer.warmup_steps, run.steps) == pytest.approx(lr)
        assert schedule(run.optimizer, run.steps, run.steps) == pytest.approx(end)
        assert (run.optimizer.max_grad_norm, run.optimizer.grad_norm_type) == (0.3, "inf")
        assert (run.method.num_slots, run.batch_size, run.protocol) == (slots, 64, "spot")
        assert (run.method.decoder_blocks, run.method.decoder_heads, run.method.train_orders) == (4, 6, "random")
    first, second = (run.method for run in runs)
    assert (first.initializer, first.gradient) == ("gaussian", "unrolled")
    assert (second.initializer, second.gradient, second.teacher_orders) == ("learned", "bilevel", "random")
    assert second.encoder == replace(first.encoder, trained_blocks=4)
    assert second.teacher == f"runs/spot.{name}"
    assert second.loss_weights == {"distill": 0.005}
