"""k-means on the features of a frozen vision transformer: image -> ViT -> clusters. Learns nothing.

What a method trained on the same features, such as DINOSAUR, has to beat with as many slots as there are clusters here.
Not a row of a paper's table: settings are ours, k-means++ with several restarts on features of length 1. `smooth` makes
it a fairer baseline on photographs: single patches go to the cluster around them, as in methods that learn.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.nn.clustering import kmeans, segments_as_slots
from slotworks.types import MethodConfig, SlotOutput, Untrained


@dataclass(frozen=True)
class FeatureKMeansConfig(MethodConfig):
    """Settings of the clustering."""

    encoder: ViTConfig = field(default_factory=ViTConfig)  # where features come from
    num_slots: int = 7  # clusters in every image
    normalize: bool = True  # features of length 1: distances become cosines
    position_weight: float = 0.0  # length of the coordinates, in [-1, 1], beside features of mean length 1
    restarts: int = 8  # k-means runs; the best is kept
    max_iterations: int = 100  # of each
    smooth: int = 1  # side of the square of patches over which masks are averaged; odd; 1: as they are

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smooth % 2 == 0:
            raise ValueError(f"method.smooth is {self.smooth}; give an odd number, so that a patch is in the middle.")

    @property
    def image_size(self) -> int:
        """Pixels, square."""
        return self.encoder.image_size

    def build(self) -> "FeatureKMeans":
        """Make the method; the network is loaded at the first image."""
        return FeatureKMeans(self)


class FeatureKMeans(Untrained):
    """Clusters of patch features."""

    refusal = "k-means on features trains nothing; measure it"
    config: FeatureKMeansConfig

    def __init__(self, config: FeatureKMeansConfig):
        super().__init__(config)
        self.encoder = ViTEncoder(config.encoder)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to clusters: `attn` is one-hot, or the mean over `smooth` patches and across; a slot is the
        mean feature of its cluster."""
        features, grid = self.encoder(image), self.encoder.grid(*image.shape[-2:])
        found = segments_as_slots(self.cluster(features, grid), features, self.config.num_slots, grid)
        if self.config.smooth == 1:
            return found
        far = self.config.smooth // 2
        padded = F.pad(found.attn_maps, (far, far, far, far), mode="replicate")
        return replace(found, attn=F.avg_pool2d(padded, self.config.smooth, stride=1).flatten(2))

    def cluster(self, features: Float[Tensor, "b p c"], grid: tuple[int, int] | None = None) -> Tensor:
        """The cluster of every position, `b p`; positions are row major on the grid, by default that of the ViT."""
        config = self.config
        points = F.normalize(features, dim=2) if config.normalize else features
        if config.position_weight:
            scale = config.position_weight * points.norm(dim=2).mean(1).view(-1, 1, 1)
            points = torch.cat([points, scale * coordinates(grid or config.encoder.grid, points)], 2)
        return kmeans(points, config.num_slots, restarts=config.restarts, max_iterations=config.max_iterations)


def coordinates(grid: tuple[int, int], like: Float[Tensor, "b p c"]) -> Float[Tensor, "b p 2"]:
    """Row and column of every position, from -1 to 1."""
    axes = [torch.linspace(-1, 1, size, device=like.device, dtype=like.dtype) for size in grid]
    return torch.cartesian_prod(*axes).expand(len(like), -1, -1)
