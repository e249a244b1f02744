"""Heads of segmenters: maps of features to scores of classes at every position."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate


class DeepLabHead(nn.Module):
    """DeepLabV3's pyramid of dilated convolutions (Chen et al. 2017, arXiv 1706.05587, section 3.3).

    A convolution of one position, one of 3 x 3 for each of `rates`, and the mean of the map, side by side, then 3 x 3
    and the classifier; BatchNorm and ReLU behind all but the last. The defaults are mmsegmentation's for a map of an
    eighth of the image.

    Args:
        feature_dim: channels of the map.
        num_classes: with the background.
        hidden_dim: channels of each branch.
        rates: dilations of the 3 x 3 branches, in positions.
        dropout: of whole channels before the classifier.

    >>> DeepLabHead(8, 3, hidden_dim=4)(torch.zeros(2, 8, 5, 6)).shape
    torch.Size([2, 3, 5, 6])
    """

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        hidden_dim: int = 512,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.1,
    ):
        super().__init__()
        self.mean = _conv(feature_dim, hidden_dim, 1)
        self.branches = nn.ModuleList(
            [_conv(feature_dim, hidden_dim, 1), *(_conv(feature_dim, hidden_dim, 3, rate) for rate in rates)]
        )
        self.joined = _conv((len(rates) + 2) * hidden_dim, hidden_dim, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(hidden_dim, num_classes)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m h w"]:
        """Scores of classes, before the softmax."""
        pyramid = _pyramid(features, self.mean, self.branches)
        return self.classifier(self.dropout(self.joined(pyramid)))


class DeepLabPlusHead(nn.Module):
    """DeepLabV3+'s decoder on a narrower pyramid (Chen et al. 2018, arXiv 1802.02611, section 3.2).

    The pyramid as in `DeepLabHead`, joined by a convolution of one position, is enlarged to the size of an earlier map,
    of which a few channels go beside it; then 3 x 3 and the classifier. The defaults are those of DeepSpectral's code,
    with torchvision's pyramid; all convolutions start as He et al. 2015 have it.

    Args:
        feature_dim: channels of the map.
        early_dim: channels of the earlier map.
        num_classes: with the background.
        low_level_dim: channels that are kept of the earlier map.
        hidden_dim: channels of each branch.
        rates: dilations of the 3 x 3 branches, in positions.
        dropout: of single values of the joined pyramid.

    >>> DeepLabPlusHead(8, 4, 3, hidden_dim=4)(torch.zeros(2, 8, 5, 6), torch.zeros(2, 4, 10, 12)).shape
    torch.Size([2, 3, 10, 12])
    """

    def __init__(
        self,
        feature_dim: int,
        early_dim: int,
        num_classes: int,
        *,
        low_level_dim: int = 48,
        hidden_dim: int = 256,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
    ):
        super().__init__()
        self.early = _conv(early_dim, low_level_dim, 1)
        self.mean = _conv(feature_dim, hidden_dim, 1)
        self.branches = nn.ModuleList(
            [_conv(feature_dim, hidden_dim, 1), *(_conv(feature_dim, hidden_dim, 3, rate) for rate in rates)]
        )
        self.joined = _conv((len(rates) + 2) * hidden_dim, hidden_dim, 1)
        self.dropout = nn.Dropout(dropout)
        self.sharpened = _conv(low_level_dim + hidden_dim, hidden_dim, 3)
        self.classifier = nn.Conv2d(hidden_dim, num_classes, 1)
        for conv in (part for part in self.modules() if isinstance(part, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight)

    def forward(self, features: Float[Tensor, "b c h w"], early: Float[Tensor, "b k y x"]) -> Float[Tensor, "b m y x"]:
        """Scores of classes, before the softmax, at the size of the earlier map."""
        pyramid = self.dropout(self.joined(_pyramid(features, self.mean, self.branches)))
        large = to_size(pyramid, (early.shape[-2], early.shape[-1]))
        return self.classifier(self.sharpened(torch.cat([self.early(early), large], dim=1)))


class FCNHead(nn.Module):
    """One convolution and the classifier (Long et al. 2015): what an earlier map is trained with beside the last one.

    Args:
        feature_dim: channels of the map.
        num_classes: with the background.
        hidden_dim: channels between.
        dropout: of whole channels before the classifier.
    """

    def __init__(self, feature_dim: int, num_classes: int, *, hidden_dim: int = 256, dropout: float = 0.1):
        super().__init__()
        self.conv = _conv(feature_dim, hidden_dim, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(hidden_dim, num_classes)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m h w"]:
        """Scores of classes, before the softmax."""
        return self.classifier(self.dropout(self.conv(features)))


def to_size(maps: Float[Tensor, "b m h w"], size: tuple[int, int]) -> Float[Tensor, "b m y x"]:
    """Bilinear between the centres of pixels, as segmenters resize scores; not smoothed where it shrinks."""
    return interpolate(maps, size, mode="bilinear", align_corners=False)


def _pyramid(features: Float[Tensor, "b c h w"], mean: nn.Module, branches: nn.ModuleList) -> Float[Tensor, "b k h w"]:
    """The mean of the map everywhere, and the branches, side by side."""
    everywhere = mean(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
    return torch.cat([everywhere, *(branch(features) for branch in branches)], dim=1)


def _conv(dim_in: int, dim: int, kernel: int, rate: int = 1) -> nn.Module:
    conv = nn.Conv2d(dim_in, dim, kernel, padding=kernel // 2 * rate, dilation=rate, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(dim), nn.ReLU())


def _classifier(dim: int, num_classes: int) -> nn.Conv2d:
    conv = nn.Conv2d(dim, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
