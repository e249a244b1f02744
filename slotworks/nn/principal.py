"""Principal components: a fixed linear map that centres features, keeps their main directions and sets one scale."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PrincipalComponents(nn.Module):
    """Subtract the mean, project on the leading principal components, divide by one number for all of them.

    After `fit` the outputs have a mean variance of one over channels, and distances between outputs are proportional
    to those between features, but for the directions left out. Nothing is learned: mean, directions and scale are
    buffers, so they are saved with the weights. Before `fit` the first `num_components` channels pass as they are.

    Args:
        feature_dim: width of the features.
        num_components: width of the output; at most `feature_dim`.

    Raises:
        ValueError: if more components are asked for than there are channels.

    >>> components = PrincipalComponents(feature_dim=384, num_components=128)
    >>> components.fit([torch.randn(1_000, 384)])
    >>> components(torch.randn(2, 256, 384)).shape
    torch.Size([2, 256, 128])
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, feature_dim: int, num_components: int):
        super().__init__()
        if not 1 <= num_components <= feature_dim:
            raise ValueError(
                f"{num_components} principal components were asked for, of {feature_dim} channels; give 1 to "
                f"{feature_dim}."
            )
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("basis", torch.eye(feature_dim, num_components))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, batches: Iterable[Float[Tensor, "*b c"]]) -> None:
        """Take mean, directions and scale from features, which may come in any number of pieces; sums are float64."""
        count, total, squares = 0, None, None
        for batch in batches:
            points = batch.flatten(0, -2).double()
            added = points.sum(0), points.mT @ points
            total, squares = added if total is None or squares is None else (total + added[0], squares + added[1])
            count += len(points)
        if total is None or squares is None or count < 2:
            raise ValueError(f"Principal components were asked for of {count} points; give 2 or more.")
        mean = total / count
        values, vectors = torch.linalg.eigh((squares - count * torch.outer(mean, mean)).cpu() / (count - 1))
        kept = self.basis.shape[1]
        basis = vectors.flip(1)[:, :kept]
        signs = basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()  # eigenvectors have none of their own
        self.mean.copy_(mean)
        self.basis.copy_(basis * signs)
        self.scale.copy_(values.flip(0)[:kept].mean().clamp(min=1e-12).sqrt())

    def forward(self, features: Float[Tensor, "*b c"]) -> Float[Tensor, "*b k"]:
        """Features to their components."""
        return (features - self.mean) @ self.basis / self.scale
