"""DINOSAUR's MLP decoder: every slot predicts features and a mask at every patch; the masks mix the features."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
        sine = position_init == "sine"
        start = sine_grid(*grid, slot_dim) if sine else position_std * torch.randn(grid[0] * grid[1], slot_dim)
        self.position = nn.Parameter(start)
        self.hidden = nn.ModuleList(nn.Linear(*widths) for widths in pairwise((slot_dim, *hidden_dims)))
        self.to_features = nn.Linear(hidden_dims[-1], feature_dim)
        self.to_mask = nn.Linear(hidden_dims[-1], 1)
        for layer in (*self.hidden, self.to_features, self.to_mask):
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]  (ModuleList has no element type)

    def forward(self, slots: Float[Tensor, "b n d"], *, parts: bool = False) -> DecoderOutput:
        """Predict features `b c h w` on the grid of patches; `parts` also returns what each slot predicts alone."""
        x = slots[:, :, None] + self.position  # b n p d
        for layer in self.hidden:
            x = layer(x).relu()
        logits = self.to_mask(x)[..., 0]
        masks = (logits if logits.dtype == torch.float64 else logits.float()).softmax(dim=1)  # b n p
        mixed = torch.einsum("bnp,bnpc->bpc", masks.to(x.dtype), x)
        recon = self.to_features(mixed)
        alone = self.to_features(x).transpose(-1, -2).unflatten(-1, self.grid) if parts else None
        recon = recon if recon.dtype == torch.float64 else recon.float()
        return DecoderOutput(recon.transpose(-1, -2).unflatten(-1, self.grid), masks.unflatten(-1, self.grid), alone)
