"""The departures of DINOSAUR and SPOT that small data need, and the second round."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from slotworks.encoders import ViTConfig
from slotworks.guidance import match_masks
from slotworks.methods import DinosaurConfig, DinosaurStudentConfig, FeatureKMeansConfig, SpotConfig, SpotStudentConfig
from slotworks.nn.noise import shared_noise
from slotworks.nn.position import wave_coordinates
from slotworks.slots import KMeansInit, SlotAttention
from slotworks.slots.features import blend_with_start
from slotworks.types import UserError

VIT = ViTConfig(image_size=32, patch_size=8, feature_dim=12)
SIZES = {"encoder": VIT, "num_slots": 3, "slot_dim": 8, "mlp_dim": 16, "decoder_heads": 2, "decoder_blocks": 1}
PHOTOS = {"feature_components": 4, "initializer": "kmeans", "value_coordinates": True}
FLAT = DinosaurConfig(**SIZES, **PHOTOS, tied_queries=True, decoder="flat", decoder_dims=(16,), decoded_patches=5)
HIDDEN = DinosaurConfig(**SIZES, **PHOTOS, decoder="transformer", hidden_inputs=1.0)
SPOT = SpotConfig(**SIZES, **PHOTOS, hidden_inputs=0.5)


def planted(batch=4, noise=0.05):
    """Features of three kinds, in stripes of their own in each image."""
    torch.manual_seed(3)
    kinds = torch.randn(3, 12)
    ids = torch.stack([torch.arange(16).roll(3 * k) // 6 for k in range(batch)])
    return kinds[ids] + noise * torch.randn(batch, 16, 12) + 5, ids


def build(config):
    torch.manual_seed(0)
    method = config.build()
    method.fit([{"features": planted()[0]}])
    return method


def same_partition(first, second):
    pairs = {(int(a), int(b)) for a, b in zip(first, second, strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("config", [FLAT, HIDDEN, SPOT])
def test_slots_start_at_clusters_and_the_loss_has_gradients_everywhere(config):
    method = build(config).train()
    features, ids = planted()
    points = method.points(features)
    clusters = method.clusters(points)
    assert all(same_partition(own, true) for own, true in zip(clusters, ids, strict=True))
    method.loss({"features": features}, 0)["recon"].backward()
    missing = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    begins = {"decoder.begin", "decoder.embed.0.weight", "decoder.embed.1.weight", "decoder.embed.1.bias"}
    assert set(missing) <= (begins if config is HIDDEN else set()) | {"decoder.to_mask.bias"}  # softmax: no effect


def test_k_means_slots_are_means_of_projected_features_and_pass_a_gradient():
    init = KMeansInit(3, 5, 5)
    labels = torch.tensor([[0, 0, 2, 2, 2]])
    projected = torch.randn(1, 5, 5, requires_grad=True)
    slots = init(labels, projected)
    torch.testing.assert_close(slots[0, 0], projected[0, :2].mean(0))
    torch.testing.assert_close(slots[0, 2], projected[0, 2:].mean(0))
    assert (slots[0, 1] == 0).all()
    slots[0, 2].sum().backward()
    torch.testing.assert_close(projected.grad[0, :, 0], torch.tensor([0, 0, 1 / 3, 1 / 3, 1 / 3]))


def test_k_means_is_that_of_the_batch_however_it_is_split():
    init, x = KMeansInit(3, 4, 4).train(), torch.randn(4, 30, 4)
    with shared_noise(7, part=0, parts=1):
        whole = init.cluster(x)
    halves = []
    for part in range(2):
        with shared_noise(7, part=part, parts=2):
            halves.append(init.cluster(x[2 * part : 2 * part + 2]))
    assert torch.equal(torch.cat(halves), whole)


def test_another_number_of_slots():
    method = build(FLAT).eval()
    out = method._group(method.points(planted()[0]), 5)
    assert out.slots.shape == (4, 5, 8)
    assert method.decode(out.slots).masks.shape == (4, 5, 4, 4)


def test_coordinates_change_what_is_gathered_and_not_where_slots_look():
    torch.manual_seed(0)
    attention, x, slots = SlotAttention(6, 6, num_iterations=1), torch.randn(2, 9, 6), torch.randn(2, 3, 6)
    plain, moved = attention(x, slots), attention(x, slots, value_features=x + torch.randn(9, 6))
    assert torch.equal(plain.attn, moved.attn)
    assert (plain.slots - moved.slots).abs().max() > 1e-3
    assert torch.equal(attention(x, slots, value_features=x).slots, plain.slots)


def test_coordinates_have_mean_zero_and_variance_about_one():
    waves = wave_coordinates(16, 16)
    assert waves.shape == (256, 10)
    assert waves[:, :2].var(0).numpy() == pytest.approx(1, abs=0.15)
    assert waves[0, 0] == waves[0, 1] == -(3**0.5)
    assert waves[1, 0] == waves[0, 0] < waves[16, 0]  # rows first
    np.testing.assert_allclose(waves[-1, 2:4], 2**0.5, rtol=1e-6)  # a quarter of a period from the middle


def test_tied_queries_start_as_copies_of_the_keys():
    method = build(FLAT)
    assert torch.equal(method.slot_attention.to_q.weight, method.slot_attention.to_k.weight)
    assert method.slot_attention.to_q.weight is not method.slot_attention.to_k.weight
    with pytest.raises(ValueError, match="tied_queries needs keys and queries of one shape"):
        replace(SPOT, tied_queries=True).build()


def test_without_departures_weights_are_those_of_before():
    """Options that are off draw no random number and add no name."""
    torch.manual_seed(0)
    plain = DinosaurConfig(**SIZES).build().state_dict()
    torch.manual_seed(0)
    more = DinosaurConfig(**SIZES, feature_components=12, value_coordinates=True).build().state_dict()
    assert set(more) - set(plain) == {"components.mean", "components.basis", "components.scale", "coordinates.weight"}
    assert all(torch.equal(more[name], value) for name, value in plain.items())


def test_some_patches_cost_what_all_of_them_do_at_those():
    method = build(FLAT).train()
    features = planted()[0]
    torch.manual_seed(5)
    losses = [method.loss({"features": features}, 0)["recon"].item() for _ in range(200)]
    whole = replace(FLAT, decoded_patches=None).build().train()
    whole.load_state_dict(method.state_dict())
    all_of_them = [whole.loss({"features": features}, 0)["recon"].item() for _ in range(20)]
    assert np.mean(losses) == pytest.approx(np.mean(all_of_them), rel=0.03)
    assert np.std(losses) > 3 * np.std(all_of_them)


def test_options_that_would_not_be_read_are_refused():
    with pytest.raises(ValueError, match=r"decoded_patches is 4, which means nothing with method.decoder=transformer"):
        DinosaurConfig(decoder="transformer", decoded_patches=4)
    with pytest.raises(ValueError, match=r"hidden_inputs is 0.5, which means nothing with method.decoder=mlp"):
        DinosaurConfig(hidden_inputs=0.5)
    with pytest.raises(ValueError, match=r"teacher_start is 0.5, which means nothing with method.teacher_masks"):
        SpotStudentConfig(teacher_start=0.5)


# ---- the second round ----------------------------------------------------------------------------------------------


def test_a_vote_of_the_start_keeps_shares():
    attn = torch.tensor([[[0.6, 0.2], [0.4, 0.8]]])
    blended = blend_with_start(attn, torch.tensor([[0, 0]]), 0.5)
    torch.testing.assert_close(blended, torch.tensor([[[1.1, 0.7], [0.4, 0.8]]]) / 1.5)
    assert blend_with_start(attn, None, 0.5) is attn


def student(config, teacher, **changed):
    torch.manual_seed(1)
    kind = SpotStudentConfig if isinstance(config, SpotConfig) else DinosaurStudentConfig
    taught = {"teacher_masks": "attention", "teach_decoder": True} if kind is SpotStudentConfig else {}
    sizes = {name: value for name, value in vars(config).items() if name != "loss_weights"}
    method = kind(**{**sizes, **taught, "teacher_start": 0.5, "initializer": "kmeans", **changed}).build()
    method.prepare(lambda folder: teacher)
    return method


@pytest.mark.parametrize("config", [FLAT, HIDDEN])
def test_the_second_round_starts_from_the_weights_of_the_first(config):
    teacher = build(config)
    method = student(config, teacher)
    assert all(torch.equal(method.state_dict()[name], value) for name, value in teacher.state_dict().items())
    assert not any("teacher" in name for name in method.state_dict())
    method.fit([{"features": torch.zeros(4, 16, 12)}])  # nothing: components are the teacher's
    features = planted()[0]
    points = method.points(features)
    torch.testing.assert_close(points, teacher.points(features))
    clusters = method.clusters(points)
    own = method._group(points, clusters=clusters).attn
    torch.testing.assert_close(method._taught(points, clusters), blend_with_start(own, clusters, 0.5))
    terms = method.train().loss({"features": features}, 0)
    assert set(terms) == {"recon", "distill"}
    terms["distill"].backward()
    assert method.slot_attention.to_q.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())


def test_the_teacher_may_teach_the_decoder_at_the_patches_that_are_decoded():
    """The cross-entropy of the decoder's masks at 5 of 16 patches, written out for what the student predicts there."""
    method = student(FLAT, build(FLAT), teach_decoder=True).train()
    torch.manual_seed(5)
    terms = method.loss({"features": planted()[0]}, 0)
    torch.manual_seed(5)
    points = method.points(planted()[0])
    clusters = method.clusters(points)
    out = method._group(points, clusters=clusters)
    taught = method._taught(points, clusters)
    _, masks, patches = method._reconstruction(points, out.slots)
    assert masks.shape == (4, 3, 5)
    order = match_masks(out.attn, taught)
    by_hand = -(taught[:, :, patches] * torch.stack([m[k] for m, k in zip(masks, order, strict=True)]).log())
    torch.testing.assert_close(terms["distill_decoder"], by_hand.sum(1).mean())
    terms["distill_decoder"].backward()
    assert method.decoder.to_mask.weight.grad.abs().sum() > 0


