"""The modified ResNets. SlotDiffusion's transfer: `tests/methods/test_transfer_slot_diffusion.py`."""

import pytest
import torch

from slotworks.encoders import ResNetEncoder

SAVI = {"stem_relu": False, "zero_init": True, "padding": "same", "init": "lecun", "norm_eps": 1e-6}


@pytest.mark.parametrize(
    ("depth", "strides", "parameters", "width"),
    [(18, (1, 2, 2), 2_775_104, 256), (34, (1, 2, 2, 2), 21_276_992, 512)],
)
def test_published_sizes(depth, strides, parameters, width):
    with torch.device("meta"):
        encoder = ResNetEncoder(depth, strides=strides)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder.feature_dim == width


@pytest.mark.parametrize("options", [{}, SAVI])
@pytest.mark.parametrize("strides", [(1, 2, 2), (2, 1, 2, 2)])
def test_the_grid_is_that_of_the_features(options, strides):
    encoder = ResNetEncoder(strides=strides, width=8, norm_groups=4, **options)
    features = encoder(torch.randn(2, 3, 21, 32))
    assert features.shape == (2, torch.tensor(encoder.grid(21, 32)).prod(), encoder.feature_dim)


def test_savis_blocks_start_as_the_identity():
    """With the last norms at 0 a block of the first stage gives its input, which is not negative after the first."""
    encoder = ResNetEncoder(width=8, norm_groups=4, **SAVI)
    x = torch.rand(1, 8, 6, 6)
    assert torch.equal(encoder.blocks[0](x), x)
    plain = ResNetEncoder(width=8, norm_groups=4)
    assert not torch.equal(plain.blocks[0](x), x)


def test_same_padding_looks_one_pixel_later():
    """TensorFlow pads an even side after its end only, torch on both sides."""
    same = ResNetEncoder(width=8, norm_groups=4, strides=(1, 2), padding="same").blocks[2]
    torch_ = ResNetEncoder(width=8, norm_groups=4, strides=(1, 2)).blocks[2]
    torch_.load_state_dict(same.state_dict())
    x = torch.randn(1, 8, 8, 8)
    shifted = torch.nn.functional.pad(x, (0, 1, 0, 1))
    expected = torch.nn.functional.conv2d(shifted, same.conv1.weight, stride=2)
    caught = []
    same.norm1.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    same(x)
    torch.testing.assert_close(caught[0], expected)
    assert (same(x) - torch_(x)).abs().max() > 1e-3


def test_initial_weights():
    he, lecun = ResNetEncoder(), ResNetEncoder(init="lecun")
    for encoder, variance in ((he, 2 / (256 * 9)), (lecun, 1 / (256 * 9))):
        assert encoder.blocks[-1].conv2.weight.var().item() == pytest.approx(variance, rel=0.02)
    limit = 2 * (1 / (256 * 9)) ** 0.5 / 0.8796
    assert lecun.blocks[-1].conv2.weight.abs().max() <= limit * 1.001


def test_a_depth_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="depth is 50"):
        ResNetEncoder(50)
