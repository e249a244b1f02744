"""The convolutional encoder. That it is the paper's: `tests/methods/test_keras_transfer.py`."""

import pytest
import torch

from slotworks.encoders import CNNEncoder


@pytest.mark.parametrize(("channels", "count"), [(64, 321_024), (32, 81_664)])
def test_parameters(channels, count):
    """CLEVR, and Tetrominoes and multi-dSprites (supplement, tables 3 and 4)."""
    assert sum(p.numel() for p in CNNEncoder(channels).parameters()) == count


@pytest.mark.parametrize(
    ("strides", "size", "grid"),
    [
        ((1, 1, 1, 1), (12, 9), (12, 9)),
        ((1, 2, 2, 1), (16, 12), (4, 3)),
        ((2, 1), (35, 35), (18, 18)),
        ((2, 2), (35, 17), (9, 5)),
    ],
)
def test_shapes(strides, size, grid):
    encoder = CNNEncoder(4, strides=strides)
    assert encoder.grid(*size) == grid
    assert encoder(torch.zeros(2, 3, *size)).shape == (2, grid[0] * grid[1], 4)


def test_positions_are_row_by_row():
    """A bright pixel changes the features within four 5x5 kernels of it, 8 positions each way, and no others."""
    torch.manual_seed(0)
    encoder = CNNEncoder(8)
    image = torch.zeros(1, 3, 24, 30)
    before = encoder(image)
    image[0, :, 2, 20] = 5.0
    changed = (encoder(image) - before).abs().amax(-1).view(24, 30) > 0
    rows, columns = changed.nonzero().T
    assert (rows.min(), rows.max()) == (0, 10)
    assert (columns.min(), columns.max()) == (12, 28)


def test_without_position_embedding_features_do_not_know_where_they_are():
    torch.manual_seed(0)
    image = torch.ones(1, 3, 24, 24)
    inner = CNNEncoder(8, position_embedding=False)(image).view(24, 24, 8)[8:16, 8:16].flatten(0, 1)
    torch.testing.assert_close(inner, inner[:1].expand(64, -1), atol=1e-5, rtol=1e-5)
    embedded = CNNEncoder(8)(image).view(24, 24, 8)[8:16, 8:16].flatten(0, 1)
    assert (embedded - embedded[:1]).abs().max() > 0.01


def test_epsilon_of_the_norm():
    assert CNNEncoder(8).norm.eps == 1e-5
    assert CNNEncoder(8, norm_eps=1e-3).norm.eps == 1e-3


def test_initial_weights_are_those_of_keras():
    encoder = CNNEncoder(32)
    assert 0.98 * (6 / (25 * 64)) ** 0.5 < encoder.convs[1].weight.abs().max() <= (6 / (25 * 64)) ** 0.5
    assert encoder.position.project.weight.abs().max() <= (6 / 36) ** 0.5
    assert all((p == 0).all() for name, p in encoder.named_parameters() if "bias" in name)


def test_each_convolution_may_have_a_kernel_of_its_own():
    encoder = CNNEncoder(8, strides=(2, 1, 1), kernel_size=(5, 3, 1))
    assert [conv.kernel_size for conv in encoder.convs] == [(5, 5), (3, 3), (1, 1)]
    assert encoder(torch.zeros(2, 3, 9, 8)).shape == (2, 20, 8)
    with pytest.raises(ValueError, match=r"kernel_size is \(5, 3\) and strides \(1, 1, 1, 1\); give one of each"):
        CNNEncoder(8, kernel_size=(5, 3))
