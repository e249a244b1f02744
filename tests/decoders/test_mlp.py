"""DINOSAUR's MLP decoder. That it is the original's: `test_transfer_dinosaur.py`."""

import pytest
import torch

from slotworks.decoders import FlatPatchDecoder, PatchMLPDecoder
from slotworks.nn.position import sine_grid


def build(**changed):
    torch.manual_seed(0)
    return PatchMLPDecoder(**({"slot_dim": 6, "feature_dim": 10, "grid": (3, 4), "hidden_dims": (16, 12)} | changed))


def test_parameters_of_dinosaur_on_coco():
    """By hand: positions, 256 -> 2048 -> 2048 -> 2048 -> 768 + 1."""
    decoder = PatchMLPDecoder(256, 768, (14, 14))
    layers = 256 * 2048 + 2048 + 2 * (2048 * 2048 + 2048) + 2048 * 769 + 769
    assert sum(p.numel() for p in decoder.parameters()) == 196 * 256 + layers


def test_parts_mix_to_the_reconstruction():
    decoder, slots = build().double(), torch.randn(2, 5, 6).double()
    out, mixed = decoder(slots, parts=True), decoder(slots)
    assert mixed.parts is None
    assert out.parts.shape == (2, 5, 10, 3, 4)
    torch.testing.assert_close((out.masks[:, :, None] * out.parts).sum(dim=1), mixed.recon, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(2, 3, 4).double())


def test_one_slot_owns_everything():
    out = build()(torch.randn(2, 1, 6), parts=True)
    assert (out.masks == 1).all()
    torch.testing.assert_close(out.recon, out.parts[:, 0])


def test_permuted_slots_permute_the_masks():
    decoder, slots = build().double(), torch.randn(2, 5, 6).double()
    order = torch.tensor([3, 0, 4, 1, 2])
    out, permuted = decoder(slots), decoder(slots[:, order])
    torch.testing.assert_close(permuted.masks, out.masks[:, order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(permuted.recon, out.recon, rtol=1e-12, atol=1e-12)


def test_patches_are_in_row_major_order():
    """A position embedding that only patch (1, 2) has: its features differ from all others, which are equal."""
    decoder = build()
    with torch.no_grad():
        decoder.position.zero_()
        decoder.position[1 * 4 + 2] = 1.0
    recon = decoder(torch.randn(1, 2, 6)).recon[0]
    differs = (recon - recon[:, :1, :1]).abs().amax(dim=0) > 1e-6
    assert differs.nonzero().tolist() == [[1, 2]]


def test_masks_stay_float32_in_mixed_precision():
    with torch.autocast("cpu", torch.bfloat16):
        out = build()(torch.randn(2, 5, 6))
    assert out.masks.dtype == out.recon.dtype == torch.float32
    torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(2, 3, 4))


def test_initial_biases_are_zero_and_positions_small():
    decoder = build(grid=(30, 30), position_std=0.05)
    assert all((p == 0).all() for name, p in decoder.named_parameters() if name.endswith("bias"))
    assert decoder.position.std().item() == pytest.approx(0.05, rel=0.05)


def test_positions_may_start_as_waves_and_are_learned():
    decoder = build(slot_dim=16, position_init="sine")
    assert torch.equal(decoder.position, sine_grid(3, 4, 16))
    decoder(torch.randn(1, 2, 16)).recon.square().sum().backward()
    assert decoder.position.grad.abs().min() > 0


def test_the_first_layer_of_slots_and_positions_apart_is_that_of_their_sum():
    """Values and gradients, against tiling the slots over the patches."""
    torch.manual_seed(0)
    decoder = PatchMLPDecoder(6, 5, (2, 3), hidden_dims=(8, 7)).double()
    slots = torch.randn(2, 4, 6).double().requires_grad_()
    x = slots[:, :, None] + decoder.position
    for layer in decoder.hidden:
        x = layer(x).relu()
    masks = decoder.to_mask(x)[..., 0].softmax(1)
    expected = (masks[..., None] * decoder.to_features(x)).sum(1)
    out = decoder(slots)
    torch.testing.assert_close(out.recon.flatten(2).mT, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(out.masks.flatten(2), masks, atol=1e-12, rtol=1e-12)
    inputs = (slots, decoder.position, *(layer.weight for layer in decoder.hidden))
    probe = torch.randn(expected.shape).double()
    gradients = torch.autograd.grad((out.recon.flatten(2).mT * probe).sum(), inputs)
    for actual, wish in zip(gradients, torch.autograd.grad((expected * probe).sum(), inputs), strict=True):
        torch.testing.assert_close(actual, wish, atol=1e-12, rtol=1e-12)


def test_refuses_no_hidden_layer():
    with pytest.raises(ValueError, match="hidden_dims is empty; give the width of at least one hidden layer"):
        build(hidden_dims=())


def flat(**changed):
    torch.manual_seed(0)
    options = {"slot_dim": 8, "feature_dim": 10, "grid": (3, 4), "hidden_dims": (16, 12)}
    return FlatPatchDecoder(**(options | changed)).double()


def test_a_flat_slot_has_one_feature_everywhere():
    decoder, slots = flat(), torch.randn(2, 5, 8).double()
    out = decoder(slots, parts=True)
    assert out.parts.shape == (2, 5, 10, 3, 4)
    assert (out.parts == out.parts[..., :1, :1]).all()
    torch.testing.assert_close((out.masks[:, :, None] * out.parts).sum(dim=1), out.recon, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(2, 3, 4).double())


@pytest.mark.parametrize("decoder", [build().double(), flat(slot_dim=6, position_init="normal")])
def test_some_patches_are_those_of_all(decoder):
    slots, patches = torch.randn(2, 5, 6).double(), torch.tensor([7, 0, 11])
    whole, (recon, masks) = decoder(slots), decoder.some(slots, patches)
    torch.testing.assert_close(recon, whole.recon.flatten(2).mT[:, patches], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(masks, whole.masks.flatten(2)[:, :, patches], rtol=1e-12, atol=1e-12)


def test_the_flat_decoder_refuses_no_hidden_layer():
    with pytest.raises(ValueError, match="hidden_dims is empty"):
        flat(hidden_dims=())
