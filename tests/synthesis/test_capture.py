import pytest
import torch

from slotworks.synthesis.capture import AttentionCapture
from slotworks.types import UserError


class Probabilities:
    """The textbook processor of a layer, with `get_attention_scores`; it keeps the maps."""

    def __init__(self, context=None):
        self.context, self.maps = context, []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        shown = read if encoder_hidden_states is None or self.context is None else self.context
        keep = attn.get_attention_scores(query, attn.head_to_batch_dim(attn.to_k(shown)))
        self.maps.append(keep.unflatten(0, (len(hidden_states), -1)))  # b k p s
        scores = attn.get_attention_scores(query, attn.head_to_batch_dim(attn.to_k(read)))
        mixed = attn.batch_to_head_dim(scores @ attn.head_to_batch_dim(attn.to_v(read)))
        return attn.to_out[1](attn.to_out[0](mixed))


@pytest.fixture
def unet(diffusion):
    return diffusion.unet


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 32, generator=generator)


@pytest.fixture(scope="module")
def classes():
    return 2 * torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def call(unet, latents, context, t=500):
    return unet(latents, t, encoder_hidden_states=context).sample


def capture(unet, calls, classes, **options):
    with AttentionCapture(unet, classes, **{"cross_sizes": (8,), "self_size": 8, **options}) as maps:
        for arguments in calls:
            call(unet, *arguments)
    return maps


def test_the_output_stays_as_it_is(unet, inputs, classes):
    before = call(unet, *inputs)
    with AttentionCapture(unet, classes, cross_sizes=(8,), self_size=8):
        inside = call(unet, *inputs)
    assert torch.equal(inside, before)
    assert torch.equal(call(unet, *inputs), before)
    assert not any(layer._forward_pre_hooks for layer in unet.modules())


def test_maps_are_those_of_the_textbook_and_sum_to_one(unet, inputs, classes):
    maps = capture(unet, [inputs], classes)
    assert maps.cross.shape == (2, 5, 8, 8)
    assert maps.self_.shape == (2, 64, 64)
    torch.testing.assert_close(maps.cross.sum(1), torch.ones(2, 8, 8), rtol=0, atol=1e-6)
    torch.testing.assert_close(maps.self_.sum(2), torch.ones(2, 64), rtol=0, atol=1e-6)

    before, known = call(unet, *inputs), unet.attn_processors
    textbook = {name: Probabilities(classes) for name in known}
    unet.set_attn_processor(dict(textbook))
    torch.testing.assert_close(call(unet, *inputs), before, rtol=0, atol=1e-5)
    unet.set_attn_processor(known)
    for part, found in (("attn2", maps.cross.flatten(2).mT), ("attn1", maps.self_)):
        kept = [p.maps[0] for name, p in textbook.items() if part in name and p.maps[0].shape[2] == 64]
        assert len(kept) == 3  # one layer down, two up
        torch.testing.assert_close(found, torch.cat(kept, 1).mean(1), rtol=0, atol=1e-6)
    assert maps.cross.std() > 1e-3


def test_every_call_and_size_weighs_the_same(unet, inputs, classes):
    other = (inputs[0] + 1, inputs[1], 20)
    one, two = capture(unet, [inputs], classes), capture(unet, [other], classes)
    both = capture(unet, [inputs, other], classes)
    assert (one.calls, both.calls) == (1, 2)
    torch.testing.assert_close(both.cross, (one.cross + two.cross) / 2)
    torch.testing.assert_close(both.self_, (one.self_ + two.self_) / 2)
    assert (one.cross - two.cross).abs().max() > 1e-4

    small = capture(unet, [inputs], classes, cross_sizes=(4,))
    assert small.cross.shape == (2, 5, 4, 4)
    large = torch.nn.functional.interpolate(small.cross, (8, 8), mode="bicubic", align_corners=False)
    mixed = capture(unet, [inputs], classes, cross_sizes=(4, 8))
    torch.testing.assert_close(mixed.cross, (large + one.cross) / 2)
    torch.testing.assert_close(mixed.cross.sum(1), torch.ones(2, 8, 8))


def test_only_the_conditional_half_counts(unet, inputs, classes):
    latents, context = inputs
    guided = torch.cat([latents] * 2), torch.cat([torch.randn_like(context), context])
    alone, half = capture(unet, [inputs], classes), capture(unet, [guided], classes)
    torch.testing.assert_close(half.cross, alone.cross, rtol=0, atol=1e-6)
    torch.testing.assert_close(half.self_, alone.self_, rtol=0, atol=1e-6)


def test_several_prompts_for_an_image_take_one_pass(unet, inputs, classes):
    several = torch.stack([classes, classes.flip(1), 2 * classes], 1)
    maps = capture(unet, [inputs], several)
    assert maps.cross.shape == (2, 3, 5, 8, 8)
    for g in range(3):
        torch.testing.assert_close(maps.cross[:, g], capture(unet, [inputs], several[:, g]).cross, rtol=0, atol=1e-6)


def test_sums_are_float32_in_a_half_precision_network(unet, inputs, classes):
    exact = capture(unet, [inputs], classes)
    unet.to(torch.bfloat16)
    try:
        halves = [part.to(torch.bfloat16) for part in inputs]
        maps = capture(unet, [halves] * 3, classes.to(torch.bfloat16))
    finally:
        unet.to(torch.float32)
    assert maps.self_.dtype == maps.cross.dtype == torch.float32
    torch.testing.assert_close(maps.self_.sum(2), torch.ones(2, 64), rtol=0, atol=1e-5)
    assert (maps.cross - exact.cross).abs().max() < 0.02


def test_a_size_that_does_not_exist_is_named_with_those_that_do(unet, inputs, classes):
    with pytest.raises(
        UserError, match=r"no attention to the text on maps of 16 x 16; .* side 2, 4, 8\. Change cross_sizes"
    ):
        capture(unet, [inputs], classes, cross_sizes=(8, 16))
    with pytest.raises(
        UserError, match=r"no attention among positions on maps of 32 x 32; .* side 2, 4, 8\. Change self"
    ):
        capture(unet, [inputs], classes, self_size=32)
    assert not any(layer._forward_pre_hooks for layer in unet.modules())
    with pytest.raises(ValueError, match="was not called inside"):
        _ = capture(unet, [], classes).cross
    with pytest.raises(ValueError, match="was not asked for"):
        _ = capture(unet, [inputs], classes, self_size=None).self_