def test_a_spot_student_on_frozen_features_needs_no_images():
    method = student(SPOT, build(SPOT)).train()
    terms = method.loss({"features": planted()[0]}, 0)
    assert set(terms) == {"recon", "distill", "distill_decoder"}
    sum(terms.values()).backward()
    fresh = student(SPOT, teacher := build(SPOT))
    weight = "feature_mlp.1.weight"
    assert not torch.equal(fresh.state_dict()[weight], teacher.state_dict()[weight])
    taken = student(SPOT, teacher, start_from_teacher=True)
    assert torch.equal(taken.state_dict()[weight], teacher.state_dict()[weight])
    assert taken.config.starts_trained
    assert not fresh.config.starts_trained


def test_a_spot_student_may_be_taught_by_dinosaur():
    method = student(SPOT, build(FLAT)).train()
    assert method.loss({"features": planted()[0]}, 0)["distill"] > 0


def test_teachers_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="a run of FeatureKMeans; give a run of DINOSAUR"):
        student(FLAT, FeatureKMeansConfig(encoder=VIT).build())
    with pytest.raises(UserError, match=r"has method.feature_components 3, the student 4; set both alike"):
        student(FLAT, replace(FLAT, feature_components=3).build())
    with pytest.raises(UserError, match="train both on the same encoder"):
        student(FLAT, replace(FLAT, encoder=replace(VIT, features="normed")).build())
    with pytest.raises(UserError, match=r"has 4 slots, method.num_slots is 3; the student needs as many"):
        student(FLAT, replace(FLAT, num_slots=4).build())


def test_hidden_inputs_hide_the_features():
    method = build(HIDDEN)
    points = method.points(planted()[0])
    slots = method._group(points).slots
    assert torch.equal(method.decode(slots, points).recon, method.decode(slots, torch.zeros_like(points)).recon)
    partly = build(replace(HIDDEN, hidden_inputs=0.5))
    torch.manual_seed(0)
    first = partly.decode(slots, points).recon
    torch.manual_seed(0)
    assert (first - partly.decode(slots, torch.zeros_like(points)).recon).abs().max() > 1e-3
