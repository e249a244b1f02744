"""The spatial broadcast decoder. That it is the paper's: `tests/methods/test_keras_transfer.py`."""

import pytest
import torch
from torch import nn

from slotworks.decoders import SpatialBroadcastDecoder
from slotworks.decoders.spatial_broadcast import BroadcastConv, SameConvTranspose, posterior_masks


@pytest.mark.parametrize(
    ("kernel", "size"),
    [
        (5, (35, 35)),
        (5, (7, 12)),
        (5, (5, 5)),
        (5, (4, 9)),  # smaller than the kernel
        (5, (9, 3)),
        (5, (1, 1)),
        (3, (8, 6)),
        (3, (3, 3)),
        (3, (2, 7)),
        (7, (7, 11)),
        (1, (4, 5)),
    ],
    ids=str,
)
def test_broadcast_convolution_equals_the_plain_one(kernel, size):
    """Values and all gradients, against tiling the slots and convolving."""
    torch.manual_seed(0)
    conv = BroadcastConv(6, 4, kernel, padding="same").double()
    plain = nn.Conv2d(6, 4, kernel, padding="same").double()
    plain.load_state_dict(conv.state_dict())
    slots = torch.randn(3, 6).double().requires_grad_()
    position = torch.randn(1, 6, *size).double().requires_grad_()
    out, expected = conv(slots, position), plain(slots[:, :, None, None] + position)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)
    probe = torch.randn(out.shape).double()
    gradients = torch.autograd.grad((out * probe).sum(), (slots, position, conv.weight, conv.bias))
    wanted = torch.autograd.grad((expected * probe).sum(), (slots, position, plain.weight, plain.bias))
    for actual, wish in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(actual, wish, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)], ids=["tiled", "transposed"])
def test_maps_lie_as_the_weights_do(layout, strides):
    """From the first layer on: the wrong layout made the CLEVR decoder 1.4 times slower. Values do not depend on it."""
    torch.manual_seed(0)
    decoder = SpatialBroadcastDecoder(6, (16, 16), channels=8, strides=strides).double()
    slots = torch.randn(2, 3, 6).double()
    expected = decoder(slots).recon
    decoder.to(memory_format=layout)
    seen = []
    for layer in (*list(decoder.layers)[1:], decoder.last):
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    torch.testing.assert_close(decoder(slots).recon, expected, atol=1e-12, rtol=1e-12)
    assert [x.is_contiguous(memory_format=layout) for x in seen] == [True, True]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (5, 9)], ids=str)
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_transposed_convolution_crops_as_tensorflow_does(kernel, size):
    """The full output, `2 n + kernel - 2`, less half of what is too much before and the rest after."""
    torch.manual_seed(0)
    conv = SameConvTranspose(3, 2, kernel, 2).double()
    x = torch.randn(2, 3, *size).double()
    full = nn.functional.conv_transpose2d(x, conv.weight, conv.bias, stride=2)
    start = (kernel - 2) // 2  # 1 for the paper's 5x5
    height, width = 2 * size[0], 2 * size[1]
    torch.testing.assert_close(conv(x), full[..., start : start + height, start : start + width])


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"image_size": (128, 128)}, 514_948),
        ({"image_size": (35, 35), "channels": 32, "strides": (1, 1, 1)}, 103_972),
    ],
    ids=["table 5", "table 6"],
)
def test_parameters(options, count):
    assert sum(p.numel() for p in SpatialBroadcastDecoder(64, **options).parameters()) == count


def test_each_layer_may_have_a_kernel_of_its_own():
    decoder = SpatialBroadcastDecoder(8, (9, 12), channels=4, strides=(1, 2, 1), kernel_size=(7, 5, 3))
    assert [layer.kernel_size for layer in decoder.layers] == [(7, 7), (5, 5), (3, 3)]
    assert decoder(torch.randn(2, 3, 8)).masks.shape == (2, 3, 9, 12)


@pytest.mark.parametrize(
    ("options", "image_size", "broadcast_size"),
    [
        ({"strides": (1, 1, 1)}, (9, 12), (9, 12)),
        ({"strides": (2, 2, 1)}, (32, 24), (8, 6)),
        ({"strides": (2, 1)}, (35, 33), (18, 17)),  # one row and one column too many are cropped
        ({"strides": (1,), "shuffle": 2}, (35, 34), (18, 17)),
        ({"strides": (1,), "shuffle": 4, "mask_shuffle": 2}, (35, 34), (9, 9)),
        ({"strides": (2, 2), "broadcast_size": (3, 4)}, (12, 16), (3, 4)),
        ({"strides": (1,), "shuffle": 2, "mask_pool": 2}, (35, 39), (18, 20)),
        ({"strides": (2,), "shuffle": 2, "mask_shuffle": 2, "mask_pool": 3}, (23, 24), (6, 6)),
    ],
)
def test_shapes(options, image_size, broadcast_size):
    decoder = SpatialBroadcastDecoder(8, image_size, channels=4, **options)
    assert decoder.broadcast_size == broadcast_size
    out = decoder(torch.randn(2, 3, 8))
    assert out.recon.shape == (2, 3, *image_size)
    assert out.masks.shape == (2, 3, *image_size)
    assert out.parts.shape == (2, 3, 3, *image_size)


