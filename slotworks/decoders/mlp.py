"""MLP decoders of patch features: DINOSAUR's, and one whose slots have one feature each. Masks mix the features."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import linear

from slotworks.nn.position import sine_grid
from slotworks.types import DecoderOutput


class PatchMLPDecoder(nn.Module):
    """Tile each slot over the patches, add learned positions, decode with a shared MLP, mix with soft masks.

    Seitzer et al. 2023 (arXiv 2209.14860), appendix on the MLP decoder; weights start as in its code. The last layer is
    linear and masks sum to one over slots, so hidden activations are mixed before it instead of features after it:
    exact up to rounding, and no tensor holds every slot's features. They are computed only when asked for.

    Args:
        slot_dim: width of a slot.
        feature_dim: width of the features to predict.
        grid: rows and columns of patches.
        hidden_dims: widths of the hidden layers; GLASS has `(1536, 1536, 1536)`.
        position_std: standard deviation of the initial position embedding, if it is normal.
        position_init: `"normal"` as in the paper's code, or `"sine"`: the waves of `sine_grid`, 6 to 63 patches long.
            Positions are learned from there; from waves, small networks learn shapes in fewer steps.

    >>> decoder = PatchMLPDecoder(slot_dim=64, feature_dim=384, grid=(14, 14), hidden_dims=(128, 128))
    >>> out = decoder(torch.randn(2, 4, 64))
    >>> out.recon.shape, out.masks.shape
    (torch.Size([2, 384, 14, 14]), torch.Size([2, 4, 14, 14]))
    """

    def __init__(
        self,
        slot_dim: int,
        feature_dim: int,
        grid: tuple[int, int],
        *,
        hidden_dims: Sequence[int] = (2048, 2048, 2048),
        position_std: float = 0.02,
        position_init: Literal["normal", "sine"] = "normal",
    ):
        super().__init__()
        if not hidden_dims:
            raise ValueError("hidden_dims is empty; give the width of at least one hidden layer.")
        self.grid = grid
        self.position = nn.Parameter(_positions(grid, slot_dim, position_init, position_std))
        self.hidden = nn.ModuleList(nn.Linear(*widths) for widths in pairwise((slot_dim, *hidden_dims)))
        self.to_features = nn.Linear(hidden_dims[-1], feature_dim)
        self.to_mask = nn.Linear(hidden_dims[-1], 1)
        for layer in (*self.hidden, self.to_features, self.to_mask):
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]  (ModuleList has no element type)

    def forward(self, slots: Float[Tensor, "b n d"], *, parts: bool = False) -> DecoderOutput:
        """Predict features `b c h w` on the grid of patches; `parts` also returns what each slot predicts alone."""
        recon, masks, x = self._decode(slots, self.position)
        alone = self.to_features(x).transpose(-1, -2).unflatten(-1, self.grid) if parts else None
        return DecoderOutput(recon.transpose(-1, -2).unflatten(-1, self.grid), masks.unflatten(-1, self.grid), alone)

    def some(
        self, slots: Float[Tensor, "b n d"], patches: Int64[Tensor, " q"]
    ) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b n q"]]:
        """Features and masks of `forward` at some patches, numbered row by row, at the cost of those alone."""
        return self._decode(slots, self.position[patches])[:2]

    def _decode(self, slots: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = _hidden(self.hidden, slots, position)  # b p n c
        logits = self.to_mask(x)[..., 0]
        masks = (logits if logits.dtype == torch.float64 else logits.float()).softmax(dim=2)  # b p n
        mixed = (masks[:, :, None].to(x.dtype) @ x)[:, :, 0]  # b p c
        recon = self.to_features(mixed)
        return (recon if recon.dtype == torch.float64 else recon.float()), masks.mT, x.transpose(1, 2)


def _hidden(layers: nn.ModuleList, slots: Float[Tensor, "b n d"], position: Float[Tensor, "p d"]) -> Tensor:
    """Layers and ReLUs applied to `slots + position` of every slot at every patch, `b p n c`.

    The first layer is linear: slots and positions pass it apart, `b n + p` rows in the place of `b n p`. The slots of a
    patch lie side by side, so that masks mix them without moving anything.
    """
    first, *others = layers
    weight, bias = first.weight, first.bias
    x = linear(slots, weight)[:, None] + linear(position, weight, bias)[:, None]  # pyright: ignore[reportArgumentType]
    rows, x = x.shape[:3], x.relu_().flatten(0, 2)
    for layer in others:
        x = layer(x).relu_()
    return x.unflatten(0, rows)


class FlatPatchDecoder(nn.Module):
    """Every slot predicts one feature for all its patches, and where they are: the mask head alone sees the place.

    Not the decoder of a paper. In `PatchMLPDecoder` a slot's feature may change from patch to patch, so that one slot
    can paint a whole image; here another feature takes another slot, so that masks have to follow what differs.

    Args:
        slot_dim: width of a slot.
        feature_dim: width of the features to predict.
        grid: rows and columns of patches.
        hidden_dims: widths of the hidden layers of the mask head.
        feature_mlp_dim: width of the hidden layer of the feature head.
        position_init: of the mask head's learned positions, as in `PatchMLPDecoder`.

    >>> decoder = FlatPatchDecoder(slot_dim=64, feature_dim=128, grid=(16, 16))
    >>> out = decoder(torch.randn(2, 4, 64))
    >>> out.recon.shape, out.masks.shape
    (torch.Size([2, 128, 16, 16]), torch.Size([2, 4, 16, 16]))
    """

    def __init__(
        self,
        slot_dim: int,
        feature_dim: int,
        grid: tuple[int, int],
        *,
        hidden_dims: Sequence[int] = (128, 128),
        feature_mlp_dim: int = 256,
        position_init: Literal["normal", "sine"] = "sine",
    ):
        super().__init__()
        if not hidden_dims:
            raise ValueError("hidden_dims is empty; give the width of at least one hidden layer.")
        self.grid = grid
        self.position = nn.Parameter(_positions(grid, slot_dim, position_init))
        self.hidden = nn.ModuleList(nn.Linear(*widths) for widths in pairwise((slot_dim, *hidden_dims)))
        self.to_mask = nn.Linear(hidden_dims[-1], 1)
        self.to_features = nn.Sequential(
            nn.Linear(slot_dim, feature_mlp_dim), nn.ReLU(), nn.Linear(feature_mlp_dim, feature_dim)
        )
        for layer in (*self.hidden, self.to_mask, self.to_features[0], self.to_features[2]):
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]  (ModuleList has no element type)

    def forward(self, slots: Float[Tensor, "b n d"], *, parts: bool = False) -> DecoderOutput:
        """Predict features `b c h w` on the grid of patches; `parts` also returns what each slot predicts alone."""
        recon, masks = self.some(slots, torch.arange(len(self.position), device=slots.device))
        alone = None
        if parts:
            alone = self.to_features(slots)[..., None, None].expand(-1, -1, -1, *self.grid)
        return DecoderOutput(recon.mT.unflatten(-1, self.grid), masks.unflatten(-1, self.grid), alone)

    def some(
        self, slots: Float[Tensor, "b n d"], patches: Int64[Tensor, " q"]
    ) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b n q"]]:
        """Features and masks of `forward` at some patches, numbered row by row, at the cost of those alone."""
        logits = self.to_mask(_hidden(self.hidden, slots, self.position[patches]))[..., 0]
        masks = (logits if logits.dtype == torch.float64 else logits.float()).softmax(dim=2)  # b q n
        features = self.to_features(slots)
        recon = masks.to(features.dtype) @ features
        return (recon if recon.dtype == torch.float64 else recon.float()), masks.mT


def _positions(grid: tuple[int, int], width: int, how: Literal["normal", "sine"], std: float = 0.02) -> Tensor:
    """The embedding of every patch that learning starts from."""
    return sine_grid(*grid, width) if how == "sine" else std * torch.randn(grid[0] * grid[1], width)
