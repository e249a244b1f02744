"""The image encoder of DSPN."""

import pytest
import torch

from slotworks.encoders import ImageCode


def test_parameters_are_those_of_resnet34_and_two_convolutions():
    with torch.device("meta"):
        total = sum(p.numel() for p in ImageCode(512).parameters())
    resnet34_without_the_last_layer = 21_797_672 - (512 * 1000 + 1000)
    end = (512 * 512 * 9 + 512) + 2 * 512 + (512 * 512 * 4 + 512)
    assert total == resnet34_without_the_last_layer + end == 24_694_592


def test_other_sizes_are_refused():
    network = ImageCode(4, width=4).eval()
    assert network(torch.zeros(1, 3, 97, 128)).shape == (1, 4)
    with pytest.raises(ValueError, match=r"Images of 160 x 160 pixels end in \(2, 2\) positions, expected one"):
        network(torch.zeros(1, 3, 160, 160))
    small = ImageCode(4, width=4, blocks=(1, 1)).eval()
    assert small(torch.zeros(1, 3, 25, 32)).shape == (1, 4)
    with pytest.raises(ValueError, match="give images of 25 to 32 pixels a side"):
        small(torch.zeros(1, 3, 64, 64))
