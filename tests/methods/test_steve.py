"""STEVE. That it is the original: `test_transfer_slate.py`."""

from dataclasses import replace

import pytest
import torch

from slotworks.configs import dvae as dvae_recipes
from slotworks.configs import steve
from slotworks.methods import SteveConfig
from slotworks.training import train
from slotworks.training.checkpoint import load_method
from slotworks.training.optimizer import build_optimizer, set_learning_rates
from slotworks.types import Samples

SMALL = SteveConfig(
    image_size=16,
    vocab_size=12,
    dvae_channels=6,
    cnn_channels=4,
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


def videos(frames=4):
    torch.manual_seed(1)
    return torch.rand(2, frames, 3, 16, 16)


def test_parameters_of_the_released_configuration():
    """By hand: dVAE, Transformer, tables, CNN with positions and MLP, slots, predictor."""
    with torch.device("meta"):
        method = SteveConfig().build()
    d = 192
    tables = (4096 + 1 + 1025 + d + 4096) * d
    cnn = 25 * (3 + 64 + 64) * 64 + 3 * 64 + 25 * 64 * d + d + 4 * d + d + 2 * d + 2 * (d * d + d)
    slots = 3 * 2 * d + 3 * d * d + 2 * (3 * d * d + 3 * d) + 2 * (d * d + d) + 2 * d
    predictor = 4 * d * d + 8 * d * d + 5 * d + 3 * 2 * d
    assert sum(p.numel() for p in method.parameters()) == 680_515 + 4_735_872 + tables + cnn + slots + predictor


def test_slots_of_every_frame():
    method = build().eval()
    out = method.encode(videos())
    assert out.slots.shape == (2, 4, 3, 8)
    assert out.attn_maps.shape == (2, 4, 3, 8, 8)
    assert isinstance(method, Samples)
    assert method.sample(out.slots).shape == (2, 4, 3, 16, 16)
    torch.testing.assert_close(method.sample(out.slots[:, 2]), method.sample(out.slots)[:, 2])


def test_in_pieces_is_at_once():
    method, video = build().double().eval(), videos(5).double()
    torch.manual_seed(3)
    whole = method.encode(video)
    torch.manual_seed(3)
    first = method.encode(video[:, :2])
    second = method.encode(video[:, 2:], state=first.state)
    torch.testing.assert_close(torch.cat([first.slots, second.slots], dim=1), whole.slots)
    torch.testing.assert_close(torch.cat([first.attn, second.attn], dim=1), whole.attn)


def test_a_frame_changes_nothing_before_it():
    method, video = build().double().eval(), videos().double()
    changed = video.clone()
    changed[:, 2] = 0
    outs = []
    for one in (video, changed):
        torch.manual_seed(3)
        outs.append(method.encode(one).slots)
    assert torch.equal(outs[0][:, :2], outs[1][:, :2])
    assert ((outs[0] - outs[1])[:, 2:].abs().amax(dim=(2, 3)) > 1e-9).all()


@pytest.mark.parametrize(("iterations", "first", "calls"), [(1, None, 0), (2, None, 4), (3, None, 8), (1, 4, 3)])
def test_the_mlp_is_left_out_of_the_last_iteration_of_each_frame(iterations, first, calls):
    method, seen = build(num_iterations=iterations, first_iterations=first).eval(), []
    method.slots.corrector.mlp.register_forward_hook(lambda *_: seen.append(1))
    method.encode(videos(4))
    assert len(seen) == calls


def test_each_loss_trains_its_own_part():
    for term, trained in (("recon", {"dvae"}), ("cross_entropy", {"encoder", "decoder"})):
        method = build()
        method.loss({"video": videos()}, 0)[term].backward()
        for name, group in method.param_groups().items():
            grads = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in group]
            assert all(grads) if name in trained else not any(grads), (term, name)


def test_losses_are_means_over_frames():
    """The same frame again and again: the error of one; a mean over videos alone would be four times it."""
    method, video = build(dropout=0.0), videos(1).expand(2, 4, 3, 16, 16)
    torch.nn.init.zeros_(method.dvae.decoder[-1].weight)
    torch.testing.assert_close(method.loss({"video": video}, 0)["recon"], video[:, 0].square().sum() / 2)


