"""Slot Attention: closed forms, symmetries, gradients, masks. That it is the papers' module: `test_transfer.py`."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from jaxtyping import TypeCheckError

from slotworks.slots import GaussianInit, SlotAttention

VARIANTS = {
    "paper": {},
    "no mlp": {"mlp_dim": None},
    "joint heads": {"num_heads": 2},
    "separate heads": {"num_heads": 2, "heads": "separate"},
    "denominator": {"eps_in": "denominator"},
    "sum": {"aggregation": "sum"},
    "sum and norm": {"aggregation": "sum_norm"},
    "no gru": {"update": "replace"},
    "positions": {"softmax_over": "positions"},
    "normalized state": {"gru_state": "normalized"},
    "no norm": {"layer_norm": False},
    "implicit": {"gradient": "implicit"},
    "bilevel": {"gradient": "bilevel"},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())

close = partial(torch.testing.assert_close, atol=1e-10, rtol=1e-10)


def case(n=4, p=20, b=2, c=6, d=8, **options):
    """A module in float64 with random features and slots."""
    torch.manual_seed(0)
    module = SlotAttention(c, d, **({"mlp_dim": 16} | options)).double()
    return module, torch.randn(b, p, c).double(), torch.randn(b, n, d).double()


# Symmetries


@every_variant
def test_permuted_slots_give_permuted_output(options):
    module, features, slots = case(**options)
    order = torch.tensor([2, 0, 3, 1])
    out, permuted = module(features, slots), module(features, slots[:, order])
    close(permuted.slots, out.slots[:, order])
    close(permuted.attn, out.attn[:, order])


@every_variant
def test_permuted_positions_change_nothing_but_the_order_of_the_map(options):
    module, features, slots = case(**options)
    order = torch.randperm(20)
    out, permuted = module(features, slots), module(features[:, order], slots)
    close(permuted.slots, out.slots)
    close(permuted.attn, out.attn[..., order])


@every_variant
def test_images_of_a_batch_do_not_see_each_other(options):
    module, features, slots = case(**options)
    close(module(features[1:], slots[1:]).slots, module(features, slots).slots[1:])


@every_variant
def test_identical_slots_stay_identical(options):
    module, features, slots = case(**options)
    out = module(features, slots[:, :1].expand(-1, 3, -1))
    close(out.slots[:, 1], out.slots[:, 0])
    close(out.slots[:, 2], out.slots[:, 0])


# Attention


@pytest.mark.parametrize("heads", ["joint", "separate"])
def test_attention_sums_to_one_over_slots_in_every_iteration(heads):
    module, features, slots = case(num_heads=2, heads=heads)
    out = module(features, slots)
    assert len(out.attn_steps) == 3
    assert out.attn_steps[-1] is out.attn
    for attn in out.attn_steps:
        assert attn.min() > 0
        close(attn.sum(dim=1), torch.ones(2, 20).double())


def test_softmax_over_positions_sums_to_one_over_positions():
    module, features, slots = case(softmax_over="positions")
    close(module(features, slots).attn.sum(dim=2), torch.ones(2, 4).double())


def test_the_number_of_iterations_can_change():
    """For one call, or for good; two iterations are one and one more."""
    module, features, slots = case()
    one, two = (module(features, slots, num_iterations=count) for count in (1, 2))
    assert (len(one.attn_steps), len(two.attn_steps)) == (1, 2)
    assert len(module(features, slots).attn_steps) == 3
    close(two.attn_steps[0], one.attn)
    close(module(features, one.slots, num_iterations=1).slots, two.slots)
    module.num_iterations = 2
    close(module(features, slots).slots, two.slots)


def test_the_default_scale_is_the_width_of_a_head():
    assert SlotAttention(6, 8).scale == 8**-0.5
    assert SlotAttention(6, 8, num_heads=2).scale == 4**-0.5
    assert SlotAttention(6, 8, qkv_dim=32, num_heads=2).scale == 16**-0.5
    assert SlotAttention(6, 8, scale=1.0).scale == 1


# Closed forms. Without projections, norms, GRU and MLP the new slots are the weighted means themselves.


def test_one_slot_attends_everywhere_and_becomes_the_mean():
    module, features, slots = case(n=1)
    close(module(features, slots).attn, torch.ones(2, 1, 20).double())
    kmeans = SlotAttention.soft_kmeans(6).double()
    close(kmeans(features, slots[..., :6]).slots, features.mean(dim=1, keepdim=True))


@pytest.mark.parametrize("options", [{}, {"eps": 0.5}, {"num_heads": 2}], ids=str)
def test_equal_positions_give_their_value_to_every_slot(options):
    """The weights of a slot sum to one, whatever epsilon is."""
    feature = torch.randn(2, 1, 6).double()
    kmeans = SlotAttention.soft_kmeans(6, **options).double()
    slots = kmeans(feature.expand(-1, 20, -1), torch.randn(2, 4, 6).double()).slots
    close(slots, feature.expand(-1, 4, -1))


def test_epsilon_in_the_denominator_shrinks_a_slot_by_its_mass():
    """With K equal slots each wins a mass of p / K, and `eps=1` scales the mean by m / (m + 1)."""
    feature = torch.randn(2, 1, 6).double()
    kmeans = SlotAttention.soft_kmeans(6, 1, eps=1.0, eps_in="denominator").double()
    slots = kmeans(feature.expand(-1, 20, -1), torch.zeros(2, 4, 6).double()).slots
    close(slots, feature.expand(-1, 4, -1) * 5 / 6)


def test_sum_is_the_mean_times_the_mass_and_can_be_normalised():
    features, slots = torch.randn(2, 20, 6).double(), torch.zeros(2, 4, 6).double()
    options = {"num_iterations": 1, "eps": 0.0}
    mean = SlotAttention.soft_kmeans(6, **options)(features, slots).slots
    total = SlotAttention.soft_kmeans(6, **options, aggregation="sum")(features, slots).slots
    normed = SlotAttention.soft_kmeans(6, **options, aggregation="sum_norm").double()(features, slots).slots
    close(mean, features.mean(dim=1, keepdim=True).expand(-1, 4, -1))
    close(total, mean * 5)
    close(normed, torch.nn.functional.layer_norm(total, (6,)))


def test_soft_kmeans_finds_two_clusters():
    """Unit vectors around two directions, with a temperature that makes the assignment hard."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.eye(6).double()[:2].repeat_interleave(15, dim=0)
    features = torch.nn.functional.normalize(centres + 0.1 * torch.randn(30, 6, generator=generator), dim=-1)
    means = torch.stack([features[:15].mean(0), features[15:].mean(0)])
    start = torch.stack([features[3], features[20]])[None]
    kmeans = SlotAttention.soft_kmeans(6, num_iterations=10, scale=50.0)
    out = kmeans(features[None], start)
    torch.testing.assert_close(out.slots[0], means, atol=1e-6, rtol=0)
    assert out.attn[0, 0].argmin() >= 15
    torch.testing.assert_close(out.attn[0].argmax(0), torch.arange(30) // 15)


def test_both_places_of_epsilon_agree_as_far_as_epsilon_goes():
    module, features, slots = case()
    other, _, _ = case(eps_in="denominator")
    other.load_state_dict(module.state_dict())
    difference = (module(features, slots).slots - other(features, slots).slots).abs().max()
    assert 0 < difference < 20 * 1e-8 * 10


def test_epsilon_vanishes_in_half_precision():
    assert torch.tensor(1e-8, dtype=torch.float16) == 0
    assert torch.tensor(1e-8, dtype=torch.float32) > 0


def test_parameters():
    """54,336 with the two vectors of the initialiser (supplement, section 5)."""
    attention, initializer = SlotAttention(64, 64), GaussianInit(7, 64)
    assert sum(p.numel() for p in attention.parameters()) == 54_208
    assert sum(p.numel() for p in initializer.parameters()) == 128
    assert sum(p.numel() for p in SlotAttention.soft_kmeans(64).parameters()) == 0


def test_initial_weights_are_those_of_keras():
    module = SlotAttention(64, 64)
    for layer in (module.to_q, module.to_k, module.to_v):
        assert 0.98 * (6 / 128) ** 0.5 < layer.weight.abs().max() <= (6 / 128) ** 0.5
    torch.testing.assert_close(module.gru.weight_hh.T @ module.gru.weight_hh, torch.eye(64), atol=1e-5, rtol=0)
    assert all((p == 0).all() for name, p in module.named_parameters() if "bias" in name)


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_attention_in_float32(dtype):
    torch.manual_seed(0)
    module, features, slots = SlotAttention(6, 8), torch.randn(2, 20, 6), torch.randn(2, 4, 8)
    plain = module(features, slots)
    with torch.autocast("cpu", dtype=dtype):
        inside = module(features, slots)
        halves = module(features.to(dtype), slots.to(dtype))
    assert torch.equal(inside.slots, plain.slots)
    assert torch.equal(inside.attn, plain.attn)
    assert halves.slots.dtype == halves.attn.dtype == torch.float32


def test_far_apart_logits_stay_finite():
    module, features, slots = case(scale=1e4)
    out = module(features, slots)
    assert out.slots.isfinite().all()
    close(out.attn.sum(dim=1), torch.ones(2, 20).double())


# Gradients


def test_unrolled_gradient_equals_finite_differences():
    module, features, slots = case(n=2, p=4, b=1, c=3, d=3, mlp_dim=4)
    inputs = (features.requires_grad_(), slots.requires_grad_(), *module.parameters())
    assert torch.autograd.gradcheck(lambda x, s, *_: module(x, s).slots, inputs)


@pytest.mark.parametrize("gradient", ["implicit", "bilevel"])
def test_gradient_of_the_last_iteration(gradient):
    """Forward as unrolled; the gradient is that of one iteration from where the others ended."""
    module, features, slots = case()
    unrolled = module(features, slots)
    module.gradient = gradient
    features.requires_grad_()
    slots.requires_grad_()
    out = module(features, slots)
    close(out.slots, unrolled.slots)
    close(torch.stack(out.attn_steps), torch.stack(unrolled.attn_steps))
    assert [attn.requires_grad for attn in unrolled.attn_steps] == [True, True, True]
    assert [attn.requires_grad for attn in out.attn_steps] == [False, False, True]  # no memory for the others
    wanted = (features, module.to_k.weight, module.gru.weight_hh)
    gradients = torch.autograd.grad(out.slots.square().sum(), (*wanted, slots), allow_unused=True)

    module.gradient = "unrolled"
    last = module(features, slots, num_iterations=2).slots.detach().requires_grad_()
    expected = torch.autograd.grad(module(features, last, num_iterations=1).slots.square().sum(), (*wanted, last))
    for actual, wish in zip(gradients[:-1], expected[:-1], strict=True):
        close(actual, wish)
    if gradient == "implicit":
        assert gradients[-1] is None
    else:  # straight through to the initial slots
        close(gradients[-1], expected[-1])
        assert gradients[-1].abs().max() > 0.01


def test_implicit_gives_the_initialiser_no_gradient():
    module, initializer = SlotAttention(6, 8, gradient="implicit"), GaussianInit(4, 8)
    module(torch.randn(2, 20, 6), initializer(2)).slots.sum().backward()
    assert initializer.mu.grad is None
    assert initializer.log_sigma.grad is None
    assert module.to_q.weight.grad.abs().max() > 0


def test_unrolled_gives_every_parameter_a_gradient():
    torch.manual_seed(0)
    module, initializer = SlotAttention(6, 8), GaussianInit(4, 8)
    module(torch.randn(2, 20, 6), initializer(2)).slots.square().sum().backward()
    for name, parameter in [*module.named_parameters(), *initializer.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_no_gradient_is_kept_outside_of_training():
    module, features, slots = case(gradient="bilevel")
    with torch.no_grad():
        assert not module(features, slots).slots.requires_grad


# Masks


@every_variant
def test_padding_is_not_read(options):
    module, features, slots = case(**options)
    padded = torch.cat([features, 100 * torch.randn(2, 5, 6).double()], dim=1)
    mask = torch.arange(25).expand(2, -1) < 20
    out, plain = module(padded, slots, feature_mask=mask), module(features, slots)
    close(out.slots, plain.slots)
    close(out.attn[..., :20], plain.attn)


@every_variant
def test_absent_slots_win_no_position(options):
    module, features, slots = case(**options)
    mask = torch.tensor([[True, False, True, False], [True, True, True, False]])
    out = module(features, slots, slot_mask=mask)
    assert (out.attn[~mask] == 0).all()
    assert out.slots.isfinite().all()
    for i in range(2):
        alone = module(features[i : i + 1], slots[i : i + 1, mask[i]])
        close(out.slots[i, mask[i]], alone.slots[0])
        close(out.attn[i, mask[i]], alone.attn[0])


def test_masks_leave_gradients_finite():
    module, features, slots = case()
    mask = torch.tensor([[True, False, True, False], [True, True, True, False]])
    features.requires_grad_()
    out = module(features, slots, slot_mask=mask, feature_mask=torch.arange(20).expand(2, -1) < 15)
    out.slots[mask].square().sum().backward()
    assert features.grad.isfinite().all()
    assert (features.grad[:, 15:] == 0).all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


# Mistakes


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"qkv_dim": 10, "num_heads": 4}, "qkv_dim is 10 but num_heads is 4; make the width a multiple of the heads"),
        ({"projections": False}, "feature_dim is 6 and slot_dim 8; make them equal"),
        ({"update": "replace", "qkv_dim": 16}, 'update="replace" needs qkv_dim 16 equal to slot_dim 8'),
    ],
)
def test_a_mistake_in_the_arguments_is_named(options, text):
    with pytest.raises(ValueError, match=text):
        SlotAttention(6, 8, **options)


def test_replace_works_where_the_projection_restores_the_width():
    module, features, slots = case(update="replace", qkv_dim=16, num_heads=2, heads="separate")
    assert module(features, slots).slots.shape == slots.shape


def test_a_mask_must_be_boolean():
    module, features, slots = case()
    with pytest.raises(TypeCheckError, match="feature_mask"):
        module(features, slots, feature_mask=torch.ones(2, 20))


def test_misspelt_options_are_refused():
    """In a process of its own: the checked annotations of the test run would refuse them first."""
    code = "from slotworks.slots import SlotAttention; SlotAttention(8, 8, gradient='bi-level')"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError: gradient is 'bi-level'; choose unrolled, implicit, bilevel." in answer.stderr


def test_no_iteration_is_refused():
    with pytest.raises(ValueError, match="num_iterations is 0; slots look at the input at least once"):
        SlotAttention(8, 8)(torch.zeros(1, 4, 8), torch.zeros(1, 2, 8), num_iterations=0)
