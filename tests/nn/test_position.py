"""Position embeddings."""

import pytest
import torch

from slotworks.nn.position import PositionEmbedding, corner_grid, sine_grid


def test_grid_at_the_corners_and_in_the_middle():
    grid = corner_grid(3, 5)  # y, x, 1 - y, 1 - x; end points included
    assert grid.shape == (4, 3, 5)
    assert grid[:, 0, 0].tolist() == [0, 0, 1, 1]
    assert grid[:, 2, 4].tolist() == [1, 1, 0, 0]
    assert grid[:, 0, 4].tolist() == [0, 1, 1, 0]
    assert grid[:, 2, 0].tolist() == [1, 0, 0, 1]
    assert grid[:, 1, 1].tolist() == [0.5, 0.25, 0.5, 0.75]


def test_grid_of_one_pixel():
    assert corner_grid(1, 1).flatten().tolist() == [0, 0, 1, 1]


def test_embedding_is_a_linear_map_of_the_grid():
    embedding = PositionEmbedding(channels=2)
    with torch.no_grad():
        embedding.project.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 10.0]]))
        embedding.project.bias.copy_(torch.tensor([0.0, 5.0]))
    out = embedding(3, 5)
    assert out.shape == (1, 2, 3, 5)
    torch.testing.assert_close(out[0, 0, :, 0], torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(out[0, 1, 0], torch.tensor([15.0, 13.0, 11.0, 9.0, 7.0]))  # 2 x + 10 (1 - x) + 5


def test_the_size_may_change_between_calls():
    embedding = PositionEmbedding(channels=3)
    first = embedding(4, 6)
    assert embedding(7, 2).shape == (1, 3, 7, 2)
    torch.testing.assert_close(embedding(4, 6), first)
    torch.testing.assert_close(first[..., 0, 0], embedding(7, 2)[..., 0, 0])


def test_nothing_but_the_map_is_saved_and_learned():
    embedding = PositionEmbedding(channels=3)
    embedding(4, 6).sum().backward()
    assert list(embedding.state_dict()) == ["project.weight", "project.bias"]
    # the sum over the grid of each coordinate is half the number of positions
    torch.testing.assert_close(embedding.project.weight.grad, torch.full((3, 4), 12.0))
    torch.testing.assert_close(embedding.project.bias.grad, torch.full((3,), 24.0))


@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_position_gain_scales_both_embeddings_of_the_autoencoder(gain):
    from slotworks.methods import SlotAttentionConfig

    torch.manual_seed(0)
    plain = SlotAttentionConfig().build()
    torch.manual_seed(0)
    scaled = SlotAttentionConfig(position_gain=gain).build()
    for part in ("encoder", "decoder"):
        before, after = (getattr(method, part).position.project for method in (plain, scaled))
        torch.testing.assert_close(after.weight, gain * before.weight)


def test_waves_by_hand():
    """Two waves per axis, the second ten times as long; row major, columns before rows."""
    code = sine_grid(2, 3, 8, temperature=10.0)
    column, row = torch.tensor(2.0), torch.tensor(1.0)  # of the last patch
    angles = [column, column / 10, row, row / 10]
    waves = [angles[0].sin(), angles[1].sin(), angles[0].cos(), angles[1].cos()]
    waves += [angles[2].sin(), angles[3].sin(), angles[2].cos(), angles[3].cos()]
    torch.testing.assert_close(code[-1], torch.stack(waves))
    torch.testing.assert_close(code[0], torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1]))


def test_nearer_patches_have_more_similar_waves():
    code = sine_grid(4, 4, 16)
    similarity = code @ code.T / (16 / 2)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(16))
    assert similarity[5, 5] > similarity[5, 6] > similarity[5, 7]
    torch.testing.assert_close(similarity[5, 6], similarity[5, 9])  # right and below
    torch.testing.assert_close(similarity[5, 6], similarity[10, 11])  # the same everywhere


def test_waves_need_a_multiple_of_four():
    with pytest.raises(ValueError, match="channels is 6; sines and cosines of two axes need a multiple of 4"):
        sine_grid(3, 4, 6)
