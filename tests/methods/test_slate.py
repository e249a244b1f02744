"""SLATE. That it is the original: `test_transfer_slate.py`."""

import math
from dataclasses import replace

import pytest
import torch

from slotworks.configs import dvae as dvae_recipes
from slotworks.configs import slate
from slotworks.data.scenes import ShapeScenes
from slotworks.editing import remove, render_edit, take_apart
from slotworks.evaluation.reconstruction import evaluate_reconstruction
from slotworks.methods import DVAEConfig, SlateConfig, SlotAttentionConfig
from slotworks.training import load_run, schedule, train
from slotworks.training.checkpoint import load_method
from slotworks.training.optimizer import build_optimizer, set_learning_rates
from slotworks.types import Decodes, Samples, UserError

SMALL = SlateConfig(
    image_size=16,
    vocab_size=12,
    dvae_channels=6,
    num_slots=3,
    slot_dim=8,
    mlp_dim=12,
    model_dim=8,
    decoder_blocks=2,
    decoder_heads=2,
)


def build(**changed):
    torch.manual_seed(0)
    return replace(SMALL, **changed).build()


def images(batch=2):
    torch.manual_seed(1)
    return torch.rand(batch, 3, 16, 16)


def test_parameters_of_the_released_configuration():
    """By hand: dVAE, Transformer, tables and projections (counted in tests/decoders), the slots' side."""
    with torch.device("meta"):
        method = SlateConfig().build()
    d = 192
    tables = (1024 + 1 + 257 + d + 1024) * d
    slots = 2 * d + 2 * (d * d + d) + 3 * 2 * d + 3 * d * d + 2 * (3 * d * d + 3 * d) + 2 * (d * d + d) + 2 * d
    assert sum(p.numel() for p in method.parameters()) == 285_635 + 2_368_128 + tables + slots


def test_slots_and_masks():
    method = build().eval()
    out = method.encode(images())
    assert out.slots.shape == (2, 3, 8)
    assert out.attn_maps.shape == (2, 3, 4, 4)
    torch.testing.assert_close(out.attn.sum(dim=1), torch.ones(2, 16))
    assert isinstance(method, Samples)
    assert not isinstance(method, Decodes)  # so attention is scored, as in the original
    assert method.encode(images(), num_slots=5, num_iterations=2).slots.shape == (2, 5, 8)
    assert len(build(test_iterations=6).eval().encode(images()).attn_steps) == 6


def test_each_loss_trains_its_own_part():
    """The error of the dVAE nothing else; the cross-entropy everything but the dVAE."""
    for term, trained in (("recon", {"dvae"}), ("cross_entropy", {"encoder", "decoder"})):
        method = build()
        method.loss({"image": images()}, 0)[term].backward()
        for name, group in method.param_groups().items():
            grads = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in group]
            assert all(grads) if name in trained else not any(grads), (term, name)


def test_first_losses():
    """Sums over an image: L ln V for the tokens of a head of zeros; pixels of a reconstruction of zeros."""
    method, image = build(), images(3)
    torch.nn.init.zeros_(method.decoder.head.weight)
    torch.nn.init.zeros_(method.dvae.decoder[-1].weight)
    terms = method.loss({"image": image}, 0)
    assert terms["cross_entropy"].item() == pytest.approx(16 * math.log(12), rel=1e-5)
    torch.testing.assert_close(terms["recon"], image.square().sum() / 3)