VARIANTS = {
    "table 6": {"strides": (1, 1, 1)},
    "table 5": {"strides": (2, 2, 1)},
    "shuffled": {"strides": (1,), "shuffle": 2},
    "shuffled masks": {"strides": (1,), "shuffle": 4, "mask_shuffle": 2},
    "pooled masks": {"strides": (1,), "shuffle": 2, "mask_pool": 2},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


@every_variant
def test_masks_sum_to_one_and_mix_the_parts(options):
    torch.manual_seed(0)
    out = SpatialBroadcastDecoder(8, (8, 12), channels=4, **options)(torch.randn(2, 3, 8))
    torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(2, 8, 12))
    assert out.masks.min() > 0
    torch.testing.assert_close((out.masks[:, :, None] * out.parts).sum(dim=1), out.recon)


@every_variant
def test_permuted_slots_permute_masks_and_keep_the_image(options):
    torch.manual_seed(0)
    decoder = SpatialBroadcastDecoder(8, (8, 12), channels=4, **options)
    slots, order = torch.randn(2, 3, 8), torch.tensor([2, 0, 1])
    out, permuted = decoder(slots), decoder(slots[:, order])
    torch.testing.assert_close(permuted.recon, out.recon, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(permuted.masks, out.masks[:, order], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(permuted.parts, out.parts[:, order], atol=1e-6, rtol=1e-5)


@every_variant
def test_slots_are_decoded_alone(options):
    """Slots of several images recombine: parts stay, masks are the softmax over those present."""
    torch.manual_seed(0)
    decoder = SpatialBroadcastDecoder(8, (8, 12), channels=4, **options)
    slots = torch.randn(2, 3, 8)
    out = decoder(slots)
    mixed = decoder(torch.cat([slots[:1, :2], slots[1:, 2:]], dim=1))
    torch.testing.assert_close(mixed.parts[0], torch.cat([out.parts[0, :2], out.parts[1, 2:]]), atol=1e-6, rtol=1e-5)
    odds = mixed.masks[0, 0] / mixed.masks[0, 1]  # between two slots of one image, whoever else is there
    torch.testing.assert_close(odds, out.masks[0, 0] / out.masks[0, 1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(decoder(slots[:, :1]).masks, torch.ones(2, 1, 8, 12))


def test_identical_slots_share_every_pixel():
    decoder = SpatialBroadcastDecoder(8, (8, 12), channels=4, strides=(1, 1, 1))
    out = decoder(torch.randn(2, 1, 8).expand(-1, 4, -1))
    torch.testing.assert_close(out.masks, torch.full((2, 4, 8, 12), 0.25))
    torch.testing.assert_close(out.recon, out.parts[:, 2])


def test_masks_stay_in_float32_under_autocast():
    decoder = SpatialBroadcastDecoder(8, (8, 12), channels=4, strides=(1, 1, 1))
    slots = torch.randn(2, 3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = decoder(slots)
    assert out.recon.dtype == out.masks.dtype == out.parts.dtype == torch.float32
    torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(2, 8, 12))
    torch.testing.assert_close(out.recon, decoder(slots).recon, atol=0.02, rtol=0.02)


def test_a_shuffled_decoder_draws_masks_at_the_size_of_the_map():
    """One mask value for `shuffle x shuffle` pixels, bilinear between their centres: 9, 3, 3 and 1 sixteenths."""
    torch.manual_seed(0)
    decoder, seen = SpatialBroadcastDecoder(8, (8, 12), channels=4, strides=(1,), shuffle=2), []
    assert decoder.last.out_channels == 3 * 4 + 1
    decoder.last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    out = decoder(torch.randn(1, 2, 8))
    coarse = seen[0][0, -1] - seen[0][1, -1]  # 4 x 6: log odds of the two slots
    odds = (out.masks[0, 0] / out.masks[0, 1]).log()
    expected = (9 * coarse[2, 3] + 3 * coarse[1, 3] + 3 * coarse[2, 2] + coarse[1, 2]) / 16
    torch.testing.assert_close(odds[4, 6], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(odds[0, 0], coarse[0, 0], atol=1e-5, rtol=1e-4)
    colour = seen[0][0, :12].unflatten(0, (3, 2, 2))  # c, row and column inside the block
    torch.testing.assert_close(out.parts[0, 0, :, 5, 8], colour[:, 1, 0, 2, 4])


def test_masks_may_be_finer_than_the_map_and_coarser_than_the_pixels():
    """Four pixels and two mask values a position and axis: values lie two pixels apart and are interpolated."""
    torch.manual_seed(0)
    decoder = SpatialBroadcastDecoder(8, (8, 12), channels=4, strides=(1,), shuffle=4, mask_shuffle=2)
    seen = []
    assert decoder.last.out_channels == 3 * 16 + 4
    decoder.last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    out = decoder(torch.randn(1, 2, 8))
    cells = (seen[0][0, -4:] - seen[0][1, -4:]).unflatten(0, (2, 2))  # row and column inside the position, 2 x 3
    coarse = cells.permute(2, 0, 3, 1).flatten(2).flatten(0, 1)  # 4 x 6: log odds of the two slots
    odds = (out.masks[0, 0] / out.masks[0, 1]).log()
    expected = (9 * coarse[2, 3] + 3 * coarse[1, 3] + 3 * coarse[2, 2] + coarse[1, 2]) / 16
    torch.testing.assert_close(odds[4, 6], expected, atol=1e-5, rtol=1e-4)
    colour = seen[0][0, :48].unflatten(0, (3, 4, 4))
    torch.testing.assert_close(out.parts[0, 0, :, 5, 8], colour[:, 1, 0, 1, 2])


def test_pooled_masks_are_means_of_four_values_four_pixels_apart():
    torch.manual_seed(0)
    decoder, seen = SpatialBroadcastDecoder(8, (8, 12), channels=4, strides=(1,), shuffle=2, mask_pool=2), []
    decoder.last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    out = decoder(torch.randn(1, 2, 8))
    fine = seen[0][0, -1] - seen[0][1, -1]  # 4 x 6: log odds of the two slots
    coarse = fine.unflatten(0, (2, 2)).unflatten(2, (3, 2)).mean((1, 3))  # 2 x 3, centres at 1.5, 5.5, 9.5
    odds = (out.masks[0, 0] / out.masks[0, 1]).log()
    torch.testing.assert_close(odds[0, 0], coarse[0, 0], atol=1e-5, rtol=1e-4)
    expected = (coarse[0, 1] * 49 + coarse[1, 1] * 7 + coarse[0, 2] * 7 + coarse[1, 2]) / 64  # an eighth of the way
    torch.testing.assert_close(odds[2, 6], expected, atol=1e-5, rtol=1e-4)
    colour = seen[0][0, :12].unflatten(0, (3, 2, 2))
    torch.testing.assert_close(out.parts[0, 0, :, 5, 8], colour[:, 1, 0, 2, 4])


@every_variant
def test_initial_weights_are_those_of_keras(options):
    decoder = SpatialBroadcastDecoder(32, (8, 12), channels=32, **options)
    limit = (6 / (25 * 64)) ** 0.5
    for layer in decoder.layers:
        assert 0.98 * limit < layer.weight.abs().max() <= limit
    assert all((p == 0).all() for name, p in decoder.named_parameters() if "bias" in name)


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"A grid of \(4, 4\) grows by 4 and does not reach image_size \(35, 35\)"):
        SpatialBroadcastDecoder(8, (35, 35), strides=(2, 2), broadcast_size=(4, 4))
    with pytest.raises(ValueError, match=r"kernel_size is \(5, 3\) and strides \(1, 1, 1\); give one of each"):
        SpatialBroadcastDecoder(8, (35, 35), strides=(1, 1, 1), kernel_size=(5, 3))
    with pytest.raises(ValueError, match=r"kernel_size is \(3, 2\); an odd one"):
        SpatialBroadcastDecoder(8, (35, 35), strides=(1, 1), kernel_size=(3, 2))
    with pytest.raises(ValueError, match="mask_shuffle is 2 and shuffle 3; choose a divisor"):
        SpatialBroadcastDecoder(8, (9, 9), strides=(1,), shuffle=3, mask_shuffle=2)
    with pytest.raises(ValueError, match="mask_pool is 2 and masks have 9 x 10 values; choose a divisor"):
        SpatialBroadcastDecoder(8, (18, 20), strides=(1,), shuffle=2, mask_pool=2)
    with pytest.raises(ValueError, match="kernel_size is 4; an odd one"):
        SpatialBroadcastDecoder(8, (35, 35), strides=(1,), kernel_size=4)


def test_posterior_masks_are_bayes_rule():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64).softmax(dim=1)
    parts, image = (
        torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((2, 3, 3, 4, 5), (2, 3, 4, 5))
    )
    seen = torch.distributions.Normal(parts, 0.2).log_prob(image[:, None]).sum(dim=2).exp()  # b n h w
    torch.testing.assert_close(posterior_masks(masks, parts, image, 0.2), masks * seen / (masks * seen).sum(1, True))
    torch.testing.assert_close(posterior_masks(masks, parts, image, 1e6), masks)


def test_posterior_masks_give_an_edge_to_the_slot_of_its_colour():
    masks = torch.tensor([0.3, 0.7, 0.0]).view(1, 3, 1, 1)  # an object, the ground that its mask would give it to, none
    parts = torch.tensor([[0.8, 0, 0], [0, 0, 0], [0.8, 0, 0]]).view(1, 3, 3, 1, 1)
    edge = torch.tensor([0.6, 0.0, 0.0]).view(1, 3, 1, 1)
    found = posterior_masks(masks, parts, edge, 0.25).flatten()
    assert found.argmax() == 0
    assert found[2] < 1e-30
    # 0.3 exp(-0.04 / 0.125) against 0.7 exp(-0.36 / 0.125)
    torch.testing.assert_close(found[0] / found[1], torch.tensor(0.3 / 0.7 * 2.718281828 ** (0.32 / 0.125)))
