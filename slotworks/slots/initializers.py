"""Where slots start. Each initialiser makes `b n d`; those with one set of parameters for all slots make any number."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slotworks.nn.clustering import kmeans
from slotworks.nn.init import glorot_, glorot_vector
from slotworks.nn.noise import batch_noise


def _check_count(initializer: nn.Module, num_slots: int | None, own: int) -> None:
    if num_slots not in (None, own):
        raise ValueError(
            f"{type(initializer).__name__} holds parameters for {own} slots and cannot make {num_slots}; train with "
            f"GaussianInit to change the number of slots afterwards."
        )


class GaussianInit(nn.Module):
    """Every slot is drawn from one learned Gaussian (Locatello et al. 2020, the default).

    Slots are exchangeable, so another number can be asked for at test time.

    >>> GaussianInit(num_slots=4, slot_dim=64)(2, num_slots=7).shape
    torch.Size([2, 7, 64])
    """

    def __init__(self, num_slots: int, slot_dim: int):
        super().__init__()
        self.num_slots = num_slots
        self.mu = glorot_vector(1, 1, slot_dim)
        self.log_sigma = glorot_vector(1, 1, slot_dim)

    def forward(self, batch_size: int, num_slots: int | None = None) -> Float[Tensor, "b n d"]:
        """Draw slots for a batch."""
        shape = (batch_size, num_slots or self.num_slots, self.mu.shape[-1])
        return self.mu + self.log_sigma.exp() * batch_noise(shape, self.mu.device, self.mu.dtype)


class PerSlotGaussianInit(nn.Module):
    """One learned Gaussian for each slot (supplement of Locatello et al. 2020, section 2, "slot initialization")."""

    def __init__(self, num_slots: int, slot_dim: int):
        super().__init__()
        self.mu = glorot_vector(1, num_slots, slot_dim)
        self.log_sigma = glorot_vector(1, num_slots, slot_dim)

    def forward(self, batch_size: int, num_slots: int | None = None) -> Float[Tensor, "b n d"]:
        """Draw slots for a batch."""
        _, own, slot_dim = self.mu.shape
        _check_count(self, num_slots, own)
        return self.mu + self.log_sigma.exp() * batch_noise((batch_size, own, slot_dim), self.mu.device, self.mu.dtype)


class LearnedInit(nn.Module):
    """One learned vector for each slot: the queries of BO-QSA (Jia et al. 2023), to be used with `gradient="bilevel"`.

    While training, `noise_scale` adds Gaussian noise times the (detached) query; BO-QSA lowers it from 1 to 0.
    """

    def __init__(self, num_slots: int, slot_dim: int):
        super().__init__()
        self.slots = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_slots, slot_dim)))
        self.noise_scale = 0.0

    def forward(self, batch_size: int, num_slots: int | None = None) -> Float[Tensor, "b n d"]:
        """The same slots for every image of a batch."""
        _check_count(self, num_slots, len(self.slots))
        slots = self.slots.expand(batch_size, -1, -1)
        if self.training and self.noise_scale:
            noise = batch_noise(tuple(slots.shape), slots.device, slots.dtype)
            slots = slots + self.noise_scale * noise * slots.detach()
        return slots


class BoxInit(nn.Module):
    """Slots from given boxes, one slot for each and one more, first, for the background (SAVi, Kipf et al. 2022).

    Boxes are `x0 y0 x1 y1` in [0, 1]; an absent box is all -1, as is every row that pads a batch (SAVi's absent
    boxes are zeros, like its background's, so their slots start equal). The background slot comes from a box of zeros.
    `input_dim=2` takes centres `x y` instead.
    """

    def __init__(self, slot_dim: int, hidden_dim: int = 256, input_dim: int = 4):
        super().__init__()
        self.mlp = glorot_(nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, slot_dim)))

    def forward(self, boxes: Float[Tensor, "b m x"]) -> Float[Tensor, "b n d"]:
        """`m` boxes to `m + 1` slots."""
        present = ~(boxes == -1).all(dim=-1, keepdim=True)
        if not (((boxes >= 0) & (boxes <= 1)) | ~present).all():
            low, high = boxes.min().item(), boxes.max().item()
            raise ValueError(f"Boxes lie between {low:g} and {high:g}; expected [0, 1], or -1 for an absent box.")
        return self.mlp(nn.functional.pad(boxes, (0, 0, 1, 0)))


class KMeansInit(nn.Module):
    """Slots start at the centroids of k-means clusters of the features they will look at, image by image.

    Features are clustered by direction (length 1), as the baseline `feature_kmeans` does, without a gradient; a slot is
    the mean of its cluster's *projected* features, through which a gradient flows. Clusters have no parameters, so any
    number of slots can be asked for. An empty cluster starts at zero.

    Args:
        num_slots: clusters.
        projected_dim: width of the projected features.
        slot_dim: width of a slot; a linear layer joins the two where they differ.
        restarts: runs of k-means outside of training, of which the best is kept; a step of training makes one.
        max_iterations: of each run.
    """

    def __init__(
        self, num_slots: int, projected_dim: int, slot_dim: int, *, restarts: int = 8, max_iterations: int = 15
    ):
        super().__init__()
        self.num_slots, self.restarts, self.max_iterations = num_slots, restarts, max_iterations
        same = projected_dim == slot_dim
        self.project = nn.Identity() if same else nn.Linear(projected_dim, slot_dim, bias=False)

    def cluster(self, features: Float[Tensor, "b p c"], num_slots: int | None = None) -> Int64[Tensor, "b p"]:
        """The cluster of every position, from 0; random numbers are those of the batch."""
        points = nn.functional.normalize(features.detach().float(), dim=2)
        restarts = 1 if self.training else self.restarts
        return kmeans(points, num_slots or self.num_slots, restarts=restarts, max_iterations=self.max_iterations)

    def forward(
        self, labels: Int64[Tensor, "b p"], projected: Float[Tensor, "b p c"], num_slots: int | None = None
    ) -> Float[Tensor, "b n d"]:
        """Slots from the clusters that `cluster` gave."""
        members = nn.functional.one_hot(labels, num_slots or self.num_slots).to(projected.dtype)
        weights = members / members.sum(1, keepdim=True).clamp(min=1)
        return self.project(weights.mT @ projected)


INITIALIZERS = {"gaussian": GaussianInit, "per_slot": PerSlotGaussianInit, "learned": LearnedInit}
"""Those that need nothing but a number of slots and a width, by the names that recipes use."""
