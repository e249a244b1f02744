"""COMUS: image -> salient object -> feature of its box -> clusters over the data set -> pseudo-masks. Learns nothing.

Zadaianchuk, Kleindessner, Zhu, Locatello, Brox 2023, "Unsupervised Semantic Segmentation with Self-supervised
Object-centric Representations", arXiv 2207.05027; code zadaianchuk/comus, read at 927a95d. `slotworks label` writes the
masks of the clusters, on which a segmenter is trained, and a second one on what the first sees: `configs/comus.py`.

The saliency is that of a BASNet that was trained without labels (`slotworks convert basnet_unsupervised.pth`), or, with
`saliency="spectral"`, of the second eigenvector of DINO's features (as in Deep Spectral Methods), which is ours and
needs no further network.

Differences from the released code: images are square; saliency is stretched to [0, 1] in each image, there over a
batch, so that it depends on the others in it; k-means is our own, and the eigenvectors are those of SciPy.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.encoders.basnet import BASNet
from slotworks.encoders.vit import load_network
from slotworks.nn.clustering import kmeans, laplacian_eigenvectors, segments_as_slots, spectral_embedding
from slotworks.nn.resize import resize, stretched
from slotworks.types import MethodConfig, SlotOutput, Untrained, UserError


@dataclass(frozen=True)
class ComusConfig(MethodConfig):
    """Settings of saliency and clusters; defaults are those of the released configs for VOC."""

    encoder: ViTConfig = field(
        default_factory=lambda: ViTConfig("facebook/dino-vits8", 256, 8, 384, features="keys", position_offset=0.1)
    )
    """the network whose CLS token describes a box, and whose features give the spectral saliency"""
    image_size: int = 512  # pixels, square
    saliency: Literal["basnet", "spectral"] = "basnet"  # where masks of objects come from
    basnet_width: int = 64  # channels of its first stage
    saliency_size: int = 256  # pixels, square: what the saliency network sees
    threshold: float = 0.5  # of the saliency, stretched to [0, 1]
    min_area: int = 400  # pixels; a smaller object is none
    box_size: int = 256  # pixels, square, to which the box of an object is resized
    num_neighbors: int = 30  # in the graph of boxes
    core: float = 0.8  # share of each cluster that is kept, the nearest to its centre; the rest is left open
    restarts: int = 10  # k-means runs; the best is kept

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.core <= 1:
            raise ValueError(f"method.core is {self.core}; it is a share above 0, at most 1.")

    @property
    def num_slots(self) -> int:
        """The background and the salient object."""
        return 2

    def build(self) -> "Comus":
        """Make the method; the network of features is loaded at the first image."""
        return Comus(self)


class Comus(Untrained):
    """Slot 0 is the background, slot 1 the salient object, empty where there is none."""

    config: ComusConfig

    def __init__(self, config: ComusConfig):
        super().__init__(config)
        self.encoder = ViTEncoder(config.encoder)
        self.basnet = None
        if config.saliency == "basnet":
            self.basnet = BASNet(config.basnet_width).requires_grad_(False)
        self._whole: tuple[Any] | None = None  # the network with its CLS token; in a tuple, it is no submodule

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_whole": None}

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to the background and the salient object: `attn` is one-hot, slots are mean colours."""
        size = (image.shape[-2], image.shape[-1])
        found = F.interpolate(self.salient(image)[:, None].double(), size, mode="nearest-exact")[:, 0].bool()
        found &= (found.sum((1, 2)) > self.config.min_area)[:, None, None]
        return segments_as_slots(found.long().flatten(1), image.flatten(2).mT, 2, size)

    def salient(self, image: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b y x"]:
        """Where the object is, on a map of its own size.

        Raises:
            UserError: the saliency network has no weights yet.
        """
        config = self.config
        if self.basnet is None:
            return self._spectral(image)
        if not self.basnet.get_buffer("stem.1.num_batches_tracked"):
            raise UserError(
                "COMUS has no weights of its saliency network: `slotworks convert basnet_unsupervised.pth --out RUN` "
                "makes a run folder that has them; or set method.saliency=spectral."
            )
        with torch.no_grad():
            values = self.basnet.eval()(resize(image, config.saliency_size))
        return stretched(values[:, None])[:, 0] > config.threshold

    def _spectral(self, image: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b y x"]:
        """The side of the second eigenvector that has less of the image's border."""
        side = self.config.encoder.image_size
        features = F.normalize(self.encoder(resize(image, side)), dim=2)
        grid = self.encoder.grid(side, side)
        _, vectors = laplacian_eigenvectors((features @ features.mT).clamp(min=0), 2)
        maps = vectors[..., 1].unflatten(1, grid) > 0
        border = torch.cat([maps[:, 0], maps[:, -1], maps[:, :, 0], maps[:, :, -1]], 1).double().mean(1)
        return maps ^ (border > 0.5)[:, None, None]

    def describe(self, image: Float[Tensor, "b 3 h w"], output: SlotOutput) -> Float[Tensor, "b n d"]:
        """For the object the CLS feature of its box; NaN for the background and where there is no object."""
        network, vit = self._network(image), self.config.encoder
        mean, std = (image.new_tensor(values)[:, None, None] for values in (vit.mean, vit.std))
        found = image.new_full((len(image), 2, network.config.hidden_size), torch.nan)
        masks = output.attn_maps[:, 1] > 0.5
        there = masks.flatten(1).any(1).nonzero().flatten().tolist()
        for b in there:
            rows, columns = masks[b].any(1).nonzero().flatten(), masks[b].any(0).nonzero().flatten()
            box = image[b : b + 1, :, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
            crop = F.interpolate(box, (self.config.box_size, self.config.box_size), mode="bilinear")
            with torch.no_grad():
                tokens = network((crop - mean) / std, interpolate_pos_encoding=True).last_hidden_state[0]
            has_cls = len(tokens) > (self.config.box_size // vit.patch_size) ** 2
            found[b, 1] = tokens[0] if has_cls else tokens.mean(0)
        return found

    def cluster(
        self, vectors: Float[Tensor, "i n d"], used: Bool[Tensor, "i n"], num_clusters: int
    ) -> Int64[Tensor, "i n"]:
        """Spectral clusters of the objects, from 1 on; 0 is the background.

        -1 is claimed of nothing: of images without an object, and of those whose object is far from the centre of its
        cluster.
        """
        chosen = used & ~vectors.isnan().any(2)
        clusters = torch.full(chosen.shape, -1)
        points = vectors[chosen]
        wanted = min(num_clusters, len(points.unique(dim=0)))
        if wanted:
            maps = spectral_embedding(points, min(self.config.num_neighbors, len(points)), wanted)
            labels = kmeans(maps[None].float(), wanted, restarts=self.config.restarts)[0]
            kept = core_of(maps, labels, self.config.core)
            clusters[chosen] = torch.where(kept, labels + 1, -1)
        claimed = (clusters > 0).any(1)
        clusters[claimed, 0] = 0
        return clusters

    def _network(self, image: Tensor) -> Any:
        if self._whole is None:
            self._whole = (load_network(replace(self.config.encoder, layer=-1, features="normed"))[0],)
        return self._whole[0].to(image.device)


def core_of(points: Float[Tensor, "n e"], labels: Int64[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
    """Which points are, by the cosine, among this share of their cluster that is nearest to its mean.

    The released code leaves out one more, the point that is as far as the share ends, and so all of equal points.
    """
    if share == 1:
        return torch.ones_like(labels, dtype=torch.bool)
    kept = torch.zeros_like(labels, dtype=torch.bool)
    for number in labels.unique().tolist():
        own = labels == number
        centre = points[own].mean(0, keepdim=True)
        distance = 1 - F.cosine_similarity(points[own], centre)
        kept[own] = distance <= torch.quantile(distance, share)
    return kept
