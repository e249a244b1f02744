"""StableLSD and its variants on tiny random networks. The slot module's transfer: `test_transfer_glass.py`."""

from dataclasses import replace

import pytest
import torch
from tiny_models import save_diffusion

from slotworks.configs import stable_lsd
from slotworks.decoders import StableDiffusionConfig
from slotworks.evaluation.discovery import evaluate_discovery
from slotworks.evaluation.doctor import stats_of
from slotworks.methods import StableLSDConfig
from slotworks.methods.stable_lsd import boxes_of
from slotworks.nn.position import corner_grid
from slotworks.types import Decodes, Samples, UserError

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def config(tiny_vit, tmp_path_factory):
    folder = save_diffusion(tmp_path_factory.mktemp("diffusion"), prediction="v_prediction")
    return StableLSDConfig(
        encoder=replace(tiny_vit, features="normed"),
        diffusion=StableDiffusionConfig(str(folder), image_size=64, context_dim=32),
        num_slots=4,
        slot_dim=16,
        mlp_dim=24,
    )


def build(config, **changed):
    torch.manual_seed(0)
    return replace(config, **changed).build()


def batch(count=2):
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(count, 64, 64, dtype=torch.long)
    mask[:, 8:24, 16:48], mask[0, 40:64, :32] = 1, 3
    return {"image": torch.rand(count, 3, 64, 64, generator=generator), "mask": mask}


def loss(method, batch, seed=4):
    torch.manual_seed(seed)
    return method.loss(batch, 0)["recon"]


def test_positions_are_the_middles_of_the_cells():
    """LSD's grid for two rows and four columns: y, x, 1 - y, 1 - x."""
    grid = corner_grid(2, 4, centers=True)
    assert grid[:, 0, 0].tolist() == [0.25, 0.125, 0.75, 0.875]
    assert grid[1, 1].tolist() == [0.125, 0.375, 0.625, 0.875]


def test_loss_trains_the_slot_module_only(config):
    method = build(config)
    value = loss(method, batch())
    value.backward()
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"slots"}
    assert all((p.grad != 0).any() for p in method.parameters())
    assert list(method.param_groups()) == ["slots"]
    assert all(p.grad is None for p in method.decoder.parts(value).unet.parameters())
    assert not isinstance(method, Decodes)
    assert isinstance(method, Samples)


def test_loss_is_the_velocity_error_of_the_unet(config):
    """By the formulas: v = sqrt(a) noise - sqrt(1 - a) z at z_t = sqrt(a) z + sqrt(1 - a) noise, epsilon = noise."""
    method, given = build(config, initializer="learned"), batch()
    found = loss(method, given)
    context = method.encode(given["image"]).slots
    parts = method.decoder.parts(context)
    torch.manual_seed(4)
    moments = parts.vae.encode(2 * given["image"] - 1).latent_dist
    z = (moments.mean + moments.std * torch.randn(2, 4, 8, 8)) * parts.vae.config.scaling_factor
    noise, t = torch.randn(2, 4, 8, 8), (torch.rand(2) * 1000).long()
    a = parts.alphas[t][:, None, None, None]
    said = parts.unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, encoder_hidden_states=context).sample
    velocity = a.sqrt() * noise - (1 - a).sqrt() * z
    torch.testing.assert_close(found, (said - velocity).square().mean())
    assert (found - (said - noise).square().mean()).abs() > 0.01


def test_boxes_of_masks():
    mask = torch.zeros(2, 4, 8, dtype=torch.long)
    mask[0, 1, 2:5], mask[0, 2:, 7], mask[1] = 2, 5, 1
    boxes, count = boxes_of(mask, 3)
    assert boxes.tolist() == [
        [[2 / 8, 1 / 4, 5 / 8, 2 / 4], [7 / 8, 2 / 4, 1, 1], [-1] * 4],
        [[0, 0, 1, 1], [-1] * 4, [-1] * 4],
    ]
    assert count.tolist() == [2, 1]
    boxes, count = boxes_of(mask, 1)  # more objects than slots
    assert boxes[0].tolist() == [[2 / 8, 1 / 4, 5 / 8, 2 / 4]]
    assert count.tolist() == [2, 1]
    assert boxes_of(torch.zeros_like(mask), 2)[1].tolist() == [0, 0]