def test_slots_look_at_what_the_decoder_reads():
    """The same embeddings, dropout included, the begin token left out."""
    method, seen = build(dropout=0.5), []
    method.token_mlp.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    method.decoder.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    method.loss({"image": images()}, 0)
    slots_side, decoder_side = seen
    assert torch.equal(slots_side[:, :-1], decoder_side[:, 1:])
    assert (slots_side == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_permuted_initial_slots_permute_slots_and_attention():
    method = build().double().eval()
    embedded = method.token_mlp(method.decoder.embed(method.dvae.tokenize(images().double()))[:, 1:])
    slots, order = torch.randn(2, 3, 8).double(), torch.tensor([2, 0, 1])
    one, other = (method.slot_attention(embedded, s) for s in (slots, slots[:, order]))
    torch.testing.assert_close(other.slots, one.slots[:, order])
    torch.testing.assert_close(other.attn, one.attn[:, order])


def test_target_tokens():
    """Samples differ from step to step, the most probable ones do not."""
    for kind, differ in (("sampled", True), ("probable", False)):
        method, seen = build(target_tokens=kind, dropout=0.0), []
        method.decoder.words.register_forward_hook(lambda _, args, __, seen=seen: seen.append(args[0]))
        image = images()
        for seed in range(2):
            torch.manual_seed(seed)
            method.loss({"image": image}, 0)
        assert torch.equal(*seen) != differ


def test_pictures_from_slots_and_their_edits():
    method = build()
    scene = take_apart(method, images()[0])
    edit = render_edit(method, scene, remove(scene.slots[None], 1)[0])
    assert edit.recon.shape == edit.edited.shape == (1, 3, 16, 16)
    assert 0 <= edit.recon.min() <= edit.recon.max() <= 1
    assert method.training  # as it was


def test_there_are_no_steps_and_no_guidance():
    """A number of them is refused, not silently without effect; records and answers name none."""
    method, scene = build(), take_apart(build(), images()[0])
    assert method.sampling == {}
    for name, options in {"steps is 5": {"steps": 5}, "cfg_scale is 1.5": {"cfg_scale": 1.5}}.items():
        with pytest.raises(UserError, match=f"{name}, but Slate generates pictures without such a setting; leave"):
            render_edit(method, scene, scene.slots, **options)
    data = ShapeScenes(image_size=16, num_test=2, sizes=(0.5,), min_objects=1, max_objects=2).open("test")
    rules = evaluate_reconstruction(method, data).rules
    assert "; sampled, noise from seed 0 in every batch of 64; mean" in rules


def test_drawn_pictures_repeat_with_their_seed():
    method, slots = build(temperature=1.0, top_k=8).eval(), torch.randn(2, 3, 8)
    first, again, other = (
        method.sample(slots, steps=7, cfg_scale=2.0, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def shorter(run, **changed):
    small = {name: getattr(SMALL, name) for name in ("dvae_channels", "slot_dim", "mlp_dim", "model_dim")}
    method = replace(run.method, **{k: v for k, v in small.items() if hasattr(run.method, k)})
    data = replace(run.data, num_train=16, num_val=4, num_test=4)
    run = replace(run, method=method, data=data, steps=4, batch_size=4, eval_every=4, save_every=2, tensorboard=False)
    return replace(run, **changed)


def test_killed_and_resumed_is_trained_in_one_go(tmp_path):
    run = shorter(slate.scenes_mini())
    train(run, tmp_path / "whole")
    train(run, tmp_path / "parts", stop_after=2)
    train(run, tmp_path / "parts")
    states = [load_method(tmp_path / name).state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_two_stages(tmp_path):
    """The first stage's dVAE is taken over, kept, and saved with the second stage."""
    first = shorter(dvae_recipes.scenes_mini())
    train(first, tmp_path / "dvae")
    run = shorter(slate.scenes_mini())
    run = replace(run, method=replace(run.method, dvae_run=str(tmp_path / "dvae")))
    train(run, tmp_path / "slate")
    one, two = load_method(tmp_path / "dvae"), load_method(tmp_path / "slate")
    for name, value in one.dvae.state_dict().items():
        assert torch.equal(value, two.dvae.state_dict()[name])
    assert list(two.loss({"image": torch.rand(1, 3, 32, 32)}, 0)) == ["cross_entropy"]
    assert two.param_groups()["dvae"] == []  # there, so that learning rates may name it
    assert load_run(tmp_path / "slate").method == run.method


def test_the_first_stage_must_fit():
    for other, sentence in (
        (SlotAttentionConfig().build(), "is a run of SlotAttentionAutoencoder, which has no discrete VAE"),
        (DVAEConfig(vocab_size=9, dvae_channels=6).build(), "has 9 words .* than the one asked for, with 12"),
    ):
        with pytest.raises(UserError, match=sentence):
            build(dvae_run="runs/first").prepare(lambda _, other=other: other)


@pytest.mark.parametrize(
    ("name", "size", "slots", "iterations", "blocks", "heads", "slot_heads", "words"),
    [
        ("shapes3d", 64, 3, 3, 4, 4, 1, 1024),
        ("clevr_mirror", 128, 12, 7, 8, 8, 1, 4096),
        ("shapestacks", 96, 12, 7, 8, 8, 1, 4096),
        ("bitmoji", 128, 8, 3, 8, 8, 4, 4096),
        ("clevrtex", 128, 11, 3, 8, 8, 1, 4096),
        ("celeba", 128, 4, 3, 8, 8, 1, 4096),
    ],
)
def test_recipes_of_the_paper(name, size, slots, iterations, blocks, heads, slot_heads, words):
    run = getattr(slate, name)()
    method = run.method
    assert run.data.size == (size, size)
    assert (method.num_slots, method.num_iterations, method.slot_heads) == (slots, iterations, slot_heads)
    assert (method.decoder_blocks, method.decoder_heads, method.vocab_size) == (blocks, heads, words)
    assert (method.model_dim, method.slot_dim, method.mlp_dim, method.dropout) == (192, 192, 192, 0.1)
    assert (run.optimizer.max_grad_norm, run.optimizer.grad_norm_type, run.batch_size) == (1.0, "inf", 50)


@pytest.mark.parametrize(("name", "slots", "steps"), [("coco", 11, 250_000), ("voc", 7, 400_000)])
def test_coco_and_voc_are_oclfs(name, slots, steps):
    """`configs/experiment/slate/_base_large.yaml`, `coco.yaml` and `voc2012_trainaug.yaml`: 8 processes of 8 images."""
    run = getattr(slate, name)()
    method = run.method
    assert (method.num_slots, method.num_iterations, method.slot_dim, method.mlp_dim) == (slots, 7, 192, 192)
    assert (method.vocab_size, method.decoder_blocks, method.decoder_heads, method.dropout) == (4096, 8, 8, 0.1)
    assert (method.tau_steps, method.image_size, method.dvae_signed) == (30_000, 128, True)
    assert method.loss_weights == {"recon": 4.0}  # values in [-1, 1], as normalised there
    assert (run.steps, run.batch_size, run.optimizer.max_grad_norm, run.optimizer.grad_norm_type) == (
        steps,
        64,
        1,
        "l2",
    )
    assert (run.optimizer.lr_scales, run.optimizer.constant_groups) == ({}, ())
    for step, rate in ((15_000, 1.5e-4), (30_000, 3e-4), (155_000, 3e-4 / 2**0.5)):
        assert schedule(run.optimizer, step, run.steps) == pytest.approx(rate)


@pytest.mark.parametrize(("step", "main"), [(0, 0.0), (3_000, 1e-5), (15_000, 5e-5), (30_000, 1e-4), (160_000, 1e-4)])
def test_learning_rates_of_the_released_code(step, main):
    """Linear over 30,000 steps for all but the dVAE, which has 3e-4 throughout."""
    run = replace(slate.shapes3d(), method=replace(SMALL, image_size=64))
    optimizer = build_optimizer(run.method.build(), run)
    set_learning_rates(optimizer, run, step)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([main, main, 3e-4])


@pytest.mark.parametrize("name", ["clevrtex_stage2", "celeba_stage2"])
def test_second_stages_follow_slot_diffusion(name):
    run = getattr(slate, name)()
    first = getattr(dvae_recipes, name.removesuffix("_stage2"))()
    assert run.method.dvae_run == f"runs/dvae.{name.removesuffix('_stage2')}"
    for field in ("image_size", "vocab_size", "dvae_channels", "dvae_block", "dvae_signed"):
        assert getattr(run.method, field) == getattr(first.method, field)
    assert run.method.loss_weights == {"cross_entropy": 1 / (32 * 32)}  # a mean over tokens
    assert schedule(run.optimizer, run.optimizer.warmup_steps, run.steps) == 1e-4
    assert run.optimizer.warmup_steps == pytest.approx(0.05 * run.steps, rel=1e-4)
    assert first.method.tau_steps == pytest.approx(0.15 * first.steps, rel=1e-4)
    assert run.method.parts == "slot_diffusion"


def test_constant_groups_must_exist():
    run = replace(slate.shapes3d(), optimizer=replace(slate.shapes3d().optimizer, constant_groups=("vae",)))
    with pytest.raises(UserError, match="constant_groups names vae, but the parameter groups"):
        build_optimizer(build(), run)


def test_slots_may_look_through_a_frozen_vit(tiny_vit):
    """At its grid and its cached features; the words are those of the image all the same."""
    method = build(encoder=tiny_vit, target_tokens="probable")
    rows, columns = tiny_vit.grid
    image = images()
    out = method.eval().encode(image)
    assert out.attn_maps.shape == (2, 3, rows, columns)
    features = method.encoder.backbone(image)
    found = []
    for batch in ({"image": image}, {"image": image, "features": features}, {"image": image, "features": -features}):
        torch.manual_seed(2)
        found.append(method.loss(batch, 0)["cross_entropy"].item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] != pytest.approx(found[2], rel=1e-4)
    assert not any("vit" in name or "token_mlp" in name for name, _ in method.named_parameters())
    assert method.sample(out.slots).shape == image.shape
