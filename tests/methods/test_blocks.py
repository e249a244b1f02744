"""Blocks: cut by hand, and how the metrics see them."""

import pytest
import torch

from slotworks.evaluation.discovery import evaluate_discovery
from slotworks.methods import BlocksConfig
from slotworks.types import UserError


def test_borders_by_hand():
    """5 x 7 pixels in 2 x 3: rows 3 and 2, columns 3, 2 and 2."""
    image = torch.rand(2, 3, 5, 7)
    out = BlocksConfig(rows=2, columns=3).build().encode(image)
    assert out.grid == (5, 7)
    labels = out.attn.argmax(1).unflatten(1, (5, 7))
    assert labels[1].tolist() == 3 * [[0, 0, 0, 1, 1, 2, 2]] + 2 * [[3, 3, 3, 4, 4, 5, 5]]
    assert out.attn.sum(1).unique().tolist() == [1]
    torch.testing.assert_close(out.slots[:, 4], image[:, :, 3:, 3:5].mean((2, 3)))


class Quarters:
    """Two images of four objects without background: the quadrants themselves, and stripes of one pixel across them."""

    def __len__(self):
        return 2

    def __getitems__(self, indices):
        quadrants = torch.arange(1, 5).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
        stripes = (1 + torch.arange(8) % 4)[:, None].expand(8, 8)
        mask = torch.stack([quadrants, stripes])[list(indices)]
        return {"image": torch.zeros(len(mask), 8, 8, 3, dtype=torch.uint8).numpy(), "mask": mask.int().numpy()}


def test_scores():
    """Equal to the truth: 1. Each stripe shared out equally: a pair is in one block no more often than by chance."""
    result = evaluate_discovery(BlocksConfig().build(), Quarters(), protocol="slot-attention")
    whole, shared = result.per_image["fg_ari"].tolist()
    assert whole == 1
    # 64 pixels, 16 in each of four objects and four blocks, 4 in each block of each object.
    pairs, both = 4 * (16 * 15 / 2), 16 * (4 * 3 / 2)
    expected = pairs * pairs / (64 * 63 / 2)
    assert shared == pytest.approx((both - expected) / (pairs - expected), abs=1e-9)


def test_refuses():
    with pytest.raises(UserError, match="train nothing"):
        BlocksConfig().build().loss({}, 0)
    with pytest.raises(ValueError, match="rows is 0"):
        BlocksConfig(rows=0).build()