def test_at_first_every_frame_is_a_video_of_its_own():
    """On single frames at first, the error of the frames in another order is the same; carried, it is not."""
    method, seen = build(dropout=0.0, short_clips=((2, 1),), target_tokens="probable", initializer="learned").eval(), []
    method.slots.predictor.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].shape[0]))
    for step in (1, 2):
        forth = method.loss({"video": videos(3)}, step)["cross_entropy"]
        back = method.loss({"video": videos(3).flip(1)}, step)["cross_entropy"]
        assert torch.isclose(forth, back, rtol=1e-5) == (step == 1)
    assert seen == 4 * [2]  # six videos of one frame have no next one to predict; two of three frames have two
    assert method.config.skips_weights


@pytest.mark.parametrize(
    ("step", "encoder"),
    [(0, 0.0), (15_000, 4.7963e-5), (30_000, 9.2018e-5), (100_000, 7.5786e-5), (200_000, 5.7435e-5)],
)
def test_learning_rates_of_the_released_code(step, encoder):
    """min(step / 30k, 1) 0.5^(step / 250k) of 1e-4 and 3e-4; the dVAE has 3e-4 throughout."""
    run = replace(steve.movi_d(), method=replace(SMALL, image_size=128))
    optimizer = build_optimizer(run.method.build(), run)
    set_learning_rates(optimizer, run, step)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == [pytest.approx(encoder, rel=1e-4), pytest.approx(3 * encoder, rel=1e-4), pytest.approx(3e-4)]


def test_groups_of_the_released_code():
    method = build()
    names = {id(p): name for name, p in method.named_parameters()}
    groups = {group: {names[id(p)].split(".")[0] for p in ps} for group, ps in method.param_groups().items()}
    assert groups == {
        "encoder": {"encoder", "initializer", "slots", "decoder"},
        "decoder": {"decoder"},
        "dvae": {"dvae"},
    }
    late = [names[id(p)] for p in method.param_groups()["encoder"] if names[id(p)].startswith("decoder.")]
    assert late == ["decoder.project_slots.weight"]


@pytest.mark.parametrize("variant", ["d", "e"])
def test_recipes(variant):
    run = getattr(steve, f"movi_{variant}")()
    assert (run.data.variant, run.data.clip_length, run.data.size) == (variant, 3, (128, 128))
    assert (run.steps, run.batch_size) == (200_000, 24)
    assert (run.optimizer.max_grad_norm, run.optimizer.grad_norm_type) == (0.05, "inf")
    assert (run.method.num_slots, run.method.num_iterations, run.method.decoder_blocks) == (15, 2, 8)
    second = getattr(steve, f"movi_{variant}_stage2")()
    first = getattr(dvae_recipes, f"movi_{variant}")()
    assert second.method.dvae_run == f"runs/dvae.movi_{variant}"
    for field in ("image_size", "vocab_size", "dvae_channels", "dvae_block", "dvae_signed"):
        assert getattr(second.method, field) == getattr(first.method, field)


def test_killed_and_resumed_is_trained_in_one_go(tmp_path):
    run = steve.scenes_mini()
    small = {"cnn_channels": 4, "slot_dim": 8, "mlp_dim": 12, "model_dim": 8}
    words = dvae_recipes.videos_mini()
    words = replace(
        words, method=replace(words.method, dvae_channels=6), data=replace(words.data, num_train=8), steps=1
    )
    train(replace(words, batch_size=2, eval_every=1, tensorboard=False), tmp_path / "words")
    run = replace(
        run,
        method=replace(run.method, dvae_channels=6, dvae_run=str(tmp_path / "words"), short_clips=((3, 1),), **small),
        data=replace(run.data, num_train=8, num_val=2, num_test=2),
        steps=4,
        batch_size=2,
        eval_every=4,
        save_every=2,
        tensorboard=False,
    )
    train(run, tmp_path / "whole")
    train(run, tmp_path / "parts", stop_after=2)
    train(run, tmp_path / "parts")
    states = [load_method(tmp_path / name).state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
