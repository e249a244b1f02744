"""Noise that does not depend on how a batch is split."""

import pytest
import torch

from slotworks.nn.noise import batch_noise, batch_uniform, shared_noise


@pytest.mark.parametrize("draw", [batch_noise, batch_uniform])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_are_the_rows_of_the_whole(draw, parts):
    with shared_noise(7, part=0, parts=1):
        whole = [draw((8, 3)), draw((8, 2, 5))]
    rows = []
    for part in range(parts):
        with shared_noise(7, part=part, parts=parts):
            rows.append([draw((8 // parts, 3)), draw((8 // parts, 2, 5))])
    assert torch.equal(torch.cat([first for first, _ in rows]), whole[0])
    assert torch.equal(torch.cat([second for _, second in rows]), whole[1])
    assert not torch.equal(whole[0], whole[1][:, 0, :3])


def test_another_seed_gives_other_noise():
    draws = []
    for seed in (1, 2, 1):
        with shared_noise(seed, part=0, parts=1):
            draws.append(batch_noise((4, 3)))
    assert torch.equal(draws[0], draws[2])
    assert (draws[0] - draws[1]).abs().min() > 0


def test_outside_it_is_torch_randn():
    torch.manual_seed(3)
    expected = torch.randn(4, 3)
    torch.manual_seed(3)
    assert torch.equal(batch_noise((4, 3)), expected)
    with shared_noise(1, part=0, parts=1):
        batch_noise((4, 3))
    torch.manual_seed(3)
    assert torch.equal(batch_noise((4, 3)), expected)


def test_blocks_nest():
    with shared_noise(1, part=0, parts=1):
        batch_noise((2, 2))
        second = batch_noise((2, 2))
    with shared_noise(1, part=0, parts=1):
        batch_noise((2, 2))
        with shared_noise(5, part=0, parts=1):
            batch_noise((2, 2))
        assert torch.equal(batch_noise((2, 2)), second)


def test_moments():
    with shared_noise(0, part=1, parts=2):
        normal, uniform = batch_noise((20_000, 2)), batch_uniform((20_000, 2))
    torch.testing.assert_close(normal.mean(0), torch.zeros(2), atol=0.03, rtol=0)
    torch.testing.assert_close(normal.std(0), torch.ones(2), atol=0.03, rtol=0)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    torch.testing.assert_close(uniform.mean(0), torch.full((2,), 0.5), atol=0.01, rtol=0)


def test_a_part_that_does_not_exist_is_refused():
    with (
        pytest.raises(ValueError, match=r"part is 2 of 2; parts are counted from 0 to 1\."),
        shared_noise(0, part=2, parts=2),
    ):
        pass
