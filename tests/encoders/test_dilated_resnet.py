"""The dilated ResNet against the plain one of `transformers`, at the places that both see."""

import pytest
import torch
import transformers

from slotworks.encoders.dilated_resnet import DilatedResNet
from slotworks.encoders.vit import IMAGENET_MEAN, IMAGENET_STD
from slotworks.types import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier with random weights and statistics, as the published ones are."""
    torch.manual_seed(0)
    network = transformers.ResNetForImageClassification(transformers.ResNetConfig(depths=[3, 4, 6, 3], num_labels=2))
    for name, value in network.named_buffers():
        if name.endswith("running_mean"):
            value.uniform_(-0.2, 0.2)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("resnet")
    network.save_pretrained(path)
    return path


def test_every_second_and_fourth_position_is_the_plain_networks(folder):
    """Filters spread out see what they saw on the small map (Holschneider's a trous), so both agree to rounding."""
    ours = DilatedResNet(50)
    ours.load(str(folder))
    ours.eval()
    stages = ["stage1", "stage3", "stage4"]
    plain = transformers.ResNetBackbone.from_pretrained(folder, out_features=stages).eval()
    image = torch.rand(1, 3, 64, 96)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        early, third, fourth = ours(image)
        first, *expected = plain((image - mean) / std).feature_maps
    assert torch.equal(early, first)
    assert third.shape == (1, 1024, 8, 12)
    assert fourth.shape == (1, 2048, 8, 12)
    for found, small, step in ((third, expected[0], 2), (fourth, expected[1], 4)):
        scale = small.abs().max()
        torch.testing.assert_close(found[:, :, ::step, ::step] / scale, small / scale, rtol=0, atol=1e-5)


def test_frozen_stages_are_counted_from_the_stem():
    """Of the stem and four stages the last is trained: torchvision's `layer4` has 14,964,736 weights."""
    with torch.device("meta"):
        network = DilatedResNet(50, frozen_stages=4)
    trained = [p for p in network.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 14_964_736
    assert {name.split(".")[3] for name, p in network.named_parameters() if p.requires_grad} == {"3"}


def test_another_network_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"is no ResNet-101, as method.backbone asks for: it differs in \S+; give the"):
        DilatedResNet(101).load(str(folder))
    with pytest.raises(UserError, match=r"could not be loaded \(.*\); check the name"):
        DilatedResNet(50).load(str(tmp_path))