def test_slots_start_from_boxes(config):
    """Equal boxes start equal slots, also the missing ones; the scale acts on boxes, not on the -1 of missing ones."""
    method, given = build(config, initializer="boxes"), batch()
    starts = []
    method.slots.slot_attention.register_forward_pre_hook(lambda module, args: starts.append(args[1]))
    out = method.encode_batch(given)
    boxes, _ = boxes_of(given["mask"], 4)
    torch.testing.assert_close(starts[0], method.slots.box_mlp(boxes))
    assert torch.equal(out.slots[1, 1], out.slots[1, 3])
    pixels = build(config, initializer="boxes", box_scale=256.0)
    pixels.slots.slot_attention.register_forward_pre_hook(lambda module, args: starts.append(args[1]))
    pixels.encode_batch(given)
    torch.testing.assert_close(starts[1][0, 0], pixels.slots.box_mlp(256 * boxes[0, 0]))
    torch.testing.assert_close(starts[1][0, 3], pixels.slots.box_mlp(torch.full((4,), -1.0)))
    assert loss(method, given).isfinite()
    with pytest.raises(UserError, match="must be told the boxes of the objects"):
        method.encode(given["image"])
    with pytest.raises(UserError, match="these data have none"):
        method.loss({"image": given["image"]}, 0)


def test_as_many_slots_as_objects(config):
    """Two objects and one; the other slots win nothing, and become what the mean of all values makes of them."""
    method, given = build(config, dynamic=True), batch()
    out = method.encode_batch(given)
    won = out.attn.sum(dim=2)
    assert (won > 0).tolist() == [[True, True, False, False], [True, False, False, False]]
    torch.testing.assert_close(out.attn[1, 0], torch.ones(16))
    none = method.encode(given["image"], num_objects=torch.tensor([0, 9]))  # none counts as one, nine as all
    assert none.slots.isfinite().all()
    assert (none.attn.sum(dim=2) > 0).sum(dim=1).tolist() == [1, 4]
    with pytest.raises(UserError, match="must be told their number"):
        method.encode(given["image"])


def test_absent_slots_may_be_kept_from_the_unet(config):
    """Changing how absent slots start changes the loss as released, and not when they are dropped."""
    given, found = batch(), {}
    for drop in (False, True):
        method = build(config, initializer="learned", dynamic=True, drop_masked_slots_from_context=drop)
        before = loss(method, given)
        with torch.no_grad():
            method.slots.initializer.slots[2:] += 3
        found[drop] = (loss(method, given) - before).abs().item()
    assert found[False] > 1e-5
    assert found[True] < 1e-6


class Pictures:
    def __len__(self):
        return 4

    def __getitems__(self, indices):
        given = batch(2)
        image = (255 * given["image"]).byte().movedim(1, -1).numpy()
        rows = [index % 2 for index in indices]
        return {"image": image[rows], "mask": given["mask"].numpy()[rows]}


def test_the_variants_are_evaluated_with_what_they_are_told(config):
    for changed in ({"dynamic": True}, {"initializer": "boxes"}):
        method = build(config, **changed)
        result = evaluate_discovery(method, Pictures(), protocol="oclf[attention]", batch_size=2)
        assert 0 <= result.metrics["mbo_i"].mean <= 1
        stats_of(method, Pictures(), num_images=4)


def test_a_trained_unet_gets_a_group_of_its_own(config):
    method = build(replace(config, diffusion=replace(config.diffusion, trained=True)))
    groups = method.param_groups()
    assert list(groups) == ["slots", "unet"]
    assert sum(len(group) for group in groups.values()) == len(list(method.parameters()))


def test_recipes_are_the_released_settings():
    run = stable_lsd.coco()
    assert (run.steps, run.batch_size, run.optimizer.lr, run.optimizer.weight_decay) == (500_000, 128, 2e-5, 1e-2)
    method = run.method
    assert (method.num_slots, method.slot_dim, method.num_iterations, method.image_size) == (7, 768, 5, 448)
    assert method.encoder.features == "normed"
    with pytest.raises(ValueError, match="the encoder of StableLSD is frozen"):
        replace(method, encoder=replace(method.encoder, trained_blocks=1))
