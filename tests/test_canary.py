"""Shape annotations are checked while tests run. Without the import hook of `pyproject.toml` nothing would be."""

import pytest
import torch
from jaxtyping import TypeCheckError

from slotworks.encoders import CNNEncoder
from slotworks.slots import SlotAttention
from slotworks.types import SlotOutput


def test_a_wrong_shape_raises():
    with pytest.raises(TypeCheckError, match="image"):
        CNNEncoder(4)(torch.zeros(2, 1, 8, 8))  # one channel where "b 3 h w" is announced


def test_axes_of_one_name_must_agree():
    attention = SlotAttention(6, 8)
    assert attention(torch.zeros(2, 10, 6), torch.zeros(2, 4, 8)).slots.shape == (2, 4, 8)
    with pytest.raises(TypeCheckError, match="slots"):
        attention(torch.zeros(2, 10, 6), torch.zeros(3, 4, 8))  # two images and slots for three


def test_dataclasses_are_checked():
    with pytest.raises(TypeCheckError, match="attn"):
        SlotOutput(slots=torch.zeros(2, 4, 8), attn=torch.zeros(2, 5, 10))  # five maps for four slots
