"""What DINOSAUR and SPOT have in common between features and slots, with departures that small data need.

features --principal components--> points --MLP--> keys, and with coordinates values --Slot Attention--> slots

Every departure is a setting of `FeatureSlotOptions`, off by default: then this is what the two papers do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slotworks.nn.position import wave_coordinates
from slotworks.nn.principal import PrincipalComponents
from slotworks.slots.attention import SlotAttention
from slotworks.slots.initializers import INITIALIZERS, KMeansInit
from slotworks.types import Batch, Method, MethodConfig, SlotOutput, UserError


@dataclass(frozen=True)
class FeatureSlotOptions(MethodConfig):
    """Departures of DINOSAUR and SPOT from their papers; the recipes for photographs set them."""

    feature_components: int | None = None  # principal components in place of the features, here and as the target
    value_coordinates: bool = False  # add a patch's place to what slots gather there, not to where they look
    tied_queries: bool = False  # queries of Slot Attention start as copies of its keys
    kmeans_restarts: int = 8  # runs of k-means behind initializer kmeans outside of training; training makes one
    hidden_inputs: float = 0.0  # share of true features hidden from the Transformer decoder; 1: it sees slots alone


class FeatureSlots(Method):
    """The path from features to slots."""

    encoder: Any  # a `ViTEncoder`
    feature_mlp: nn.Sequential
    initializer: nn.Module
    slot_attention: SlotAttention
    components: PrincipalComponents | None
    waves: Tensor

    @staticmethod
    def width(config: Any) -> int:
        """How wide the features are that slots see and decoders predict."""
        return config.feature_components or config.encoder.feature_dim

    def _make_initializer(self, config: Any, projected_dim: int) -> nn.Module:
        if config.initializer == "kmeans":
            return KMeansInit(config.num_slots, projected_dim, config.slot_dim, restarts=config.kmeans_restarts)
        return INITIALIZERS[config.initializer](config.num_slots, config.slot_dim)

    def _add_departures(self, config: Any, projected_dim: int) -> None:
        """After all other parts, so that those start with the weights that they have without departures."""
        self.components = None
        if config.feature_components:
            self.components = PrincipalComponents(config.encoder.feature_dim, config.feature_components)
        self.coordinates = None
        if config.value_coordinates:
            self.coordinates = nn.Linear(10, projected_dim, bias=False)
            self.register_buffer("waves", wave_coordinates(*config.encoder.grid), persistent=False)
        if config.tied_queries:
            keys: Any = self.slot_attention.to_k
            queries: Any = self.slot_attention.to_q
            if keys.weight.shape != queries.weight.shape:
                raise ValueError(
                    f"method.tied_queries needs keys and queries of one shape, but features come {projected_dim} wide "
                    f"to slots of {config.slot_dim}; make them equal."
                )
            with torch.no_grad():
                queries.weight.copy_(keys.weight)

    def fit(self, batches: Iterable[Batch]) -> None:
        """Take the principal components of the training features, if the method has them."""
        if self.components is not None:
            self.components.fit(self.encoder.features_of(batch) for batch in batches)

    def points(self, features: Float[Tensor, "b p c"]) -> Float[Tensor, "b p k"]:
        """Features of the encoder as slots see them: as they are, or their principal components."""
        return features if self.components is None else self.components(features)

    def clusters(self, points: Float[Tensor, "b p k"], num_slots: int | None = None) -> Int64[Tensor, "b p"] | None:
        """The k-means clusters that slots start from; None with another initialiser."""
        return self.initializer.cluster(points, num_slots) if isinstance(self.initializer, KMeansInit) else None

    def assign(
        self,
        points: Float[Tensor, "b p k"],
        num_slots: int | None = None,
        num_iterations: int | None = None,
        clusters: Int64[Tensor, "b p"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> SlotOutput:
        """Points to slots. `clusters` are those to start from where the initialiser is k-means; by default fresh ones.

        `grid` is that of the points, by default that of training; coordinates are shares of the image, whatever it is.
        Outside of training `config.test_iterations` take the place of those of training.
        """
        if num_iterations is None and not self.training:
            num_iterations = self.config.test_iterations
        projected = self.feature_mlp(points)
        if isinstance(self.initializer, KMeansInit):
            clusters = self.initializer.cluster(points, num_slots) if clusters is None else clusters
            slots = self.initializer(clusters, projected, num_slots)
        else:
            slots = self.initializer(points.shape[0], num_slots)
        values = None
        if self.coordinates is not None:
            waves = self.waves
            if grid is not None and grid != self.config.encoder.grid:
                waves = wave_coordinates(*grid).to(waves)
            values = projected + self.coordinates(waves)
        out = self.slot_attention(projected, slots, num_iterations=num_iterations, value_features=values)
        return replace(out, grid=grid or self.config.encoder.grid)


def blend_with_start(
    attn: Float[Tensor, "b n p"], clusters: Int64[Tensor, "b p"] | None, weight: float
) -> Float[Tensor, "b n p"]:
    """A teacher's attention with a vote of the k-means clusters that its slots started from: still sums to one."""
    if clusters is None or not weight:
        return attn
    return (attn + weight * F.one_hot(clusters, attn.shape[1]).mT.to(attn.dtype)) / (1 + weight)


def check_same_features(student: FeatureSlots, teacher: FeatureSlots, folder: str) -> None:
    """A teacher sees what its student sees.

    Raises:
        UserError: if encoder, principal components or numbers of slots differ.
    """
    ours, theirs = student.config, teacher.config
    if theirs.encoder != replace(ours.encoder, trained_blocks=0):
        raise UserError(
            f"The teacher in {folder} looks at {theirs.encoder}, the student at {ours.encoder}; train both on the same "
            "encoder."
        )
    if theirs.feature_components != ours.feature_components:
        raise UserError(
            f"The teacher in {folder} has method.feature_components {theirs.feature_components}, the student "
            f"{ours.feature_components}; set both alike."
        )
    if theirs.num_slots > ours.num_slots:
        raise UserError(
            f"The teacher in {folder} has {theirs.num_slots} slots, method.num_slots is {ours.num_slots}; the student "
            "needs as many."
        )


def take_weights(method: Method, other: Method) -> list[str]:
    """Copy weights and buffers that have the same name and shape in both; returns their names."""
    own, given = method.state_dict(), other.state_dict()
    same = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    method.load_state_dict(same, strict=False)
    return list(same)
